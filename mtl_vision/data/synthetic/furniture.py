"""Furniture that stands on a floor. A model faces -z; its back is towards +z."""

import numpy as np

from mtl_vision.data.synthetic import materials as mt
from mtl_vision.data.synthetic.shapes import (
    Model,
    Prim,
    ball,
    box,
    limb,
    rot_x,
    rot_y,
    tube,
)

Rng = np.random.Generator


def legs(rng: Rng, width: float, depth: float, height: float, material, thick=0.05) -> list[Prim]:
    """Four legs under a top of `width` by `depth` at `height`: square, round or splayed."""
    style = rng.integers(3)
    prims = []
    for x in (-1, 1):
        for z in (-1, 1):
            top = np.array([x * (width / 2 - thick), height, z * (depth / 2 - thick)])
            foot = top * (1, 0, 1) * (1.1 if style == 2 else 1)
            if style == 0:
                prims.append(box((top + foot) / 2, (thick, height, thick), material))
            else:
                prims.append(tube(foot, top, (thick * 0.35, thick * 0.5), material))
    return prims


def chair(rng: Rng) -> Model:
    """Dining, office, arm chair or stool with a back."""
    style = rng.choice(["plain", "plain", "office", "arm"])
    width, depth = rng.uniform(0.4, 0.52), rng.uniform(0.4, 0.5)
    seat, back = rng.uniform(0.42, 0.5), rng.uniform(0.35, 0.6)
    frame = mt.wood(rng) if rng.random() < 0.6 else mt.metal(rng)
    cover = mt.fabric(rng) if rng.random() < 0.5 else frame
    prims = [box((0, seat, 0), (width, rng.uniform(0.04, 0.09), depth), cover)]
    lean = rot_x(rng.uniform(0.05, 0.2))
    rear = np.array([0, seat, depth / 2 - 0.02])
    if style == "office":
        prims.append(tube((0, 0.1, 0), (0, seat, 0), (0.03, 0.03), mt.metal(rng)))
        for i in range(5):
            way = rot_y(i * 2 * np.pi / 5) @ [0, 0, 0.28]
            prims.append(limb((0, 0.1, 0), way + [0, 0.05, 0], (0.03, 0.025), mt.black(rng)))
    else:
        prims += legs(rng, width, depth, seat, frame, rng.uniform(0.035, 0.06))
    if rng.random() < 0.5 or style == "office":
        centre = rear + lean @ [0, back * 0.62, 0]
        prims.append(box(centre, (width * 0.95, back * 0.75, 0.05), cover, turn=lean))
        for s in (-1, 1):
            at = s * width * 0.4
            prims.append(
                limb(rear + [at, 0, 0], rear + lean @ [at, back * 0.5, 0], (0.02, 0.02), frame)
            )
    else:
        for s in np.linspace(-0.45, 0.45, int(rng.integers(2, 6))):
            prims.append(
                limb(
                    rear + [s * width, 0, 0],
                    rear + lean @ [s * width, back, 0],
                    (0.018, 0.018),
                    frame,
                )
            )
        for h in rng.uniform(0.4, 0.9, 1).tolist() + [1.0]:
            extent = (width * 0.96, 0.08, 0.035)
            prims.append(box(rear + lean @ [0, back * h, 0], extent, frame, turn=lean))
    if style == "arm" or rng.random() < 0.2:
        for s in (-1, 1):
            at = np.array([s * width * 0.52, seat + 0.22, 0])
            prims.append(box(at, (0.06, 0.04, depth * 0.95), frame))
            prims.append(
                limb(
                    at * (1, 0, 1) + [0, seat, -depth * 0.4],
                    at - [0, 0, depth * 0.4],
                    (0.02, 0.02),
                    frame,
                )
            )
    return Model(prims, seat + 0.04)


def sofa(rng: Rng, seats: int | None = None) -> Model:
    seats = int(rng.integers(1, 4)) if seats is None else seats
    inner, depth = seats * rng.uniform(0.58, 0.7), rng.uniform(0.75, 0.95)
    seat, back = rng.uniform(0.36, 0.45), rng.uniform(0.35, 0.55)
    arm, arm_width = rng.uniform(0.12, 0.3), rng.uniform(0.1, 0.25)
    cover = mt.fabric(rng)
    foot = rng.uniform(0.03, 0.12)
    width = inner + 2 * arm_width
    base = (width, seat * 0.6 - foot, depth)
    prims = [box((0, (seat * 0.6 + foot) / 2, 0), base, cover)]
    lean, deep = rot_x(rng.uniform(0.05, 0.2)), rng.uniform(0.15, 0.25)
    high = seat + back
    prims.append(
        box((0, high / 2 + foot / 2, depth / 2 - deep / 2), (width, high - foot, deep), cover)
    )
    rounded = rng.random() < 0.5
    for s in (-1, 1):
        x = s * (inner + arm_width) / 2
        prims.append(
            box((x, (seat + arm) / 2, -0.02), (arm_width, seat + arm - foot, depth), cover)
        )
        if rounded:
            ends = [np.array([x, seat + arm, z]) for z in (-depth / 2, depth / 2 - 0.1)]
            prims.append(limb(*ends, (arm_width * 0.6, arm_width * 0.6), cover))
    pad = inner / seats
    cushion = cover if rng.random() < 0.7 else mt.fabric(rng)
    for i in range(seats):
        x = -inner / 2 + (i + 0.5) * pad
        extent = (pad * 0.97, seat * 0.4, depth - deep)
        prims.append(box((x, seat * 0.8, -deep / 2), extent, cushion))
        at = (x, seat + back * 0.45, depth / 2 - deep - 0.06)
        prims.append(box(at, (pad * 0.92, back * 0.8, 0.14), cushion, turn=lean))
    prims += legs(rng, width * 0.96, depth * 0.9, foot + 0.02, mt.wood(rng))
    return Model(prims, seat)


def table(rng: Rng, width=(0.9, 1.9), height=(0.68, 0.8)) -> Model:
    """Round or rectangular, on four legs, a pedestal or two boards."""
    w, h = rng.uniform(*width), rng.uniform(*height)
    d, wood = min(w, rng.uniform(0.55, 1.0)), mt.wood(rng)
    under = wood if rng.random() < 0.6 else mt.metal(rng)
    thick = rng.uniform(0.025, 0.07)
    if rng.random() < 0.3:
        r = d * 0.6
        prims = [tube((0, h - thick, 0), (0, h, 0), (r, r), wood)]
        prims.append(tube((0, 0.05, 0), (0, h - thick, 0), (0.06, 0.045), under))
        prims.append(tube((0, 0, 0), (0, 0.05, 0), (r * 0.55, r * 0.4), under))
        return Model(prims, h)
    prims = [box((0, h - thick / 2, 0), (w, thick, d), wood)]
    if rng.random() < 0.2:
        for s in (-1, 1):
            prims.append(box((s * w * 0.42, h / 2, 0), (0.05, h - thick, d * 0.85), under))
    else:
        prims += legs(rng, w, d, h - thick, under, rng.uniform(0.04, 0.09))
    if rng.random() < 0.3:
        cloth = mt.fabric(rng)
        prims.append(box((0, h - 0.09, 0), (w * 1.02, 0.2, d * 1.02), cloth))
        return Model(prims, h + 0.01)
    return Model(prims, h)


def desk(rng: Rng) -> Model:
    """A table top over drawers on one side and a board or legs on the other."""
    w, d, h = rng.uniform(1.0, 1.6), rng.uniform(0.5, 0.75), rng.uniform(0.7, 0.78)
    wood, s = mt.wood(rng), rng.choice([-1, 1])
    prims = [box((0, h - 0.02, 0), (w, 0.04, d), wood)]
    pedestal = rng.uniform(0.32, 0.45)
    x = s * (w - pedestal) / 2
    prims.append(box((x, (h - 0.04) / 2, 0), (pedestal, h - 0.04, d * 0.95), wood))
    prims += _drawers(rng, (x, 0.06, -d * 0.475), (pedestal, h - 0.12), (1, 3), wood)
    prims.append(box((-s * w * 0.47, h / 2, 0), (0.04, h - 0.04, d * 0.95), wood))
    prims.append(box((0, h * 0.65, d * 0.4), (w * 0.9, h * 0.5, 0.02), wood))
    return Model(prims, h)


def _drawers(rng: Rng, corner, size, grid, wood) -> list[Prim]:
    """Fronts and handles: `corner` is (middle x, lowest y, z), `grid` (columns, rows)."""
    (x, y, z), (width, height), (columns, rows) = corner, size, grid
    front = wood if rng.random() < 0.6 else mt.wood(rng)
    handle, knob = mt.metal(rng), rng.random() < 0.5
    w, h = width / columns, height / rows
    prims = []
    for i in range(columns):
        for j in range(rows):
            at = np.array([x - width / 2 + (i + 0.5) * w, y + (j + 0.5) * h, z - 0.01])
            prims.append(box(at, (w * 0.92, h * 0.9, 0.025), front))
            if knob:
                prims.append(ball(at - [0, 0, 0.03], (0.035, 0.035, 0.035), handle))
            else:
                prims.append(box(at - [0, -h * 0.2, 0.03], (w * 0.3, 0.018, 0.02), handle))
    return prims


def chest(rng: Rng, width, height, depth, grid) -> Model:
    """A cupboard with a grid (columns, rows) of doors or drawers; also wardrobes, night stands."""
    w, h, d = (rng.uniform(*v) for v in (width, height, depth))
    wood, foot = mt.wood(rng), rng.uniform(0.0, 0.12)
    prims = [box((0, (h + foot) / 2, 0), (w, h - foot, d), wood)]
    if foot > 0.03:
        prims += legs(rng, w, d, foot, wood)
    prims += _drawers(rng, (0, foot + 0.02, -d / 2), (w * 0.96, h - foot - 0.05), grid, wood)
    prims.append(box((0, h, 0), (w * 1.03, 0.03, d * 1.03), wood))
    return Model(prims, h + 0.015)


def shelf(rng: Rng, width=(0.6, 1.4), height=(0.8, 2.1)) -> tuple[Model, list[float], float, float]:
    """An open case; also returns the boards' heights, and the inner width and depth."""
    w, h, d = rng.uniform(*width), rng.uniform(*height), rng.uniform(0.25, 0.4)
    wood = mt.wood(rng)
    count = max(2, int(h / rng.uniform(0.32, 0.45)))
    heights = [0.04 + i * (h - 0.05) / count for i in range(count)]
    prims = [box((0, y, 0), (w, 0.025, d), wood) for y in [*heights, h]]
    prims += [box((s * w / 2, h / 2, 0), (0.03, h, d), wood) for s in (-1, 1)]
    if rng.random() < 0.7:
        prims.append(box((0, h / 2, d / 2), (w, h, 0.015), wood))
    return Model(prims, h + 0.0125), heights, w - 0.05, d


def bed(rng: Rng) -> Model:
    """Headboard at +z; the pillows are things of their own."""
    w, length = rng.choice([0.95, 1.4, 1.7]) * rng.uniform(0.95, 1.1), rng.uniform(1.9, 2.1)
    h, frame = rng.uniform(0.4, 0.6), mt.wood(rng)
    sheet, cover = mt.fabric(rng), mt.fabric(rng)
    prims = [box((0, h * 0.35, 0), (w * 1.02, h * 0.3, length), frame)]
    prims.append(box((0, h * 0.75, 0), (w, h * 0.5, length * 0.99), sheet))
    share = rng.uniform(0.5, 0.75)
    at = (0, h * 0.72, -length * (1 - share) / 2 - 0.01)
    prims.append(box(at, (w * 1.05, h * 0.62, length * share), cover))
    for s in (-1, 1):
        x = s * w * 0.5
        prims.append(
            limb(
                (x, h * 0.98, at[2] - length * share * 0.47),
                (x, h * 0.98, at[2] + length * share * 0.47),
                (0.06, 0.06),
                cover,
            )
        )
    board = rng.uniform(0.75, 1.3)
    prims.append(box((0, board / 2, length / 2), (w * 1.05, board, 0.06), frame))
    if rng.random() < 0.4:
        prims.append(box((0, h * 0.6, -length / 2), (w * 1.05, h * 1.2, 0.05), frame))
    prims += legs(rng, w, length, h * 0.2, frame, 0.08)
    return Model(prims, h)
