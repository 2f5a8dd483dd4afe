"""Things people put on furniture, hang up or leave about."""

import numpy as np

from mtl_vision.data.synthetic import materials as mt
from mtl_vision.data.synthetic import textures as tx
from mtl_vision.data.synthetic.shapes import (
    Model,
    ball,
    box,
    limb,
    prism,
    rot_x,
    rot_y,
    rot_z,
    tube,
)

Rng = np.random.Generator


def television(rng: Rng) -> Model:
    w = rng.uniform(0.45, 1.25)
    h, rim = w * rng.uniform(0.5, 0.75), mt.black(rng) if rng.random() < 0.7 else mt.paint(rng)
    old = rng.random() < 0.3
    deep, lift = (w * 0.6, 0.02) if old else (0.05, rng.uniform(0.05, 0.12))
    y = lift + h / 2
    prims = [box((0, y, 0.01), (w, h, 0.05), rim)]
    prims.append(box((0, y, -0.01), (w * 0.92, h * 0.88, 0.05), mt.screen(rng)))
    if old:
        at = (0, y, 0.03 + deep / 2)
        turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        prims.append(prism(at, (w * 0.95, deep, h * 0.95), (0.4, 0.4), rim, turn=turn))
    else:
        prims.append(box((0, lift / 2 + 0.02, 0.03), (0.06, lift + 0.1, 0.03), rim))
        prims.append(box((0, 0.01, 0.02), (w * 0.4, 0.02, 0.2), rim))
    return Model(prims)


def potted_plant(rng: Rng) -> Model:
    """A pot with a shrub, a palm or a tuft of leaves."""
    h, r = rng.uniform(0.18, 0.4), rng.uniform(0.11, 0.22)
    pot = mt.paint(rng) if rng.random() < 0.5 else mt.stone(rng)
    prims = [tube((0, 0, 0), (0, h, 0), (r * rng.uniform(0.6, 0.85), r), pot)]
    prims.append(tube((0, h * 0.9, 0), (0, h * 1.02, 0), (r * 1.08, r * 1.08), pot))
    leaf, stem = mt.foliage(rng), mt.wood(rng)
    style, tall = rng.integers(3), rng.uniform(0.3, 1.0)
    if style == 0:
        for _ in range(int(rng.integers(5, 10))):
            at = np.array([*rng.normal(0, 0.12, 2), 0])[[0, 2, 1]] + [0, h + tall * rng.random(), 0]
            prims.append(ball(at, rng.uniform(0.14, 0.4, 3), leaf))
        prims.append(limb((0, h, 0), (0, h + tall * 0.6, 0), (0.02, 0.02), stem))
        return Model(prims)
    base = np.array([0, h, 0])
    if style == 1:
        crown = base + [rng.normal(0, 0.05), tall * 0.8, 0]
        prims.append(limb(base, crown, (0.025, 0.02), stem))
        base = crown
    for i in range(int(rng.integers(9, 15))):
        turn = rot_y(i * 2.4 + rng.uniform(-0.3, 0.3)) @ rot_x(rng.uniform(0.15, 1.25))
        reach = rng.uniform(0.2, 0.5)
        size = (rng.uniform(0.04, 0.12), reach, 0.02)
        prims.append(ball(base + turn @ [0, reach / 2, 0], size, leaf, turn=turn))
    return Model(prims)


def bottle(rng: Rng) -> Model:
    h, r = rng.uniform(0.2, 0.34), rng.uniform(0.032, 0.05)
    if rng.random() < 0.5:
        body = mt.glass(rng)._replace(blind=False)
    else:
        body = mt.paint(rng, gloss=0.6)
    shoulder, neck = h * rng.uniform(0.5, 0.72), r * rng.uniform(0.28, 0.5)
    throat = shoulder + (h - shoulder) * rng.uniform(0.3, 0.6)
    prims = [tube((0, 0, 0), (0, shoulder, 0), (r, r), body)]
    prims.append(tube((0, shoulder, 0), (0, throat, 0), (r, neck), body))
    prims.append(tube((0, throat, 0), (0, h * 0.95, 0), (neck, neck), body))
    prims.append(tube((0, h * 0.94, 0), (0, h, 0), (neck * 1.25,) * 2, mt.paint(rng)))
    if rng.random() < 0.7:
        tag = mt.pattern(rng, (tx.FLAT, tx.CANVAS, tx.STRIPES), mt.any_colour(rng), scale=(2, 9))
        low = shoulder * rng.uniform(0.1, 0.4)
        prims.append(tube((0, low, 0), (0, shoulder * 0.9, 0), (r * 1.02,) * 2, tag))
    return Model(prims)


def lamp(rng: Rng, floor_standing: bool = False) -> Model:
    h = rng.uniform(1.3, 1.8) if floor_standing else rng.uniform(0.35, 0.6)
    r = h * (0.12 if floor_standing else 0.28) * rng.uniform(0.8, 1.3)
    shade = mt.paint(rng, mt.hsv(rng.random(), rng.uniform(0, 0.5), 0.9), 0.0)
    shade = shade._replace(glow=rng.choice([0.0, 0.9]))
    base, cut = mt.metal(rng), h * (0.84 if floor_standing else 0.55)
    prims = [tube((0, 0, 0), (0, 0.03, 0), (r * 0.8, r * 0.7), base)]
    if floor_standing or rng.random() < 0.5:
        prims.append(tube((0, 0.02, 0), (0, cut + 0.02, 0), (0.015, 0.015), base))
    else:
        prims.append(ball((0, cut * 0.5, 0), (r * 0.9, cut, r * 0.9), mt.paint(rng)))
    prims.append(tube((0, cut, 0), (0, h, 0), (r, r * rng.uniform(0.45, 1.0)), shade))
    return Model(prims)


def cushion(rng: Rng) -> Model:
    w = rng.uniform(0.35, 0.65)
    size = (w, rng.uniform(0.12, 0.2), rng.uniform(0.3, 0.42))
    prims = [ball((0, size[1] / 2, 0), size, mt.fabric(rng))]
    prims.append(
        box(
            (0, size[1] / 2, 0),
            (w * 0.8, size[1] * 0.5, size[2] * 0.8),
            prims[0].material,
            turn=rot_z(0.0),
        )
    )
    return Model(prims)


def book_row(rng: Rng, width: float, high: float) -> Model:
    """Upright books, some leaning, as far as `width` goes."""
    prims, x = [], -width / 2
    stop = width / 2 - rng.uniform(0, 0.5) * width
    while x < stop:
        w = rng.uniform(0.02, 0.06) * (1 + (width > 0.8))
        h = high * rng.uniform(0.6, 0.95)
        lean = rot_z(rng.uniform(-0.15, 0.15) if rng.random() < 0.2 else 0.0)
        prims.append(box((x + w / 2, h / 2, 0), (w * 0.95, h, 0.17), mt.paint(rng), turn=lean))
        x += w
    return Model(prims)


def book_stack(rng: Rng) -> Model:
    prims, y = [], 0.0
    for _ in range(int(rng.integers(1, 5))):
        h = rng.uniform(0.015, 0.045)
        turn = rot_y(rng.normal(0, 0.25))
        size = (rng.uniform(0.15, 0.24), h, rng.uniform(0.2, 0.3))
        prims.append(box((0, y + h / 2, 0), size, mt.paint(rng), turn=turn))
        y += h
    return Model(prims)


def carton(rng: Rng) -> Model:
    size = rng.uniform(0.15, 0.5, 3)
    brown = mt.hsv(rng.uniform(0.06, 0.11), rng.uniform(0.2, 0.6), rng.uniform(0.45, 0.85))
    skin = mt.paint(rng, brown, 0.0) if rng.random() < 0.6 else mt.canvas(rng)
    prims = [box((0, size[1] / 2, 0), size, skin)]
    if rng.random() < 0.5:
        tape = mt.paint(rng)
        prims.append(box((0, size[1] / 2, 0), size * (0.12, 1.01, 1.01), tape))
    return Model(prims)


def bag(rng: Rng) -> Model:
    w, h, cloth = rng.uniform(0.25, 0.45), rng.uniform(0.25, 0.45), mt.fabric(rng)
    prims = [prism((0, h / 2, 0), (w, h, w * 0.45), (0.15, 0.5), cloth)]
    prims.append(ball((0, h * 0.35, 0), (w * 1.05, h * 0.7, w * 0.6), cloth))
    for s in (-1, 1):
        prims.append(limb((s * w * 0.2, h, 0), (s * w * 0.1, h * 1.4, 0), (0.015, 0.012), cloth))
    prims.append(limb((-w * 0.1, h * 1.4, 0), (w * 0.1, h * 1.4, 0), (0.012, 0.012), cloth))
    return Model(prims)


def cloth_heap(rng: Rng) -> Model:
    prims = []
    for _ in range(int(rng.integers(2, 5))):
        at = (*rng.normal(0, 0.12, 2), 0)
        size = rng.uniform(0.2, 0.5, 3) * (1, 0.35, 1)
        turn = rot_y(rng.uniform(0, 3)) @ rot_x(rng.normal(0, 0.2))
        prims.append(ball((at[0], size[1] * 0.5, at[1]), size, mt.fabric(rng), turn=turn))
    return Model(prims)


def vessel(rng: Rng) -> Model:
    """A vase, cup, bowl, jar, ball or clock: NYUD's other props."""
    size, skin = rng.uniform(0.07, 0.24), mt.paint(rng)
    kind = rng.integers(4)
    if kind == 0:
        prims = [ball((0, size * 0.45, 0), (size * 0.8, size * 0.9, size * 0.8), skin)]
        prims.append(tube((0, size * 0.8, 0), (0, size * 1.2, 0), (size * 0.2, size * 0.3), skin))
    elif kind == 1:
        prims = [tube((0, 0, 0), (0, size * 0.6, 0), (size * 0.3, size * 0.5), skin)]
    elif kind == 2:
        return bottle(rng)
    else:
        prims = [ball((0, size / 2, 0), (size, size, size), skin)]
    return Model(prims)


def sheet_of_paper(rng: Rng) -> Model:
    white = mt.hsv(rng.random(), rng.uniform(0, 0.15), rng.uniform(0.8, 1.0))
    paper = mt.Material(white * rng.uniform(0.5, 1), white, tx.SPINES, 4.0)
    return Model([box((0, 0.004, 0), (0.21, 0.008, 0.297), paper)])


def folded_towel(rng: Rng) -> Model:
    cloth = mt.fabric(rng)
    return Model([box((0, 0.05, 0), (rng.uniform(0.25, 0.4), 0.1, 0.22), cloth)])


def hanging_cloth(rng: Rng, width: float, height: float, deep: float) -> Model:
    """A hanging cloth: upright tubes side by side."""
    cloth = mt.fabric(rng)
    if rng.random() < 0.5:
        tone = mt.hsv(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.5, 1))
        cloth = mt.Material(tone * 0.85, tone, int(rng.choice([tx.FLAT, tx.WEAVE, tx.DOTS])), 2.0)
    count = int(np.clip(width / (deep * 1.5), 2, 9))
    pitch = width / count
    prims = [box((0, height / 2, 0), (width, height, deep * 0.5), cloth)]
    for i in range(count):
        x = -width / 2 + (i + 0.5) * pitch
        r = pitch * rng.uniform(0.35, 0.5)
        prims.append(tube((x, 0, 0), (x, height, 0), (r, r * 0.8), cloth))
    return Model(prims)
