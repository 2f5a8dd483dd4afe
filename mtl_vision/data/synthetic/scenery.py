"""Surroundings of the outdoor domain: ground, sky, plants, buildings, rooms; all background."""

import numpy as np

from mtl_vision.data.synthetic import furniture
from mtl_vision.data.synthetic import materials as mt
from mtl_vision.data.synthetic import textures as tx
from mtl_vision.data.synthetic.layout import Floor, Thing, direction, footprint, moved, sky
from mtl_vision.data.synthetic.shading import Lighting
from mtl_vision.data.synthetic.shapes import Model, ball, box, limb, plane, prism, tube

Rng = np.random.Generator


def tree(rng: Rng) -> Model:
    """A leafy tree or a fir."""
    tall, leaf = rng.uniform(3.5, 9), mt.foliage(rng)
    trunk = mt.wood(rng)
    prims = [tube((0, 0, 0), (0, tall * 0.6, 0), (tall * 0.035, tall * 0.015), trunk)]
    if rng.random() < 0.3:
        for i in range(4):
            low, reach = tall * (0.15 + 0.2 * i), tall * (0.26 - 0.055 * i)
            prims.append(tube((0, low, 0), (0, low + tall * 0.32, 0), (reach, 0.02), leaf))
        return Model(prims)
    for _ in range(int(rng.integers(5, 9))):
        at = rng.normal(0, 0.13, 3) * tall + [0, tall * 0.72, 0]
        prims.append(ball(at, tall * rng.uniform(0.2, 0.42, 3), leaf))
    return Model(prims)


def bush(rng: Rng) -> Model:
    leaf, size = mt.foliage(rng), rng.uniform(0.4, 1.3)
    prims = []
    for _ in range(int(rng.integers(3, 6))):
        at = rng.normal(0, 0.3, 3) * size + [0, size * 0.35, 0]
        prims.append(ball(at, size * rng.uniform(0.6, 1.0, 3), leaf))
    return Model(prims)


def rock(rng: Rng) -> Model:
    size = rng.uniform(0.15, 0.9)
    stone = mt.stone(rng)
    extent = size * rng.uniform(0.6, 1.6, 3)
    return Model([ball((0, extent[1] * 0.3, 0), extent, stone)])


def post(rng: Rng) -> Model:
    """A lamp post or a road sign."""
    tall, pole = rng.uniform(2.2, 6), mt.metal(rng)
    prims = [tube((0, 0, 0), (0, tall, 0), (0.06, 0.05), pole)]
    if rng.random() < 0.5:
        prims.append(box((0, tall - 0.3, -0.06), (0.7, 0.6, 0.03), mt.paint(rng)))
    else:
        prims.append(limb((0, tall, 0), (0.9, tall + 0.2, 0), (0.05, 0.05), pole))
        prims.append(ball((0.9, tall + 0.12, 0), (0.5, 0.16, 0.25), mt.metal(rng)))
    return Model(prims)


def fence(rng: Rng) -> Model:
    wood, length, tall = mt.wood(rng), rng.uniform(3, 9), rng.uniform(0.8, 1.4)
    xs = np.linspace(-length / 2, length / 2, int(rng.integers(4, 8)))
    prims = [box((x, tall / 2, 0), (0.1, tall, 0.1), wood) for x in xs]
    prims += [box((0, tall * h, -0.06), (length, 0.12, 0.03), wood) for h in (0.35, 0.65, 0.9)]
    return Model(prims)


def building(rng: Rng) -> Model:
    size = np.array([rng.uniform(7, 18), rng.uniform(4, 16), rng.uniform(6, 12)])
    skin = mt.facade(rng)
    prims = [box(size * (0, 0.5, 0), size, skin)]
    if rng.random() < 0.5:
        roof = mt.pattern(
            rng, (tx.BRICKS, tx.TILES, tx.STRIPES), mt.any_colour(rng), scale=(0.2, 0.8)
        )
        high = rng.uniform(1.5, 4)
        extent = size * (1.08, 0, 1.08) + [0, high, 0]
        prims.append(prism((0, size[1] + high / 2, 0), extent, (0.1, 1.0), roof))
    door = mt.paint(rng)
    x = rng.uniform(-0.35, 0.35) * size[0]
    prims.append(box((x, 1.1, -size[2] / 2), (1.2, 2.2, 0.12), door))
    return Model(prims)


def cabinet(rng: Rng) -> Model:
    return furniture.chest(rng, (0.8, 1.6), (0.4, 0.62), (0.35, 0.5), (int(rng.integers(1, 4)), 1))


def clutter(rng: Rng) -> Model:
    """A small thing without a name: a cup, a bowl, a book, a ball, a carton."""
    kind, size = rng.integers(4), rng.uniform(0.06, 0.2)
    skin = mt.paint(rng) if rng.random() < 0.5 else mt.fabric(rng)
    if kind == 0:
        return Model([tube((0, 0, 0), (0, size, 0), (size * 0.35, size * 0.45), skin)])
    if kind == 1:
        return Model([ball((0, size / 2, 0), (size, size, size), skin)])
    extent = size * rng.uniform(0.3, 1.6, 3)
    return Model([box((0, extent[1] / 2, 0), extent, skin)])


def crate(rng: Rng) -> Model:
    extent = rng.uniform(0.25, 0.9, 3)
    skin = mt.wood(rng) if rng.random() < 0.5 else mt.paint(rng)
    return Model([box((0, extent[1] / 2, 0), extent, skin)])


def _ground(rng: Rng, setting: str) -> mt.Material:
    choices = (tx.ROUGH, tx.CLOUD, tx.GRAVEL, tx.BLADES, tx.GRAIN)
    if setting == "water":
        tone = mt.hsv(rng.uniform(0.42, 0.65), rng.uniform(0.2, 0.7), rng.uniform(0.3, 0.8))
        return mt.pattern(rng, (tx.WAVES, tx.WAVES, tx.CLOUD), tone, scale=(0.04, 0.3))._replace(
            gloss=0.6
        )
    if setting in ("street", "airfield"):
        tone = mt.hsv(rng.uniform(0, 0.7), rng.uniform(0, 0.15), rng.uniform(0.3, 0.75))
        return mt.pattern(rng, (*choices, tx.TILES, tx.BRICKS), tone, contrast=(0.05, 0.35))
    hue = rng.choice(
        [rng.uniform(0.16, 0.36), rng.uniform(0.05, 0.15), rng.uniform(0, 1)], p=[0.55, 0.33, 0.12]
    )
    tone = mt.hsv(hue, rng.uniform(0.1, 0.7), rng.uniform(0.35, 0.9))
    return mt.pattern(rng, choices, tone, contrast=(0.2, 0.6), scale=(0.2, 1.2))


def surroundings(rng: Rng, setting: str, view, floor: Floor) -> tuple[list[Thing], Lighting]:
    """Ground, backdrop and light for a setting; `view` = (eye, aim, distance, focal)."""
    if setting == "home":
        return _room(rng, view, floor)
    flags = dict(salient=False, normals=False, casts=False)
    things = [Thing([plane((0, 0, 0), (0, 1, 0), _ground(rng, setting))], 0, **flags)]
    if setting in ("street", "airfield"):
        things += _road(rng, view)
    makers = {
        "meadow": (tree, tree, bush, rock, fence, building),
        "water": (rock, building, tree),
        "street": (tree, post, building, building, bush, crate),
        "air": (tree,),
        "airfield": (building, post),
    }[setting]
    eye, aim, distance, focal = view
    for _ in range(int(rng.integers(0, 8))):
        item = makers[rng.integers(len(makers))](rng)
        radius, tall = footprint(item.prims)
        z = eye[2] + max(distance * rng.uniform(1.1, 4), tall * rng.uniform(0.8, 4))
        if setting == "water":
            z += 25
        x = rng.uniform(-0.9, 0.9) * (z - eye[2]) / focal
        if floor.free(x, z, radius) and z - radius > eye[2] + 0.6 * distance:
            floor.take(x, z, radius)
            turn = rng.normal(0, 0.3)
            things.append(moved(item, 0, (x, 0, z), turn, salient=False))
    return things, _daylight(rng)


def _road(rng: Rng, view) -> list[Thing]:
    """A road past the main object, with lines."""
    tone = mt.hsv(0.6, rng.uniform(0, 0.1), rng.uniform(0.2, 0.55))
    asphalt = mt.Material(tone * 0.8, tone, tx.GRAIN, 0.8)
    white = mt.Material(np.full(3, 0.5), np.full(3, 0.8), tx.ROUGH, 1.0)
    flags = dict(salient=False, normals=False, casts=False)
    turn, wide = rng.uniform(-np.pi, np.pi), rng.uniform(5, 11)
    at = np.array([0, 0, rng.uniform(-1, 4)])
    road = [box((0, 0.005, 0), (wide, 0.01, 240), asphalt)]
    road += [box((0, 0.01, z), (0.14, 0.012, 2.2), white) for z in np.arange(-40, 44, 5.0)]
    road += [box((s * wide * 0.46, 0.01, 0), (0.14, 0.012, 240), white) for s in (-1, 1)]
    return [moved(Model(road), 0, at, turn, **flags)]


def _daylight(rng: Rng) -> Lighting:
    heaven = sky(rng)
    sun = mt.hsv(rng.uniform(0.05, 0.16), rng.uniform(0.0, 0.5), 1.0) * rng.uniform(0.1, 2.6)
    key = direction(rng, (0.25, 1.25))
    fill = direction(rng, (0.1, 0.6))
    above = heaven.zenith * 0.5 + heaven.horizon * 0.3
    below = mt.hsv(rng.uniform(0.05, 0.4), 0.3, 0.5) * rng.uniform(0.2, 0.8)
    fog = rng.choice([0.0005, 0.004, 0.02], p=[0.6, 0.3, 0.1])
    return Lighting(key, sun, fill, above * rng.uniform(0, 0.5), above, below, (), fog, heaven)


def _room(rng: Rng, view, floor: Floor) -> tuple[list[Thing], Lighting]:
    """Floor, back wall and perhaps a side wall of a room, with what hangs and stands there."""
    eye, aim, distance, focal = view
    flags = dict(salient=False, casts=False)
    back = max(eye[2] + distance * rng.uniform(1.25, 2.6), 0.9)
    turn = rng.normal(0, 0.15)
    way = np.array([np.sin(turn), 0, -np.cos(turn)])
    paint = mt.wall(rng)
    things = [Thing([plane((0, 0, 0), (0, 1, 0), mt.floor(rng))], 0, **flags)]
    things.append(Thing([plane((0, 0, back), way, paint)], 0, **flags))
    if rng.random() < 0.5:
        s = rng.choice([-1, 1])
        x = s * max(0.6 * (back - eye[2]) / focal, 1.2)
        side = np.array([-s * np.cos(turn), 0, -s * np.sin(turn)])
        things.append(Thing([plane((x, 0, 0), side, paint)], 0, **flags))
    things.append(
        Thing(
            [plane((0, rng.uniform(2.4, 3.2) + max(0, eye[1] - 2), 0), (0, -1, 0), mt.wall(rng))],
            0,
            **flags,
        )
    )
    wide = 0.5 * (back - eye[2]) / focal
    for _ in range(int(rng.integers(0, 5))):
        x, y = rng.uniform(-wide, wide), rng.uniform(0.9, 1.9)
        extent = (rng.uniform(0.3, 1.3), rng.uniform(0.3, 1.1), 0.05)
        rim = mt.wood(rng)
        inner = mt.canvas(rng) if rng.random() < 0.6 else mt.glass(rng)._replace(glow=0.5)
        item = Model(
            [
                box((0, 0, 0), extent, rim),
                box((0, 0, -0.02), (extent[0] * 0.85, extent[1] * 0.85, 0.05), inner),
            ]
        )
        at = np.array([x, y, back + x * np.tan(turn) - 0.02])
        if floor.free(x * 3, 1000 + y * 3, 2.2):
            floor.take(x * 3, 1000 + y * 3, 2.2)
            things.append(moved(item, 0, at, -turn, salient=False))
    for _ in range(int(rng.integers(0, 4))):
        item = (crate, cabinet, clutter)[rng.integers(3)](rng)
        radius, _ = footprint(item.prims)
        x, z = rng.uniform(-wide, wide), back - radius - rng.uniform(0, 0.6)
        if floor.free(x, z, radius) and z > eye[2] + 0.8 * distance:
            floor.take(x, z, radius)
            things.append(moved(item, 0, (x, 0, z), -turn + rng.normal(0, 0.2), salient=False))
    return things, indoor_light(rng, eye)


def indoor_light(rng: Rng, eye) -> Lighting:
    """Light from a window or the ceiling, a lamp or two, and what walls send back."""
    warm = mt.hsv(rng.uniform(0.05, 0.16), rng.uniform(0, 0.45), 1.0)
    cool = mt.hsv(rng.uniform(0.5, 0.65), rng.uniform(0, 0.25), 1.0)
    key = warm if rng.random() < 0.5 else cool
    ambient = (0.5 * warm + 0.5 * cool) * rng.uniform(0.25, 0.7)
    lamps = []
    for _ in range(int(rng.integers(0, 3))):
        at = np.asarray(eye) + [rng.uniform(-2, 2), 0, rng.uniform(0.5, 4)]
        at[1] = rng.uniform(1.6, 2.4)
        lamps.append((at, warm * rng.uniform(0.3, 1.6)))
    heaven = sky(rng)
    sun = direction(rng, (0.5, 1.35))
    sun[2] = -abs(sun[2])  # from behind the camera or above, not through the back wall
    fill = direction(rng, (0.0, 0.7))
    strength = rng.uniform(0.15, 1.4)
    return Lighting(
        sun,
        key * strength,
        fill,
        cool * rng.uniform(0.05, 0.4),
        ambient,
        ambient * rng.uniform(0.3, 0.8),
        tuple(lamps),
        0.0,
        heaven,
    )
