"""Cars, buses, trains, bicycles and motorbikes."""

import numpy as np

from mtl_vision.data.synthetic import materials as mt
from mtl_vision.data.synthetic import textures as tx
from mtl_vision.data.synthetic.shapes import (
    PRISM,
    Model,
    Prim,
    ball,
    box,
    limb,
    place,
    prism,
    ring,
    rot_x,
    tube,
)

Rng = np.random.Generator
SIDE = np.array([1.0, 0.0, 0.0])


def body_paint(rng: Rng) -> mt.Material:
    paint = mt.paint(rng, gloss=rng.uniform(0.2, 0.8))
    if rng.random() < 0.25:
        return paint._replace(texture=tx.STRIPES, scale=rng.uniform(0.1, 0.4), turned=True)
    return paint


def _wheels(rng: Rng, xs, zs, radius: float, width: float) -> list[Prim]:
    tyre, hub = mt.black(rng), mt.metal(rng)
    prims = []
    for x in xs:
        for z in zs:
            at = np.array([x, radius, z])
            reach = SIDE * width / 2
            prims.append(tube(at - reach, at + reach, (radius, radius), tyre))
            out = at + np.sign(x) * reach * 1.08
            prims.append(tube(at, out, (radius * 0.6, radius * 0.55), hub))
    return prims


def car(rng: Rng) -> Model:
    """Saloon, hatchback, estate or van; faces -z."""
    length, width = rng.uniform(3.4, 4.9), rng.uniform(1.6, 1.9)
    radius = rng.uniform(0.29, 0.38)
    waist, roof = rng.uniform(0.78, 0.95), rng.uniform(1.35, 1.85)
    body, glass = body_paint(rng), mt.glass(rng)
    hull = box((0, (radius * 0.7 + waist) / 2, 0), (width, waist - radius * 0.7, length), body)
    start, end = rng.uniform(-0.28, -0.12), rng.uniform(0.22, 0.46)
    middle, cabin = (start + end) / 2 * length, (end - start) * length
    slope = rng.uniform(0.15, 0.45)
    high = roof - waist
    glasshouse = prism(
        (0, waist + high / 2, middle),
        (width * 0.94, high, cabin),
        (rng.uniform(0.1, 0.3), slope),
        glass,
    )
    cap = (width * 0.94 * 0.8, 0.05, cabin * (1 - slope) * 1.02)
    prims = [hull, glasshouse, box((0, roof, middle), cap, body)]
    pillar = width * 0.43
    for side in (-1, 1):
        low, top = (
            np.array([side * width * 0.465, waist, middle]),
            [side * pillar * 0.9, roof, middle],
        )
        prims.append(limb(low, np.array(top), (0.035, 0.03), body))
        light = mt.paint(rng, np.array([0.9, 0.9, 0.8]), 0.9)._replace(glow=0.4)
        red = mt.paint(rng, np.array([0.6, 0.02, 0.02]), 0.5)._replace(glow=0.2)
        at = side * width * 0.36
        prims.append(ball((at, waist * 0.75, -length / 2), (0.3, 0.16, 0.12), light))
        prims.append(box((at, waist * 0.8, length / 2), (0.25, 0.18, 0.04), red))
    prims.append(box((0, radius * 0.9, 0), (width * 0.97, 0.16, length * 1.03), mt.black(rng)))
    nose = rng.uniform(0.06, 0.14)
    prims.append(box((0, waist * 0.62, -length / 2), (width * 0.5, nose, 0.03), mt.black(rng)))
    at = width / 2 - 0.09
    prims += _wheels(rng, (-at, at), (-length * 0.31, length * 0.3), radius, 0.22)
    return Model(prims)


def _windows(rng: Rng, size, count: int, band: tuple[float, float]) -> list[Prim]:
    """Panes on both long sides of a body of `size` = (width, length); `band` is (bottom, top)."""
    width, length = size
    glass = mt.glass(rng)
    pitch = length * 0.94 / count
    prims = []
    for i in range(count):
        z = -length * 0.47 + (i + 0.5) * pitch
        extent = (width * 1.012, band[1] - band[0], pitch * 0.82)
        prims.append(box((0, (band[0] + band[1]) / 2, z), extent, glass))
    return prims


def bus(rng: Rng) -> Model:
    width, length, height = 2.5, rng.uniform(7.5, 11.5), rng.uniform(2.8, 3.3)
    double = rng.random() < 0.2
    height += 1.3 * double
    body = body_paint(rng)
    prims = [box((0, (height + 0.4) / 2, 0), (width, height - 0.4, length), body)]
    count = int(rng.integers(4, 8))
    prims += _windows(rng, (width, length), count, (1.3, 2.2))
    if double:
        prims += _windows(rng, (width, length), count, (2.8, 3.7))
    glass = mt.glass(rng)
    prims.append(box((0, 1.75, -length / 2), (width * 0.9, 1.1, 0.05), glass))
    prims.append(box((0, 1.9, length / 2), (width * 0.8, 0.7, 0.05), glass))
    sign = mt.black(rng)._replace(glow=0.1)
    prims.append(box((0, height - 0.25, -length / 2), (width * 0.7, 0.25, 0.06), sign))
    lamp = mt.paint(rng, np.array([0.9, 0.9, 0.7]), 0.9)._replace(glow=0.5)
    prims += [ball((s * 0.9, 0.75, -length / 2), (0.3, 0.22, 0.1), lamp) for s in (-1, 1)]
    prims.append(box((0, 0.85, 0), (width * 1.01, rng.uniform(0.1, 0.3), length), mt.paint(rng)))
    prims += _wheels(rng, (-1.1, 1.1), (-length * 0.3, length * 0.3), 0.48, 0.3)
    return Model(prims)


def train(rng: Rng) -> Model:
    """A locomotive and its carriages on a pair of rails."""
    width, height, body = 2.9, rng.uniform(3.4, 3.9), body_paint(rng)
    length, pitch = rng.uniform(10, 16), 0.6
    count = int(rng.integers(1, 3))
    round_roof = rng.random() < 0.5
    prims = []
    for i in range(count + 1):
        z = i * (length + pitch)
        skin = body if i == 0 or rng.random() < 0.7 else body_paint(rng)
        extent = (width, height - 1.0, length)
        prims.append(box((0, 1.0 + (height - 1.0) / 2, z), extent, skin))
        if round_roof:
            ends = [np.array([0, height - 0.25, z + s * (length / 2 - 0.7)]) for s in (-1, 1)]
            prims.append(limb(*ends, (0.72, 0.72), mt.metal(rng)))
        panes = _windows(rng, (width, length), int(rng.integers(4, 8)), (2.0, height - 0.6))
        prims += place(panes, (0, 0, z))
        prims.append(box((0, 0.75, z), (width * 0.8, 0.5, length * 0.95), mt.black(rng)))
        for s in (-0.36, -0.24, 0.24, 0.36):
            at = np.array([0, 0.45, z + s * length])
            prims.append(tube(at - 0.9 * SIDE, at + 0.9 * SIDE, (0.45, 0.45), mt.black(rng)))
    front = -length / 2
    nose = _nose_matrix(width, height, front)
    prims.append(Prim(PRISM, nose, body, rng.uniform(0.0, 0.6), 0.15))
    prims.append(box((0, 2.6, front - 0.55), (width * 0.7, 0.8, 0.95), mt.glass(rng)))
    lamp = mt.paint(rng, np.array([0.9, 0.9, 0.7]), 0.9)._replace(glow=0.6)
    prims += [ball((s, 1.4, front - 0.95), (0.35, 0.35, 0.2), lamp) for s in (-0.9, 0.9)]
    return Model(prims)


def _nose_matrix(width: float, height: float, front: float) -> np.ndarray:
    """A prism whose tip points to -z: its own y axis is -z, its x is up, its z is sideways."""
    axes = np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]])
    half = np.array([(height - 1) / 2, 0.5, width / 2])
    return np.concatenate([axes * half, [[0], [1 + (height - 1) / 2], [front - 0.5]]], 1)


def bicycle(rng: Rng) -> Model:
    """Two spoked wheels and a diamond frame; `top` is the saddle's height."""
    radius, base = rng.uniform(0.3, 0.36), rng.uniform(0.95, 1.1)
    frame, tyre, thin = mt.paint(rng), mt.black(rng), mt.metal(rng)
    rear, front = np.array([0, radius, base / 2]), np.array([0, radius, -base / 2])
    crank = np.array([0, radius * 0.85, 0.08])
    seat, head = np.array([0, 0.78, 0.22]), np.array([0, 0.8, -base / 2 + 0.16])
    prims = [ring(c, radius, 0.9, 0.045, tyre, axis=SIDE) for c in (rear, front)]
    for c in (rear, front):
        spin = rng.uniform(0, np.pi)
        for i in range(4):
            way = np.array([0, np.cos(spin + i * np.pi / 4), np.sin(spin + i * np.pi / 4)])
            prims.append(limb(c - way * radius * 0.9, c + way * radius * 0.9, (0.006, 0.006), thin))
    t = rng.uniform(0.016, 0.024)
    pairs = ((crank, seat), (crank, head), (seat, head), (rear, seat), (rear, crank), (front, head))
    drop = rng.random() < 0.3  # a step-through frame has no top tube
    prims += [limb(p, q, (t, t), frame) for i, (p, q) in enumerate(pairs) if not (drop and i == 2)]
    bar = head + [0, 0.18, 0.02]
    prims.append(limb(head, bar, (t, t), thin))
    prims.append(limb(bar - 0.27 * SIDE, bar + 0.27 * SIDE, (t, t), tyre))
    prims.append(limb(seat, seat + [0, 0.1, 0.02], (t * 0.8, t * 0.8), thin))
    prims.append(ball(seat + [0, 0.13, 0.02], (0.16, 0.07, 0.27), tyre))
    wheel = crank + 0.04 * SIDE
    prims.append(tube(wheel, wheel + 0.01 * SIDE, (0.09, 0.09), thin))
    for s in (-1, 1):
        foot = crank + [s * 0.1, s * 0.15, 0.05]
        prims.append(limb(crank + s * 0.06 * SIDE, foot, (0.014, 0.014), thin))
        prims.append(box(foot, (0.1, 0.025, 0.08), tyre))
    return Model(prims, 0.9)


def motorbike(rng: Rng) -> Model:
    radius, base = rng.uniform(0.3, 0.36), rng.uniform(1.2, 1.45)
    paint, tyre, chrome = body_paint(rng), mt.black(rng), mt.metal(rng)
    rear, front = np.array([0, radius, base / 2]), np.array([0, radius, -base / 2])
    prims = [ring(c, radius, 0.62, rng.uniform(0.11, 0.18), tyre, axis=SIDE) for c in (rear, front)]
    prims += [
        tube(c - 0.03 * SIDE, c + 0.03 * SIDE, (radius * 0.62,) * 2, chrome) for c in (rear, front)
    ]
    head = np.array([0, 0.95, -base / 2 + 0.3])
    prims.append(ball((0, 0.78, -0.15), (0.3, 0.28, 0.55), paint))
    prims.append(ball((0, 0.78, 0.35), (0.28, 0.15, 0.75), mt.fabric(rng)))
    prims.append(box((0, 0.42, -0.02), (0.3, 0.36, 0.42), chrome))
    prims.append(ball((0, 0.72, base / 2 + 0.05), (0.2, 0.1, 0.5), paint))
    for s in (-1, 1):
        prims.append(limb(front + [s * 0.09, 0, 0], head + [s * 0.07, 0, 0], (0.03, 0.03), chrome))
        pipe = np.array([s * 0.17, radius * 0.9, 0.1])
        prims.append(limb(pipe, pipe + [0, 0.03, base * 0.5], (0.045, 0.055), chrome))
        grip = head + [s * 0.36, 0.14, 0.12]
        prims.append(limb(head + [0, 0.08, 0], grip, (0.018, 0.024), tyre))
    lamp = mt.paint(rng, np.array([0.9, 0.9, 0.8]), 0.9)._replace(glow=0.5)
    prims.append(ball(head + [0, -0.05, -0.13], (0.19, 0.19, 0.14), lamp))
    if rng.random() < 0.5:
        prims.append(
            prism(
                head + [0, 0.15, -0.08], (0.34, 0.3, 0.03), (0.4, 0), mt.glass(rng), turn=rot_x(0.5)
            )
        )
    prims.append(limb((0, 0.55, -0.05), rear, (0.05, 0.04), chrome))
    return Model(prims, 0.84)
