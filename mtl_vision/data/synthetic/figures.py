"""People, four-legged animals and birds."""

import numpy as np

from mtl_vision.data.synthetic import labels as L
from mtl_vision.data.synthetic import materials as mt
from mtl_vision.data.synthetic.shapes import (
    Model,
    Prim,
    ball,
    bounds,
    limb,
    place,
    prism,
    rot_x,
    rot_y,
    rot_z,
    tube,
)

Rng = np.random.Generator
POSES = ("stand", "walk", "run", "reach", "sit", "ride")


def _aim(pitch: float, spread: float) -> np.ndarray:
    """Direction of a limb: `pitch` forward (towards -z) from hanging down, `spread` sideways."""
    return np.array(
        [np.sin(spread), -np.cos(pitch) * np.cos(spread), -np.sin(pitch) * np.cos(spread)]
    )


def _angles(rng: Rng, pose: str) -> dict[str, tuple[float, float]]:
    """(left, right) angles of hips, knees, shoulders, elbows; `out` is the arms' spread."""
    swing = {"walk": 0.45, "run": 0.9}.get(pose, 0.08) * rng.uniform(0.5, 1.2)
    swing *= rng.choice([-1, 1])
    hips, knees = np.array([swing, -swing]), np.array([0.1, 0.1]) + max(-swing, swing) * 0.6
    shoulders, elbows = -0.8 * hips, np.full(2, {"run": 1.5}.get(pose, 0.25))
    out = rng.uniform(0.05, 0.35, 2)
    if pose in ("sit", "ride"):
        hips, knees = rng.uniform(1.25, 1.55, 2), rng.uniform(1.2, 1.7, 2)
        shoulders, elbows = rng.uniform(0.2, 0.7, 2), rng.uniform(0.6, 1.4, 2)
    if pose == "ride":
        hips, knees = rng.uniform(0.7, 1.2, 2), rng.uniform(0.7, 1.5, 2)
        shoulders, elbows = np.full(2, rng.uniform(0.8, 1.1)), rng.uniform(0.1, 0.5, 2)
    if pose == "reach" or rng.random() < 0.25:
        side = rng.integers(2)
        shoulders[side], out[side] = rng.uniform(0.6, 2.9), rng.uniform(0.0, 1.2)
        elbows[side] = rng.uniform(0.0, 1.8)
    jitter = rng.uniform(-0.12, 0.12, (4, 2))
    values = np.stack([hips, knees, shoulders, elbows]) + jitter
    return dict(zip(("hip", "knee", "shoulder", "elbow"), values, strict=True)) | {"out": out}


def person(rng: Rng, pose: str | None = None) -> Model:
    """An articulated figure with human parts; `top` is the height of its seat (0 if standing)."""
    pose = str(rng.choice(POSES[:4], p=[0.35, 0.3, 0.15, 0.2])) if pose is None else pose
    angle = _angles(rng, pose)
    wide = rng.uniform(0.85, 1.25)
    skin, hair = mt.skin(rng), mt.hair(rng)
    top, trousers = mt.fabric(rng), mt.fabric(rng)
    shoes = mt.paint(rng)
    lean = rot_x(-{"run": 0.25, "ride": 0.35}.get(pose, 0.03) * rng.uniform(0.3, 1.4))
    prims: list[Prim] = []
    shoulder = 0.19 * wide
    # The hip is the origin until the feet are known.
    chest, neck = lean @ [0, 0.42, 0], lean @ [0, 0.54, 0]
    prims.append(limb([0, 0.02, 0], chest * 0.75, (0.15 * wide, 0.165 * wide), top, part=L.TORSO))
    turn = lean @ rot_z(np.pi / 2)
    prims.append(ball(lean @ [0, 0.4, 0], (0.26, 0.42 * wide, 0.25), top, turn=turn, part=L.TORSO))
    prims.append(limb(neck * 0.96, neck * 1.12, (0.06, 0.055), skin, part=L.TORSO))
    prims += _head(rng, neck * 1.12, lean, skin, hair)
    bare_arms, bare_legs = rng.random() < 0.45, rng.random() < 0.25
    sleeve = skin if rng.random() < 0.15 else top
    for i, side in enumerate((-1, 1)):
        joint = lean @ [side * shoulder, 0.47, 0]
        elbow = joint + lean @ _aim(angle["shoulder"][i], side * angle["out"][i]) * 0.29
        fore = _aim(angle["shoulder"][i] + angle["elbow"][i], side * angle["out"][i] * 0.3)
        hand = elbow + lean @ fore * 0.25
        lower = skin if bare_arms else sleeve
        prims.append(limb(joint, elbow, (0.062 * wide, 0.048 * wide), sleeve, part=L.UPPER_ARM))
        prims.append(limb(elbow, hand, (0.046 * wide, 0.036), lower, part=L.LOWER_ARM))
        prims.append(limb(hand, hand + fore * 0.08, (0.042, 0.032), skin, part=L.LOWER_ARM))
        prims += _leg(angle, i, side, wide, (trousers, skin if bare_legs else trousers, shoes))
    if pose in ("stand", "walk") and rng.random() < 0.2:
        skirt = tube([0, 0.05, 0], [0, -0.4, 0], (0.17 * wide, 0.28 * wide), trousers)
        prims.append(skirt._replace(part=L.UPPER_LEG))
    height = rng.uniform(0.72, 1.08)
    low, _ = bounds(prims)
    prims = place(prims, (0, -low[1] * height, 0), scale=height)
    return Model(prims, (-low[1] - 0.12) * height)


def _head(rng: Rng, base, lean, skin, hair) -> list[Prim]:
    nod = lean @ rot_y(rng.uniform(-0.6, 0.6)) @ rot_x(rng.uniform(-0.25, 0.25))
    centre = base + nod @ [0, 0.11, -0.02]
    prims = [ball(centre, (0.17, 0.24, 0.2), skin, turn=nod, part=L.HEAD)]
    style = rng.random()
    if style < 0.85:
        size = (0.195, rng.uniform(0.19, 0.25), 0.21)
        middle = centre + nod @ [0, 0.035, 0.03]
        prims.append(ball(middle, size, hair, turn=nod, part=L.HEAD))
    if style < 0.3:
        prims.append(
            ball(centre + nod @ [0, -0.06, 0.06], (0.2, 0.32, 0.13), hair, turn=nod, part=L.HEAD)
        )
    if style > 0.75:
        hat = mt.fabric(rng)
        low, high = centre + nod @ [0, 0.05, 0], centre + nod @ [0, 0.16, 0]
        prims.append(tube(low, high, (0.11, 0.08), hat, part=L.HEAD))
        brim = centre + nod @ [0, 0.06, 0]
        prims.append(ball(brim, (0.28, 0.03, 0.3), hat, turn=nod, part=L.HEAD))
    dark = mt.black(rng)
    for side in (-1, 1):
        eye = centre + nod @ [side * 0.035, 0.015, -0.088]
        prims.append(ball(eye, (0.03, 0.02, 0.02), dark, turn=nod, part=L.HEAD))
    nose = centre + nod @ [0, -0.02, -0.1]
    prims.append(ball(nose, (0.03, 0.05, 0.04), skin, turn=nod, part=L.HEAD))
    return prims


def _leg(angle, i: int, side: int, wide: float, cloth) -> list[Prim]:
    upper, lower, shoes = cloth
    joint = np.array([side * 0.09 * wide, 0, 0])
    knee = joint + _aim(angle["hip"][i], side * 0.05) * 0.43
    shin = _aim(angle["hip"][i] - angle["knee"][i], side * 0.02)
    ankle = knee + shin * 0.42
    toe = ankle + np.array([side * 0.03, -0.045, -0.17])
    return [
        limb(joint, knee, (0.092 * wide, 0.066 * wide), upper, part=L.UPPER_LEG),
        limb(knee, ankle, (0.062 * wide, 0.045 * wide), lower, part=L.LOWER_LEG),
        limb(ankle + [0, -0.02, 0.02], toe, (0.05, 0.042), shoes, part=L.LOWER_LEG),
    ]


# Per species, in metres: body length, body radius, leg length, neck length, head size,
# snout length, tail length; then ears (pointed, hanging, sideways) and the chance of patches.
SPECIES = {
    "horse": (1.25, 0.33, 0.95, 0.75, 0.24, 0.38, 0.75, "pointed", 0.2),
    "cow": (1.45, 0.40, 0.72, 0.35, 0.27, 0.28, 0.75, "sideways", 0.6),
    "sheep": (0.80, 0.30, 0.40, 0.20, 0.19, 0.14, 0.12, "sideways", 0.05),
    "dog": (0.55, 0.15, 0.36, 0.18, 0.17, 0.14, 0.30, "hanging", 0.35),
    "cat": (0.36, 0.10, 0.19, 0.07, 0.13, 0.03, 0.32, "pointed", 0.5),
}


def animal(rng: Rng, species: str) -> Model:
    """A four-legged animal; `top` is the height of its back."""
    length, girth, leg, neck, head, snout, tail, ears, patched = SPECIES[species]
    length, girth, leg, neck, head, snout, tail = (
        v * rng.uniform(0.85, 1.2) for v in (length, girth, leg, neck, head, snout, tail)
    )
    coat = mt.fur(rng, patched)
    far = coat if rng.random() < 0.6 else mt.fur(rng, 0)
    sitting = species in ("dog", "cat") and rng.random() < 0.3
    lying = not sitting and rng.random() < 0.12
    rise = leg * (0.25 if lying else 1.0)
    tip = rot_x(0.75) if sitting else np.eye(3)
    middle = np.array([0, rise + girth * 0.8 + (0.15 * length if sitting else 0), 0])
    front, back = middle + tip @ [0, 0, -length / 2], middle + tip @ [0, 0, length / 2]
    sag = 1 if species != "cow" else 1.1
    prims = [limb(front, back, (girth * sag, girth * 0.92), coat)]
    if species == "sheep":
        prims += _wool(rng, middle, length, girth, coat)
    lift = rng.uniform(0.1, 1.2) if species in ("horse", "dog", "cat") else rng.uniform(-0.6, 0.6)
    turn = rot_y(rng.uniform(-0.7, 0.7))
    base = front + [0, girth * 0.4, -girth * 0.3]
    skull = base + turn @ np.array([0, np.sin(lift), -np.cos(lift)]) * neck
    prims.append(limb(base, skull, (girth * 0.62, head * 0.52), coat))
    prims += _muzzle(rng, species, skull, (head, snout, ears), coat, far, turn)
    prims += _legs(rng, (front, back), girth, rise, species, coat, far)
    rump = back + tip @ [0, girth * 0.5, girth * 0.7]
    fall = -1.2 if species in ("horse", "cow") else rng.uniform(-0.6, 1.1)
    end = rump + np.array([rng.uniform(-0.3, 0.3), np.sin(fall), np.cos(fall)]) * tail
    thick = {"horse": 0.07, "sheep": 0.05}.get(species, 0.025)
    prims.append(limb(rump, end, (thick, thick * 0.7), mt.hair(rng) if species == "horse" else far))
    if species == "horse":
        mane = mt.hair(rng)
        up = np.array([0, 0.12, 0.1])
        prims.append(limb(base + up, skull + up, (0.07, 0.06), mane))
    low, _ = bounds(prims)
    size = rng.uniform(0.85, 1.15)
    return Model(place(prims, (0, -low[1] * size, 0), scale=size), (middle[1] + girth) * size)


def _wool(rng: Rng, middle, length: float, girth: float, coat) -> list[Prim]:
    prims = []
    for z in np.linspace(-0.5, 0.5, 4):
        for x in (-0.55, 0.55):
            at = middle + [x * girth, rng.uniform(0.1, 0.4) * girth, z * length]
            prims.append(ball(at, girth * rng.uniform(1.1, 1.5, 3), coat))
    return prims


def _muzzle(rng: Rng, species: str, skull, sizes, coat, far, turn) -> list[Prim]:
    head, snout, ears = sizes
    round_head = (head, head, head * 1.1) if species == "cat" else (head * 0.85, head, head * 1.2)
    prims = [ball(skull, round_head, coat, turn=turn)]
    drop = 0.75 if species in ("horse", "cow", "sheep") else 0.25
    nose = skull + turn @ [0, -drop * snout, -snout - head * 0.2]
    prims.append(
        limb(skull + turn @ [0, -0.1 * head, -0.2 * head], nose, (head * 0.36, head * 0.24), far)
    )
    dark = mt.black(rng)
    prims.append(ball(nose + turn @ [0, 0, -head * 0.18], np.full(3, head * 0.2), dark))
    for side in (-1, 1):
        eye = skull + turn @ [side * head * 0.33, head * 0.15, -head * 0.42]
        prims.append(ball(eye, np.full(3, head * 0.14), dark))
        root = skull + turn @ [side * head * 0.33, head * 0.35, head * 0.1]
        way = {"pointed": (0.15, 0.6, 0), "hanging": (0.35, -0.5, 0), "sideways": (0.7, 0.1, 0)}
        tip = root + turn @ (np.array(way[ears]) * (side, 1, 1)) * head * 0.9
        thick = head * 0.16
        if ears == "pointed":
            prims.append(tube(root, tip, (head * 0.2, head * 0.02), coat))
        else:
            prims.append(limb(root, tip, (thick, thick * 0.8), far))
        if species == "cow" and rng.random() < 0.8:
            horn = root + turn @ [side * head * 0.6, head * 0.6, 0]
            prims.append(tube(root, horn, (head * 0.12, head * 0.03), mt.paint(rng)))
    return prims


def _legs(rng: Rng, ends, girth: float, rise: float, species: str, coat, far) -> list[Prim]:
    prims = []
    thick = girth * (0.3 if species in ("horse", "cow", "sheep") else 0.38)
    stride = rng.uniform(0, 0.35)
    for end, bend in zip(ends, (-1, 1), strict=True):
        for side in (-1, 1):
            hip = np.array([side * girth * 0.6, end[1] - girth * 0.3, end[2]])
            swing = side * bend * stride * rise * rng.uniform(0.3, 1)
            knee = hip * (1, 0.5, 1) + [0, 0, swing * 0.5 + 0.06 * rise * bend]
            foot = np.array([hip[0], 0.05 * rise, hip[2] + swing])
            prims.append(limb(hip, knee, (thick, thick * 0.6), coat))
            prims.append(limb(knee, foot, (thick * 0.55, thick * 0.45), far))
    return prims


def bird(rng: Rng, flying: bool = False) -> Model:
    """A bird, perched or with its wings spread."""
    coat = mt.fur(rng, 0.1) if rng.random() < 0.6 else mt.paint(rng)
    wing = coat if rng.random() < 0.5 else mt.fur(rng, 0.2)
    beak = mt.paint(rng, mt.hsv(rng.uniform(0.05, 0.15), 0.7, rng.uniform(0.3, 0.95)))
    length, fat = rng.uniform(0.22, 0.34), rng.uniform(0.13, 0.2)
    tip = rot_x(0.1 if flying else rng.uniform(0.1, 0.8))
    neck = rng.uniform(0.02, 0.2) if rng.random() < 0.4 else 0.03
    centre = np.array([0, 0.3, 0.0])
    prims = [ball(centre, (fat, fat, length), coat, turn=tip)]
    shoulder = centre + tip @ [0, fat * 0.25, -length * 0.4]
    skull = shoulder + np.array([0, neck + 0.04, -0.03 - neck * 0.2])
    prims.append(limb(shoulder, skull, (fat * 0.3, 0.04), coat))
    prims.append(ball(skull, (0.085, 0.085, 0.1), coat))
    prims.append(
        tube(
            skull + [0, 0, -0.03],
            skull + [0, -0.01, -rng.uniform(0.08, 0.16)],
            (0.022, 0.004),
            beak,
        )
    )
    dark = mt.black(rng)
    prims += [ball(skull + [s * 0.035, 0.015, -0.025], np.full(3, 0.016), dark) for s in (-1, 1)]
    tail = centre + tip @ [0, 0, length * 0.75]
    prims.append(prism(tail, (0.1, 0.15, 0.02), (-0.0, 0.3), wing, turn=tip @ rot_x(np.pi / 2)))
    for side in (-1, 1):
        if flying:
            raise_ = side * rng.uniform(-0.2, 0.7)
            reach = rng.uniform(0.35, 0.55)
            turn = rot_z(raise_) @ rot_z(-side * np.pi / 2)
            at = centre + rot_z(raise_) @ [side * reach / 2, 0.03, -0.02]
            prims.append(prism(at, (0.02, reach, 0.2), (0.5, 0.7), wing, turn=turn))
        else:
            at = centre + tip @ [side * fat * 0.42, 0.01, 0.03]
            prims.append(ball(at, (fat * 0.3, fat * 0.8, length * 0.85), wing, turn=tip))
            hip = centre + [side * fat * 0.2, -fat * 0.3, 0.02]
            prims.append(limb(hip, hip * (1, 0, 1) + [0, 0.02, 0], (0.012, 0.01), beak))
            prims.append(ball(hip * (1, 0, 1) + [0, 0.012, -0.02], (0.05, 0.02, 0.08), beak))
    low, _ = bounds(prims)
    size = rng.uniform(0.8, 2.0)
    return Model(place(prims, (0, -low[1] * size, 0), scale=size))
