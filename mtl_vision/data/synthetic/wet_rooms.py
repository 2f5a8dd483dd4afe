"""What kitchens and bathrooms have."""

import numpy as np

from mtl_vision.data.synthetic import furniture, household
from mtl_vision.data.synthetic import materials as mt
from mtl_vision.data.synthetic import textures as tx
from mtl_vision.data.synthetic.placed import LABEL, Placed, on_top, topped
from mtl_vision.data.synthetic.shapes import (
    Model,
    ball,
    box,
    limb,
    prism,
    ring,
    rot_x,
    tube,
)

Rng = np.random.Generator


def counter(rng: Rng) -> list[Placed]:
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


def toilet(rng: Rng) -> list[Placed]:
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


def sink_stand(rng: Rng) -> list[Placed]:
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


def bathtub(rng: Rng) -> list[Placed]:
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
        sheet = household.hanging_cloth(rng, wide, 1.75, 0.045)
        placed.append(Placed(sheet, LABEL["shower curtain"], (x, 0.25, -d / 2 - 0.02)))
        rail = Model([limb((-w / 2, 2.0, 0), (w / 2, 2.0, 0), (0.015, 0.015), steel)])
        placed.append(Placed(rail, LABEL["otherprop"], (0, 0, -d / 2 - 0.02)))
    return placed


def fridge(rng: Rng) -> list[Placed]:
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
    return topped(rng, model, "refridgerator", (w * 0.8, d * 0.5), "box otherprop paper", 2)


def stove(rng: Rng) -> list[Placed]:
    skin = _white(rng) if rng.random() < 0.5 else mt.metal(rng)
    dark = mt.black(rng)._replace(blind=True, gloss=0.6)
    prims = [box((0, 0.45, 0), (0.65, 0.9, 0.6), skin)]
    prims.append(box((0, 0.42, -0.3), (0.5, 0.4, 0.03), dark))
    prims.append(limb((-0.25, 0.7, -0.34), (0.25, 0.7, -0.34), (0.014, 0.014), mt.metal(rng)))
    for x in (-0.16, 0.16):
        for z in (-0.14, 0.14):
            prims.append(tube((x, 0.9, z), (x, 0.92, z), (0.1, 0.1), dark))
    return [Placed(Model(prims), LABEL["otherstructure"])]
