"""Things of a room as groups: a cabinet with what stands on it, a window with its curtains."""

from typing import NamedTuple

import numpy as np

from mtl_vision.data.synthetic import furniture
from mtl_vision.data.synthetic import materials as mt
from mtl_vision.data.synthetic import textures as tx
from mtl_vision.data.synthetic.labels import IGNORE, NYUD40
from mtl_vision.data.synthetic.shapes import (
    Model,
    ball,
    box,
    limb,
    prism,
    ring,
    rot_x,
    rot_y,
    rot_z,
    tube,
)

Rng = np.random.Generator
LABEL = {name: i for i, name in enumerate(NYUD40)} | {"unlabelled": IGNORE}


class Placed(NamedTuple):
    """A model with its class and its place in the group's frame."""

    model: Model
    label: int
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    casts: bool = True


# ---- small things -------------------------------------------------------------------------------


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
        return furniture.bottle(rng)
    else:
        prims = [ball((0, size / 2, 0), (size, size, size), skin)]
    return Model(prims)


def sheet_of_paper(rng: Rng) -> Model:
    white = mt.hsv(rng.random(), rng.uniform(0, 0.15), rng.uniform(0.8, 1.0))
    paper = mt.Material(white * rng.uniform(0.5, 1), white, tx.SPINES, 4.0)
    return Model([box((0, 0.004, 0), (0.21, 0.008, 0.297), paper)])


SMALL = {
    "books": book_stack,
    "box": carton,
    "otherprop": vessel,
    "paper": sheet_of_paper,
    "lamp": lambda rng: furniture.lamp(rng, False),
    "television": furniture.television,
    "pillow": furniture.cushion,
    "bag": bag,
    "clothes": cloth_heap,
    "towel": lambda rng: _folded(rng),
    "unlabelled": lambda rng: carton(rng) if rng.random() < 0.5 else vessel(rng),
}


def _folded(rng: Rng) -> Model:
    cloth = mt.fabric(rng)
    return Model([box((0, 0.05, 0), (rng.uniform(0.25, 0.4), 0.1, 0.22), cloth)])


def on_top(rng: Rng, model: Model, size, words: str, most: int) -> list[Placed]:
    """Things from `words` in a row on `model`'s surface, which is `size` = (width, depth)."""
    width, depth = size
    count = int(rng.integers(0, most + 1))
    placed = []
    for i in range(count):
        word = str(rng.choice(words.split()))
        item = SMALL[word](rng)
        slot = width / count
        x = -width / 2 + (i + 0.5) * slot + rng.uniform(-0.1, 0.1) * slot
        z = rng.uniform(-0.15, 0.2) * depth
        yaw = rng.normal(0, 0.3)
        placed.append(Placed(item, LABEL[word], (x, model.top, z), yaw))
    return placed


def _topped(rng: Rng, model: Model, name: str, size, words: str, most: int = 3) -> list[Placed]:
    return [Placed(model, LABEL[name]), *on_top(rng, model, size, words, most)]


# ---- against walls ------------------------------------------------------------------------------


def _bed(rng: Rng) -> list[Placed]:
    model = furniture.bed(rng)
    placed = [Placed(model, LABEL["bed"])]
    for x in rng.choice([(0,), (-0.35, 0.35), (-0.3, 0.3)][rng.integers(3)], 1 + rng.integers(2)):
        at = (float(x), model.top, rng.uniform(0.6, 0.75))
        placed.append(Placed(furniture.cushion(rng), LABEL["pillow"], at, rng.normal(0, 0.2)))
    if rng.random() < 0.4:
        word = str(rng.choice(["clothes", "bag", "books", "box", "unlabelled"]))
        at = (rng.uniform(-0.3, 0.3), model.top + 0.02, rng.uniform(-0.7, 0.1))
        placed.append(Placed(SMALL[word](rng), LABEL[word], at, rng.uniform(0, 6)))
    return placed


def _sofa(rng: Rng) -> list[Placed]:
    model = furniture.sofa(rng)
    placed = [Placed(model, LABEL["sofa"])]
    for _ in range(int(rng.integers(0, 3))):
        tilt = furniture.cushion(rng)
        at = (rng.uniform(-0.4, 0.4), model.top, 0.0)
        placed.append(Placed(tilt, LABEL["pillow"], at, rng.normal(0, 0.5)))
    return placed


def _bookshelf(rng: Rng) -> list[Placed]:
    model, heights, width, _ = furniture.shelf(rng, (0.6, 1.2), (1.0, 2.1))
    placed = [Placed(model, LABEL["bookshelf"])]
    room = heights[1] - heights[0] if len(heights) > 1 else 0.4
    for y in heights:
        if rng.random() < 0.8:
            rows = book_row(rng, width, room * 0.9)
            placed.append(Placed(rows, LABEL["books"], (0, y + 0.0125, -0.02)))
    return placed


def _shelves(rng: Rng) -> list[Placed]:
    model, heights, width, depth = furniture.shelf(rng, (0.5, 1.3), (0.7, 1.9))
    placed = [Placed(model, LABEL["shelves"])]
    for y in [*heights, model.top - 0.0125]:
        shelf = model._replace(top=y + 0.0125)
        words = "box otherprop books towel otherprop unlabelled"
        placed += on_top(rng, shelf, (width * 0.9, depth * 0.3), words, 3)
    return placed


def _counter(rng: Rng) -> list[Placed]:
    """Kitchen counter on cabinets, with a sink in it at times."""
    w, d, h = rng.uniform(1.2, 2.6), 0.6, rng.uniform(0.85, 0.95)
    body = furniture.chest(rng, (w, w), (h - 0.05, h - 0.05), (d, d), (int(rng.integers(2, 5)), 1))
    top = Model([box((0, h, 0), (w * 1.03, 0.05, d * 1.06), mt.stone(rng))], h + 0.025)
    placed = [Placed(body, LABEL["cabinet"]), Placed(top, LABEL["counter"])]
    if rng.random() < 0.5:
        x = rng.uniform(-0.25, 0.25) * w
        placed.append(Placed(_basin(rng, h + 0.03), LABEL["sink"], (x, 0, 0)))
        return placed
    words = "otherprop box otherprop unlabelled books paper"
    return placed + on_top(rng, top, (w * 0.9, d * 0.6), words, 4)


def _basin(rng: Rng, y: float) -> Model:
    steel = mt.metal(rng)
    prims = [ring((0, y, 0), 0.23, 0.85, 0.04, steel)]
    prims.append(tube((0, y - 0.015, 0), (0, y - 0.005, 0), (0.2, 0.2), mt.paint(rng, gloss=0.5)))
    prims.append(limb((0, y, 0.24), (0, y + 0.22, 0.24), (0.018, 0.015), steel))
    prims.append(limb((0, y + 0.22, 0.24), (0, y + 0.2, 0.1), (0.015, 0.013), steel))
    return Model(prims)


def _white(rng: Rng) -> mt.Material:
    tone = mt.hsv(rng.random(), rng.uniform(0, 0.2), rng.uniform(0.75, 1.0))
    return mt.Material(tone * 0.92, tone, tx.CLOUD, 1.0, gloss=0.5)


def _toilet(rng: Rng) -> list[Placed]:
    white, seat = _white(rng), rng.uniform(0.38, 0.43)
    prims = [tube((0, 0, 0.02), (0, seat, -0.05), (0.13, 0.2), white)]
    prims.append(ball((0, seat - 0.05, -0.08), (0.4, 0.2, 0.52), white))
    prims.append(ring((0, seat, -0.1), 0.21, 0.62, 0.05, white))
    prims.append(box((0, seat + 0.2, 0.24), (0.42, 0.42, 0.18), white))
    prims.append(box((0, seat + 0.42, 0.24), (0.45, 0.04, 0.2), white))
    lid = rot_x(rng.choice([0.15, -1.45]))
    prims.append(
        box(
            np.array([0, seat + 0.04, 0.12]) + lid @ [0, 0.22, 0],
            (0.37, 0.42, 0.03),
            white,
            turn=lid,
        )
    )
    prims.append(ball((0.12, seat + 0.36, 0.14), (0.06, 0.03, 0.03), mt.metal(rng)))
    return [Placed(Model(prims), LABEL["toilet"])]


def _sink_stand(rng: Rng) -> list[Placed]:
    white, h, w = _white(rng), rng.uniform(0.75, 0.9), rng.uniform(0.45, 0.7)
    if rng.random() < 0.5:
        base = furniture.chest(rng, (w, w + 0.3), (h - 0.1, h - 0.08), (0.4, 0.5), (2, 1))
        placed = [Placed(base, LABEL["cabinet"])]
    else:
        stand = tube((0, 0, 0), (0, h - 0.1, 0), (0.13, 0.09), white)
        placed = [Placed(Model([stand]), LABEL["sink"])]
    bowl = [prism((0, h - 0.04, 0), (w, 0.16, 0.46), (-0.25, -0.25), white)]
    basin = Model(bowl + _basin(rng, h + 0.055).prims)
    return [*placed, Placed(basin, LABEL["sink"])]


def _bathtub(rng: Rng) -> list[Placed]:
    white, w, d, h = _white(rng), rng.uniform(1.4, 1.8), 0.75, rng.uniform(0.48, 0.6)
    prims = [box((0, h * 0.3, 0), (w, h * 0.6, d), white)]
    for s in (-1, 1):
        prims.append(box((0, h / 2, s * (d / 2 - 0.05)), (w, h, 0.1), white))
        prims.append(box((s * (w / 2 - 0.07), h / 2, 0), (0.14, h, d), white))
    steel = mt.metal(rng)
    prims.append(limb((w * 0.4, h, 0.3), (w * 0.4, h + 0.15, 0.2), (0.02, 0.02), steel))
    placed = [Placed(Model(prims), LABEL["bathtub"])]
    if rng.random() < 0.6:
        wide = w * rng.uniform(0.35, 1.0)
        x = rng.choice([-1, 1]) * (w - wide) / 2
        sheet = _folds(rng, wide, 1.75, 0.045)
        placed.append(Placed(sheet, LABEL["shower curtain"], (x, 0.25, -d / 2 - 0.02)))
        rail = Model([limb((-w / 2, 2.0, 0), (w / 2, 2.0, 0), (0.015, 0.015), steel)])
        placed.append(Placed(rail, LABEL["otherprop"], (0, 0, -d / 2 - 0.02)))
    return placed


def _folds(rng: Rng, width: float, height: float, deep: float) -> Model:
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


def _fridge(rng: Rng) -> list[Placed]:
    w, h, d = rng.uniform(0.6, 0.9), rng.uniform(1.4, 1.85), rng.uniform(0.6, 0.75)
    skin = _white(rng) if rng.random() < 0.5 else mt.metal(rng)
    cut = h * rng.uniform(0.55, 0.75)
    prims = [box((0, h / 2, 0.02), (w, h, d), skin)]
    s = rng.choice([-1, 1])
    for low, high in ((0.04, cut), (cut, h)):
        prims.append(box((0, (low + high) / 2, -d / 2), (w * 0.99, high - low - 0.02, 0.06), skin))
        grip = np.array([s * w * 0.4, (low + high) / 2, -d / 2 - 0.06])
        reach = np.array([0, (high - low) * 0.25, 0])
        prims.append(limb(grip - reach, grip + reach, (0.015, 0.015), mt.metal(rng)))
    model = Model(prims, h)
    return _topped(rng, model, "refridgerator", (w * 0.8, d * 0.5), "box otherprop paper", 2)


def _stove(rng: Rng) -> list[Placed]:
    skin = _white(rng) if rng.random() < 0.5 else mt.metal(rng)
    dark = mt.black(rng)._replace(blind=True, gloss=0.6)
    prims = [box((0, 0.45, 0), (0.65, 0.9, 0.6), skin)]
    prims.append(box((0, 0.42, -0.3), (0.5, 0.4, 0.03), dark))
    prims.append(limb((-0.25, 0.7, -0.34), (0.25, 0.7, -0.34), (0.014, 0.014), mt.metal(rng)))
    for x in (-0.16, 0.16):
        for z in (-0.14, 0.14):
            prims.append(tube((x, 0.9, z), (x, 0.92, z), (0.1, 0.1), dark))
    return [Placed(Model(prims), LABEL["otherstructure"])]


def _piano(rng: Rng) -> list[Placed]:
    """An upright piano, of NYUD's other furniture."""
    wood = mt.wood(rng)._replace(gloss=0.5)
    keys = mt.Material(np.full(3, 0.05), np.full(3, 0.85), tx.STRIPES, 4.0)
    prims = [
        box((0, 0.6, 0.1), (1.4, 1.2, 0.3), wood),
        box((0, 0.65, -0.15), (1.4, 0.12, 0.35), wood),
    ]
    prims.append(box((0, 0.72, -0.17), (1.25, 0.03, 0.2), keys))
    prims += [box((s * 0.63, 0.3, -0.25), (0.08, 0.6, 0.08), wood) for s in (-1, 1)]
    return [Placed(Model(prims), LABEL["otherfurniture"])]


def _rack(rng: Rng) -> list[Placed]:
    """Clothes on a rail."""
    steel, w = mt.metal(rng), rng.uniform(0.7, 1.3)
    frame = [limb((s * w / 2, 0, 0), (s * w / 2, 1.6, 0), (0.02, 0.02), steel) for s in (-1, 1)]
    frame.append(limb((-w / 2, 1.6, 0), (w / 2, 1.6, 0), (0.02, 0.02), steel))
    shirts = []
    for x in np.arange(-w * 0.4, w * 0.4, rng.uniform(0.1, 0.2)):
        h = rng.uniform(0.6, 1.1)
        shirts.append(prism((x, 1.55 - h / 2, 0), (0.07, h, 0.5), (0.2, 0.45), mt.fabric(rng)))
    return [Placed(Model(frame), LABEL["otherfurniture"]), Placed(Model(shirts), LABEL["clothes"])]


def _table_set(rng: Rng) -> list[Placed]:
    """A table with chairs around it."""
    model = furniture.table(rng)
    placed = _topped(rng, model, "table", (0.7, 0.5), "otherprop books paper otherprop unlabelled")
    for i in range(int(rng.integers(2, 5))):
        yaw = (i % 2) * np.pi + np.pi + rng.normal(0, 0.15)
        x = (-0.35, -0.35, 0.35, 0.35)[i] + rng.normal(0, 0.05)
        z = (-0.6, 0.6)[i % 2] * rng.uniform(0.95, 1.3)
        placed.append(Placed(furniture.chair(rng), LABEL["chair"], (x, 0, z), yaw))
    return placed


# ---- on walls -----------------------------------------------------------------------------------


def _panel(rng: Rng, size, y: float, name: str, inner: mt.Material, rim: float = 0.05):
    """A framed flat thing on the wall, its middle at height `y`."""
    w, h = size
    frame = mt.wood(rng) if rng.random() < 0.7 else mt.metal(rng)
    prims = [box((0, 0, -0.015), (w, h, 0.03), frame)]
    prims.append(box((0, 0, -0.02), (w - 2 * rim, h - 2 * rim, 0.03), inner))
    return Placed(Model(prims), LABEL[name], (0.0, y, 0.0), 0.0, False)


def _picture(rng: Rng) -> list[Placed]:
    size = rng.uniform(0.25, 1.1), rng.uniform(0.25, 0.9)
    return [_panel(rng, size, rng.uniform(1.3, 1.8), "picture", mt.canvas(rng), 0.04)]


def _mirror(rng: Rng) -> list[Placed]:
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


def _window(rng: Rng, cover: str = "") -> list[Placed]:
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
        for s in (-1, 1):
            at = (s * (w / 2 - wide * 0.2), max(y + h / 2 + 0.1 - drop, 0.02), -0.1)
            placed.append(Placed(_folds(rng, wide, drop, 0.06), LABEL["curtain"], at))
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


def _door(rng: Rng) -> list[Placed]:
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


def _whiteboard(rng: Rng) -> list[Placed]:
    white = mt.hsv(0.6, rng.uniform(0, 0.08), rng.uniform(0.85, 1.0))
    board = mt.Material(white * rng.uniform(0.3, 0.95), white, tx.CANVAS, 0.4, gloss=0.4)
    if rng.random() < 0.6:
        board = board._replace(texture=tx.FLAT, dark=white)
    size = rng.uniform(0.9, 2.2), rng.uniform(0.7, 1.1)
    return [_panel(rng, size, 1.5, "whiteboard", board, 0.03)]


def _paper(rng: Rng) -> list[Placed]:
    placed = []
    for x in np.arange(int(rng.integers(1, 4))) * 0.3:
        sheet = sheet_of_paper(rng)
        turn = rot_x(np.pi / 2) @ rot_y(rng.normal(0, 0.05))
        prims = [p._replace(matrix=turn @ p.matrix) for p in sheet.prims]
        at = (x, rng.uniform(1.3, 1.6), -0.01)
        placed.append(Placed(Model(prims), LABEL["paper"], at, 0.0, False))
    return placed


def _towel(rng: Rng) -> list[Placed]:
    w, h, y = rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.8), rng.uniform(1.0, 1.4)
    bar = limb((-w * 0.6, y, -0.08), (w * 0.6, y, -0.08), (0.012, 0.012), mt.metal(rng))
    cloth = Model([box((0, 0, 0), (w, h, 0.05), mt.fabric(rng))])
    return [
        Placed(cloth, LABEL["towel"], (0, y - h / 2 + 0.02, -0.08)),
        Placed(Model([bar]), LABEL["otherprop"]),
    ]


def _clothes_hung(rng: Rng) -> list[Placed]:
    h = rng.uniform(0.6, 1.0)
    coat = Model(
        [
            prism((0, -h / 2, -0.08), (0.5, h, 0.14), (0.45, 0.3), mt.fabric(rng)),
            ball((0, -h * 0.4, -0.1), (0.4, h * 0.9, 0.16), mt.fabric(rng)),
        ]
    )
    return [Placed(coat, LABEL["clothes"], (0, rng.uniform(1.5, 1.8), 0))]


def _wall_cabinet(rng: Rng) -> list[Placed]:
    model = furniture.chest(rng, (0.7, 1.8), (0.5, 0.8), (0.3, 0.36), (int(rng.integers(2, 5)), 1))
    return [Placed(model, LABEL["cabinet"], (0, rng.uniform(1.4, 1.55), -0.19))]


def _wall_tv(rng: Rng) -> list[Placed]:
    model = Model(furniture.television(rng).prims[:2])
    return [Placed(model, LABEL["television"], (0, rng.uniform(0.9, 1.3), -0.05))]


# ---- the building -------------------------------------------------------------------------------


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


def _mat(rng: Rng) -> list[Placed]:
    rug, w, d = mt.fabric(rng), rng.uniform(0.6, 2.2), rng.uniform(0.5, 1.6)
    if rng.random() < 0.25:
        prims = [tube((0, 0, 0), (0, 0.015, 0), (w * 0.5, w * 0.5), rug)]
    else:
        prims = [box((0, 0.006, 0), (w, 0.012, d), rug)]
        prims.append(box((0, 0.008, 0), (w * 0.85, 0.012, d * 0.8), mt.fabric(rng)))
    return [Placed(Model(prims), LABEL["floor mat"], casts=False)]


def _single(name: str, maker):
    return lambda rng: [Placed(maker(rng), LABEL[name])]


def _chest(name: str, width, height, depth, columns: int, rows: int, words: str):
    def make(rng: Rng) -> list[Placed]:
        grid = (int(rng.integers(1, columns + 1)), int(rng.integers(1, rows + 1)))
        model = furniture.chest(rng, width, height, depth, grid)
        return _topped(rng, model, name, (width[0] * 0.9, depth[0] * 0.4), words)

    return make


def _table(rng: Rng) -> list[Placed]:
    low = rng.random() < 0.4
    model = furniture.table(rng, (0.7, 1.4), (0.35, 0.5) if low else (0.68, 0.8))
    words = "otherprop books paper box lamp unlabelled"
    return _topped(rng, model, "table", (0.6, 0.4), words)


def _desk(rng: Rng) -> list[Placed]:
    words = "television books paper lamp otherprop box unlabelled"
    placed = _topped(rng, furniture.desk(rng), "desk", (0.9, 0.4), words, 4)
    if rng.random() < 0.7:
        at = (rng.uniform(-0.2, 0.2), 0, -rng.uniform(0.5, 0.8))
        yaw = np.pi + rng.normal(0, 0.3)
        placed.append(Placed(furniture.chair(rng), LABEL["chair"], at, yaw))
    return placed


MAKERS = {
    "bag": _single("bag", bag),
    "bathtub": _bathtub,
    "bed": _bed,
    "blinds": lambda rng: _window(rng, "blinds"),
    "bookshelf": _bookshelf,
    "box": _single("box", carton),
    "cabinet": _chest("cabinet", (0.7, 1.3), (0.8, 2.0), (0.35, 0.55), 3, 2, "box otherprop books"),
    "cabinet_wall": _wall_cabinet,
    "chair": _single("chair", furniture.chair),
    "clothes_heap": _single("clothes", cloth_heap),
    "clothes_hung": _clothes_hung,
    "clothes_rack": _rack,
    "counter": _counter,
    "curtain": lambda rng: _window(rng, "curtain"),
    "desk": _desk,
    "door": _door,
    "dresser": _chest(
        "dresser", (0.8, 1.4), (0.75, 1.1), (0.4, 0.5), 3, 4, "lamp otherprop books television box"
    ),
    "floor_mat": _mat,
    "lamp_floor": _single("lamp", lambda rng: furniture.lamp(rng, True)),
    "mirror": _mirror,
    "night_stand": _chest(
        "night stand", (0.38, 0.55), (0.45, 0.65), (0.35, 0.45), 1, 3, "lamp lamp otherprop books"
    ),
    "paper_sheet": _paper,
    "piano": _piano,
    "picture": _picture,
    "plant": _single("otherprop", furniture.potted_plant),
    "refridgerator": _fridge,
    "shelves": _shelves,
    "shower": _bathtub,
    "sink_stand": _sink_stand,
    "sofa": _sofa,
    "stove": _stove,
    "table": _table,
    "table_set": _table_set,
    "television_wall": _wall_tv,
    "toilet": _toilet,
    "towel_hung": _towel,
    "tv_stand": _chest("cabinet", (1.0, 1.6), (0.4, 0.6), (0.35, 0.5), 3, 2, "television"),
    "whiteboard": _whiteboard,
    "window": _window,
}


def make(rng: Rng, word: str) -> list[Placed]:
    """A new group by its word in `MAKERS`."""
    return MAKERS[word](rng)
