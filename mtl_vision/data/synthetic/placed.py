"""Groups of models: what stands where on what, and its class."""

from typing import NamedTuple

import numpy as np

from mtl_vision.data.synthetic import household
from mtl_vision.data.synthetic.labels import IGNORE, NYUD40
from mtl_vision.data.synthetic.shapes import (
    Model,
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


SMALL = {
    "books": household.book_stack,
    "box": household.carton,
    "otherprop": household.vessel,
    "paper": household.sheet_of_paper,
    "lamp": household.lamp,
    "television": household.television,
    "pillow": household.cushion,
    "bag": household.bag,
    "clothes": household.cloth_heap,
    "towel": household.folded_towel,
    "unlabelled": lambda rng: (
        household.carton(rng) if rng.random() < 0.5 else household.vessel(rng)
    ),
}


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


def topped(rng: Rng, model: Model, name: str, size, words: str, most: int = 3) -> list[Placed]:
    return [Placed(model, LABEL[name]), *on_top(rng, model, size, words, most)]
