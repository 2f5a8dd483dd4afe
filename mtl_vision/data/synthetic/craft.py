"""Boats and aeroplanes."""

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
    prism,
    rot_x,
    rot_y,
    rot_z,
    tube,
)
from mtl_vision.data.synthetic.vehicles import SIDE, body_paint

Rng = np.random.Generator


def boat(rng: Rng) -> Model:
    """Rowing, motor or sailing boat; the water line is y = 0."""
    length = rng.uniform(3.0, 9.0)
    width = length * rng.uniform(0.24, 0.36)
    deep = width * rng.uniform(0.3, 0.45)
    hull, inside = body_paint(rng), mt.wood(rng)
    half = length / 2
    axes = np.array([[0, 0, -1.0], [0, -1, 0], [-1, 0, 0]])  # upside down: narrow keel
    middle = Prim(
        PRISM,
        _affine(axes @ np.diag([half * 0.6, deep / 2, width / 2]), (0, deep * 0.35, half * 0.25)),
        hull,
        0.1,
        0.35,
    )
    bow_axes = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    bow = Prim(
        PRISM,
        _affine(
            bow_axes @ np.diag([width / 2, half * 0.32, deep / 2]), (0, deep * 0.38, -half * 0.65)
        ),
        hull,
        0.95,
        0.25,
    )
    prims = [middle, bow]
    top = deep * 0.85
    prims.append(box((0, top, half * 0.2), (width * 0.85, 0.06, length * 0.56), inside))
    rail = mt.paint(rng)
    prims.append(box((0, top * 0.8, half * 0.25), (width * 1.03, deep * 0.12, length * 0.6), rail))
    kind = rng.integers(3)
    if kind == 0 or length < 4:
        for z in (-0.1, 0.25):
            prims.append(box((0, top + 0.1, z * length), (width * 0.9, 0.06, 0.28), inside))
        oar = np.array([width * 0.45, top + 0.12, 0.1 * length])
        for s in (1, -1):
            prims.append(
                limb(
                    oar * (s, 1, 1),
                    (s * width * 1.2, 0.02, 0.25 * length),
                    (0.04, 0.06),
                    mt.wood(rng),
                )
            )
    elif kind == 1:
        high = rng.uniform(0.8, 1.5)
        cabin = (width * 0.7, high, length * rng.uniform(0.2, 0.35))
        prims.append(prism((0, top + high / 2, 0), cabin, (0.15, 0.3), mt.paint(rng)))
        pane = (cabin[0] * 0.98, high * 0.35, cabin[2] * 0.92)
        prims.append(box((0, top + high * 0.6, 0), pane, mt.glass(rng)))
        prims.append(
            limb(
                (0, top, half * 0.5), (0, top + high * 1.8, half * 0.5), (0.04, 0.03), mt.metal(rng)
            )
        )
    else:
        mast = length * rng.uniform(0.9, 1.3)
        prims.append(tube((0, top, 0), (0, top + mast, 0), (0.06, 0.04), mt.wood(rng)))
        sail = mt.pattern(rng, (tx.FLAT, tx.CLOUD, tx.STRIPES), mt.any_colour(rng) * 0.4 + 0.55)
        swing = rot_y(rng.uniform(-0.5, 0.5))
        for z, reach in ((1, 0.42), (-1, 0.3)):
            at = swing @ [0, 0, z * length * reach / 2] + np.array([0, top + mast * 0.5, 0])
            extent = (0.04, mast * 0.9, length * reach * 0.95)
            prims.append(prism(at, extent, (0, 0.95), sail, turn=swing))
    return Model(prims, top)


def aeroplane(rng: Rng) -> Model:
    """A propeller plane or a jet, wheels down; faces -z."""
    length = rng.uniform(7, 12)
    radius = length * rng.uniform(0.05, 0.075)
    jet = rng.random() < 0.6
    body, trim = body_paint(rng), mt.paint(rng)
    rise = radius * 2.4
    nose, tail = (
        np.array([0, rise, -length * 0.45]),
        np.array([0, rise + radius * 0.4, length * 0.5]),
    )
    prims = [
        limb(nose, (0, rise, length * 0.1), (radius * 0.92, radius), body),
        limb((0, rise, length * 0.1), tail, (radius, radius * 0.3), body),
    ]
    sweep, dihedral = rng.uniform(0.0, 0.55), rng.uniform(0.0, 0.15)
    high = rng.random() < 0.35
    reach = length * rng.uniform(0.42, 0.55)
    chord = length * rng.uniform(0.13, 0.2)
    for s in (-1, 1):
        prims.append(
            _wing(
                (s * radius * 0.5, rise + (0.7 if high else -0.5) * radius, 0),
                s,
                (reach, chord, radius * 0.16),
                (sweep, dihedral),
                body,
            )
        )
        prims.append(
            _wing(
                tail + [0, radius * 0.3, -chord * 0.3],
                s,
                (reach * 0.36, chord * 0.55, radius * 0.1),
                (sweep, 0.05),
                trim,
            )
        )
        if jet:
            x = s * reach * 0.38
            at = np.array([x, rise - radius * 0.9, sweep * abs(x) - chord * 0.4])
            prims.append(tube(at, at + [0, 0, chord * 0.8], (radius * 0.42, radius * 0.3), trim))
    fin = tail + np.array([0, radius * 1.2, -chord * 0.2])
    lift = rot_x(0.35)
    prims.append(
        prism(fin, (radius * 0.14, radius * 2.6, chord * 0.9), (0.3, 0.5), trim, turn=lift)
    )
    glass = mt.glass(rng)
    prims.append(
        ball(nose + [0, radius * 0.45, radius * 0.1], (radius * 1.3, radius, radius * 1.5), glass)
    )
    if not jet:
        hub = nose - [0, 0, radius * 1.0]
        turn = rot_z(rng.uniform(0, np.pi))
        prims.append(box(hub, (radius * 4, radius * 0.22, 0.06), mt.black(rng), turn=turn))
        prims.append(ball(hub, np.full(3, radius * 0.5), trim))
    strip = (radius * 2.02, radius * 0.3, length * 0.5)
    prims.append(box((0, rise + radius * 0.25, -length * 0.1), strip, glass))
    for x, z in ((0, -length * 0.33), (-radius * 1.4, 0.3), (radius * 1.4, 0.3)):
        prims.append(limb((x, rise * 0.7, z), (x, radius * 0.3, z), (0.06, 0.05), mt.metal(rng)))
        wheel = np.array([x, radius * 0.35, z])
        prims.append(
            tube(wheel - 0.1 * SIDE, wheel + 0.1 * SIDE, (radius * 0.35,) * 2, mt.black(rng))
        )
    return Model(prims)


def _wing(root, side: int, size, angles, material) -> Prim:
    """A tapered plate that starts at `root`: size (reach, chord, thickness), (sweep, dihedral)."""
    (reach, chord, thick), (sweep, dihedral) = size, angles
    out = np.array([side * np.cos(dihedral), np.sin(dihedral), sweep])
    axes = np.stack(
        [np.array([0, 0, 1.0]) * chord / 2, out * reach / 2, np.array([0, 1.0, 0]) * thick / 2], 1
    )
    return Prim(PRISM, _affine(axes, np.asarray(root) + out * reach / 2), material, 0.5, 0.6)


def _affine(axes: np.ndarray, centre) -> np.ndarray:
    return np.concatenate([axes, np.asarray(centre, float)[:, None]], 1)
