"""What hangs on walls and ceilings, and what belongs to the building."""

import numpy as np

from mtl_vision.data.synthetic import furniture, household
from mtl_vision.data.synthetic import materials as mt
from mtl_vision.data.synthetic import textures as tx
from mtl_vision.data.synthetic.placed import LABEL, Placed
from mtl_vision.data.synthetic.shapes import (
    Model,
    ball,
    box,
    limb,
    prism,
    rot_x,
    rot_y,
    tube,
)

Rng = np.random.Generator


def _panel(rng: Rng, size, y: float, name: str, inner: mt.Material, rim: float = 0.05):
    """A framed flat thing on the wall, its middle at height `y`."""
    w, h = size
    frame = mt.wood(rng) if rng.random() < 0.7 else mt.metal(rng)
    prims = [box((0, 0, -0.015), (w, h, 0.03), frame)]
    prims.append(box((0, 0, -0.02), (w - 2 * rim, h - 2 * rim, 0.03), inner))
    return Placed(Model(prims), LABEL[name], (0.0, y, 0.0), 0.0, False)


def picture(rng: Rng) -> list[Placed]:
    size = rng.uniform(0.25, 1.1), rng.uniform(0.25, 0.9)
    return [_panel(rng, size, rng.uniform(1.3, 1.8), "picture", mt.canvas(rng), 0.04)]


def mirror(rng: Rng) -> list[Placed]:
    grey = mt.hsv(0.6, rng.uniform(0, 0.15), rng.uniform(0.5, 0.95))
    glass = mt.Material(grey * 0.4, grey, tx.CANVAS, 0.35, gloss=0.9, blind=True)
    size = rng.uniform(0.4, 0.9), rng.uniform(0.6, 1.4)
    return [_panel(rng, size, rng.uniform(1.2, 1.5), "mirror", glass, 0.04)]


def _pane(rng: Rng) -> mt.Material:
    """The view through a window: bright, or night."""
    day = rng.random() < 0.8
    tone = mt.hsv(rng.uniform(0.2, 0.62), rng.uniform(0, 0.4), 0.95 if day else 0.12)
    dark = tone * rng.uniform(0.2, 0.8)
    texture = int(rng.choice([tx.LEAVES, tx.CLOUD, tx.FACADE, tx.CANVAS]))
    glow = rng.uniform(0.7, 2.5) if day else 0.1
    return mt.Material(dark, tone, texture, rng.uniform(0.2, 0.7), gloss=0.5, glow=glow, blind=True)


def window(rng: Rng, cover: str = "") -> list[Placed]:
    w, h = rng.uniform(0.6, 1.8), rng.uniform(0.8, 1.5)
    y, pane = rng.uniform(1.35, 1.6), _pane(rng)
    window = _panel(rng, (w, h), y, "window", pane, 0.06)
    bars = window.model.prims[0].material
    for x in np.linspace(-w / 2, w / 2, int(rng.integers(2, 5)))[1:-1]:
        window.model.prims.append(box((x, 0, -0.02), (0.035, h, 0.045), bars))
    if rng.random() < 0.5:
        window.model.prims.append(box((0, 0, -0.02), (w, 0.035, 0.045), bars))
    placed = [window]
    if cover == "blinds":
        share = rng.uniform(0.4, 1.0)
        placed.append(
            Placed(
                _blinds(rng, w, h * share),
                LABEL["blinds"],
                (0, y + h / 2 - h * share, -0.06),
                0.0,
                False,
            )
        )
    if cover == "curtain":
        drop = rng.choice([h + 0.3, y + h / 2 + 0.08])
        wide = w * rng.uniform(0.2, 0.4)
        household.hanging_cloth(rng, wide, drop, 0.06)
        for s in (-1, 1):
            at = (s * (w / 2 - wide * 0.2), max(y + h / 2 + 0.1 - drop, 0.02), -0.1)
            placed.append(
                Placed(household.hanging_cloth(rng, wide, drop, 0.06), LABEL["curtain"], at)
            )
        placed[-1] = placed[-1]._replace(model=placed[-2].model)
        rod = limb((-w * 0.65, 0, 0), (w * 0.65, 0, 0), (0.015, 0.015), mt.metal(rng))
        at = (0, y + h / 2 + 0.11, -0.1)
        placed.append(Placed(Model([rod]), LABEL["unlabelled"], at))
    return placed


def _blinds(rng: Rng, width: float, height: float) -> Model:
    tone = mt.hsv(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.5, 1))
    slat = mt.Material(tone * 0.8, tone, tx.ROUGH, 1.0)
    count = int(np.clip(height / 0.07, 4, 16))
    pitch, tilt = height / count, rot_x(rng.uniform(0.2, 0.9))
    return Model(
        [
            box((0, (i + 0.5) * pitch, 0), (width, pitch * 1.05, 0.012), slat, turn=tilt)
            for i in range(count)
        ]
    )


def door(rng: Rng) -> list[Placed]:
    w, h, wood = rng.uniform(0.75, 0.95), rng.uniform(1.95, 2.15), mt.wood(rng)
    frame = wood if rng.random() < 0.4 else mt.paint(rng)
    prims = [box((0, h / 2, -0.02), (w + 0.16, h + 0.16, 0.04), frame)]
    prims.append(box((0, h / 2 - 0.01, -0.03), (w, h - 0.02, 0.04), wood))
    style = rng.integers(3)
    for y in (0.28, 0.72) if style else ():
        extent = (w * 0.66, h * (0.36 if style == 1 else 0.38), 0.05)
        inner = wood._replace(light=wood.light * 0.8) if style == 1 else mt.paint(rng)
        prims.append(box((0, h * y, -0.03), extent, inner))
    s = rng.choice([-1, 1])
    knob = (s * w * 0.42, h * 0.48, -0.08)
    prims.append(ball(knob, (0.06, 0.05, 0.06), mt.metal(rng)))
    return [Placed(Model(prims), LABEL["door"], (0, 0, 0), 0.0, False)]


def whiteboard(rng: Rng) -> list[Placed]:
    white = mt.hsv(0.6, rng.uniform(0, 0.08), rng.uniform(0.85, 1.0))
    board = mt.Material(white * rng.uniform(0.3, 0.95), white, tx.CANVAS, 0.4, gloss=0.4)
    if rng.random() < 0.6:
        board = board._replace(texture=tx.FLAT, dark=white)
    size = rng.uniform(0.9, 2.2), rng.uniform(0.7, 1.1)
    return [_panel(rng, size, 1.5, "whiteboard", board, 0.03)]


def paper(rng: Rng) -> list[Placed]:
    placed = []
    for x in np.arange(int(rng.integers(1, 4))) * 0.3:
        sheet = household.sheet_of_paper(rng)
        turn = rot_x(np.pi / 2) @ rot_y(rng.normal(0, 0.05))
        prims = [p._replace(matrix=turn @ p.matrix) for p in sheet.prims]
        at = (x, rng.uniform(1.3, 1.6), -0.01)
        placed.append(Placed(Model(prims), LABEL["paper"], at, 0.0, False))
    return placed


def towel(rng: Rng) -> list[Placed]:
    w, h, y = rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.8), rng.uniform(1.0, 1.4)
    bar = limb((-w * 0.6, y, -0.08), (w * 0.6, y, -0.08), (0.012, 0.012), mt.metal(rng))
    cloth = Model([box((0, 0, 0), (w, h, 0.05), mt.fabric(rng))])
    return [
        Placed(cloth, LABEL["towel"], (0, y - h / 2 + 0.02, -0.08)),
        Placed(Model([bar]), LABEL["otherprop"]),
    ]


def clothes_hung(rng: Rng) -> list[Placed]:
    h = rng.uniform(0.6, 1.0)
    coat = Model(
        [
            prism((0, -h / 2, -0.08), (0.5, h, 0.14), (0.45, 0.3), mt.fabric(rng)),
            ball((0, -h * 0.4, -0.1), (0.4, h * 0.9, 0.16), mt.fabric(rng)),
        ]
    )
    return [Placed(coat, LABEL["clothes"], (0, rng.uniform(1.5, 1.8), 0))]


def wall_cabinet(rng: Rng) -> list[Placed]:
    model = furniture.chest(rng, (0.7, 1.8), (0.5, 0.8), (0.3, 0.36), (int(rng.integers(2, 5)), 1))
    return [Placed(model, LABEL["cabinet"], (0, rng.uniform(1.4, 1.55), -0.19))]


def wall_tv(rng: Rng) -> list[Placed]:
    model = Model(household.television(rng).prims[:2])
    return [Placed(model, LABEL["television"], (0, rng.uniform(0.9, 1.3), -0.05))]


def ceiling_light(rng: Rng, height: float) -> list[Placed]:
    glow = mt.Material(np.full(3, 0.8), np.full(3, 1.0), glow=rng.uniform(0.5, 2.0))
    if rng.random() < 0.4:
        prims = [box((0, height - 0.03, 0), (0.3, 0.06, 1.1), glow)]
    elif rng.random() < 0.5:
        prims = [ball((0, height - 0.02, 0), (0.36, 0.2, 0.36), glow)]
    else:
        drop = rng.uniform(0.3, 0.7)
        prims = [limb((0, height, 0), (0, height - drop, 0), (0.01, 0.01), mt.black(rng))]
        shade = mt.paint(rng)._replace(glow=0.6)
        low, high = (0, height - drop - 0.2, 0), (0, height - drop, 0)
        prims.append(tube(low, high, (0.22, 0.1), shade))
    return [Placed(Model(prims), LABEL["lamp"], casts=False)]


def beam(rng: Rng, half: float, height: float) -> list[Placed]:
    if rng.random() < 0.5:
        prims = [box((0, height - 0.12, 0), (2 * half, 0.24, 0.22), mt.wood(rng))]
    else:
        s, w = rng.choice([-1, 1]), rng.uniform(0.2, 0.45)
        prims = [box((s * (half - w / 2), height / 2, 0), (w, height, w), mt.wall(rng))]
    return [Placed(Model(prims), LABEL["otherstructure"], casts=False)]


def skirting(rng: Rng, half: float) -> list[Placed]:
    board = Model([box((0, 0.05, -0.01), (2 * half, 0.1, 0.02), mt.paint(rng))])
    return [Placed(board, LABEL["wall"], casts=False)]
