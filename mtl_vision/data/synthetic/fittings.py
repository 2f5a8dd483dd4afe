"""Furniture with what belongs to it: a desk with its chair, a bookshelf with books."""

import numpy as np

from mtl_vision.data.synthetic import furniture, hangings, household, wet_rooms
from mtl_vision.data.synthetic import materials as mt
from mtl_vision.data.synthetic import textures as tx
from mtl_vision.data.synthetic.placed import LABEL, SMALL, Placed, on_top, topped
from mtl_vision.data.synthetic.shapes import (
    Model,
    bounds,
    box,
    limb,
    prism,
    tube,
)

Rng = np.random.Generator


def _bed(rng: Rng) -> list[Placed]:
    model = furniture.bed(rng)
    placed = [Placed(model, LABEL["bed"])]
    for x in rng.choice([(0,), (-0.35, 0.35), (-0.3, 0.3)][rng.integers(3)], 1 + rng.integers(2)):
        at = (float(x), model.top, rng.uniform(0.6, 0.75))
        placed.append(Placed(household.cushion(rng), LABEL["pillow"], at, rng.normal(0, 0.2)))
    width = bounds(model.prims)[1][0]
    for side in (-1, 1):
        if rng.random() < 0.5:
            x = side * (width + rng.uniform(0.28, 0.4))
            stand = make(rng, "night_stand")
            placed += [
                p._replace(offset=(p.offset[0] + x, p.offset[1], p.offset[2] + 0.75)) for p in stand
            ]
    if rng.random() < 0.4:
        word = str(rng.choice(["clothes", "bag", "books", "box", "unlabelled"]))
        at = (rng.uniform(-0.3, 0.3), model.top + 0.02, rng.uniform(-0.7, 0.1))
        placed.append(Placed(SMALL[word](rng), LABEL[word], at, rng.uniform(0, 6)))
    return placed


def _sofa(rng: Rng) -> list[Placed]:
    model = furniture.sofa(rng)
    placed = [Placed(model, LABEL["sofa"])]
    for _ in range(int(rng.integers(0, 3))):
        tilt = household.cushion(rng)
        at = (rng.uniform(-0.4, 0.4), model.top, 0.0)
        placed.append(Placed(tilt, LABEL["pillow"], at, rng.normal(0, 0.5)))
    return placed


def _bookshelf(rng: Rng) -> list[Placed]:
    model, heights, width, _ = furniture.shelf(rng, (0.6, 1.2), (1.0, 2.1))
    placed = [Placed(model, LABEL["bookshelf"])]
    room = heights[1] - heights[0] if len(heights) > 1 else 0.4
    for y in heights:
        if rng.random() < 0.8:
            rows = household.book_row(rng, width, room * 0.9)
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
    placed = topped(rng, model, "table", (0.7, 0.5), "otherprop books paper otherprop unlabelled")
    for i in range(int(rng.integers(2, 5))):
        yaw = (i % 2) * np.pi + np.pi + rng.normal(0, 0.15)
        x = (-0.35, -0.35, 0.35, 0.35)[i] + rng.normal(0, 0.05)
        z = (-0.6, 0.6)[i % 2] * rng.uniform(0.95, 1.3)
        placed.append(Placed(furniture.chair(rng), LABEL["chair"], (x, 0, z), yaw))
    return placed


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
        return topped(rng, model, name, (width[0] * 0.9, depth[0] * 0.4), words)

    return make


def _table(rng: Rng) -> list[Placed]:
    low = rng.random() < 0.4
    model = furniture.table(rng, (0.7, 1.4), (0.35, 0.5) if low else (0.68, 0.8))
    words = "otherprop books paper box lamp unlabelled"
    return topped(rng, model, "table", (0.6, 0.4), words)


def _desk(rng: Rng) -> list[Placed]:
    words = "television books paper lamp otherprop box unlabelled"
    placed = topped(rng, furniture.desk(rng), "desk", (0.9, 0.4), words, 4)
    if rng.random() < 0.7:
        at = (rng.uniform(-0.2, 0.2), 0, -rng.uniform(0.5, 0.8))
        yaw = np.pi + rng.normal(0, 0.3)
        placed.append(Placed(furniture.chair(rng), LABEL["chair"], at, yaw))
    return placed


MAKERS = {
    "bag": _single("bag", household.bag),
    "bathtub": wet_rooms.bathtub,
    "bed": _bed,
    "blinds": lambda rng: hangings.window(rng, "blinds"),
    "bookshelf": _bookshelf,
    "box": _single("box", household.carton),
    "cabinet": _chest("cabinet", (0.7, 1.3), (0.8, 2.0), (0.35, 0.55), 3, 2, "box otherprop books"),
    "cabinet_wall": hangings.wall_cabinet,
    "chair": _single("chair", furniture.chair),
    "clothes_heap": _single("clothes", household.cloth_heap),
    "clothes_hung": hangings.clothes_hung,
    "clothes_rack": _rack,
    "counter": wet_rooms.counter,
    "curtain": lambda rng: hangings.window(rng, "curtain"),
    "desk": _desk,
    "door": hangings.door,
    "dresser": _chest(
        "dresser", (0.8, 1.4), (0.75, 1.1), (0.4, 0.5), 3, 4, "lamp otherprop books television box"
    ),
    "floor_mat": _mat,
    "lamp_floor": _single("lamp", lambda rng: household.lamp(rng, True)),
    "mirror": hangings.mirror,
    "night_stand": _chest(
        "night stand", (0.38, 0.55), (0.45, 0.65), (0.35, 0.45), 1, 3, "lamp lamp otherprop books"
    ),
    "paper_sheet": hangings.paper,
    "piano": _piano,
    "picture": hangings.picture,
    "plant": _single("otherprop", household.potted_plant),
    "refridgerator": wet_rooms.fridge,
    "shelves": _shelves,
    "sink_stand": wet_rooms.sink_stand,
    "sofa": _sofa,
    "stove": wet_rooms.stove,
    "table": _table,
    "table_set": _table_set,
    "television_wall": hangings.wall_tv,
    "toilet": wet_rooms.toilet,
    "towel_hung": hangings.towel,
    "tv_stand": _chest("cabinet", (1.0, 1.6), (0.4, 0.6), (0.35, 0.5), 3, 2, "television"),
    "whiteboard": hangings.whiteboard,
    "window": hangings.window,
}


def make(rng: Rng, word: str) -> list[Placed]:
    """A new group by its word in `MAKERS`."""
    return MAKERS[word](rng)
