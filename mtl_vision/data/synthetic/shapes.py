"""Primitives and the models made of them.

Model frame: x right, y up, z away from the viewer, metres. A model stands on y = 0 and faces -z.
A primitive is a unit shape and the affine map that takes it to the model frame, so that moving a
model multiplies matrices and nothing else.
"""

import math
from typing import NamedTuple

import numpy as np

from mtl_vision.data.synthetic.materials import Material

# Unit shapes, in the frame where they are simple:
#   PLANE  y = 0, infinite, seen from y > 0.
#   PRISM  |y| <= 1, |x| <= 1 - a(y+1)/2, |z| <= 1 - b(y+1)/2; a box when a = b = 0.
#   BALL   the unit sphere.
#   TUBE   |y| <= 1 around the y axis, radius 1 at the bottom and a at the top.
#   LIMB   hull of two balls at y = -1 (radius a) and y = +1 (radius b).
#   RING   |y| <= 1, radius between a and 1.
PLANE, PRISM, BALL, TUBE, LIMB, RING = range(6)

UP = np.array([0.0, 1.0, 0.0])


class Prim(NamedTuple):
    """One primitive: `matrix` [3, 4] maps the unit frame to the model frame."""

    shape: int
    matrix: np.ndarray
    material: Material
    a: float = 0.0
    b: float = 0.0
    part: int = 0


class Model(NamedTuple):
    """Primitives that form one object; `top` is the height of a surface to put things on."""

    prims: list[Prim]
    top: float = 0.0


def rot_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def rot_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def rot_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _matrix(axes: np.ndarray | None, half: np.ndarray, centre: np.ndarray) -> np.ndarray:
    matrix = np.zeros((3, 4))
    if axes is None:
        matrix[0, 0], matrix[1, 1], matrix[2, 2] = half
    else:
        matrix[:, :3] = axes * half
    matrix[:, 3] = centre
    return matrix


def _along(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, float]:
    """Axes whose y points from p to q, and half the distance."""
    # In plain floats: ten times faster than numpy for three numbers.
    x, y, z = (float(b) - float(a) for a, b in zip(p, q, strict=True))
    length = math.sqrt(x * x + y * y + z * z) + 1e-9
    x, y, z = x / length, y / length, z / length
    if abs(x) < 0.8:  # third axis: (1, 0, 0) x y
        a, b, c = 0.0, -z, y
    else:  # (0, 0, 1) x y
        a, b, c = -y, x, 0.0
    size = math.sqrt(a * a + b * b + c * c)
    a, b, c = a / size, b / size, c / size
    first = (y * c - z * b, z * a - x * c, x * b - y * a)
    return np.array([first, (x, y, z), (a, b, c)]).T, length / 2


def plane(point, normal, material: Material) -> Prim:
    """The plane through `point`, seen from the side `normal` points to."""
    axes, _ = _along(np.zeros(3), np.asarray(normal, float))
    return Prim(PLANE, _matrix(axes, np.ones(3), point), material)


def box(centre, size, material: Material, *, turn=None, part: int = 0) -> Prim:
    """A box of full extents `size`; `turn` is a rotation matrix."""
    return Prim(PRISM, _matrix(turn, np.asarray(size) / 2, centre), material, 0.0, 0.0, part)


def prism(centre, size, taper, material: Material, *, turn=None) -> Prim:
    """A box whose top is `taper` = (x, z) smaller than its base: 0 a box, 1 a ridge or a tip."""
    return Prim(PRISM, _matrix(turn, np.asarray(size) / 2, centre), material, taper[0], taper[1])


def ball(centre, size, material: Material, *, turn=None, part: int = 0) -> Prim:
    """An ellipsoid of full extents `size`."""
    return Prim(BALL, _matrix(turn, np.asarray(size) / 2, centre), material, 0.0, 0.0, part)


def tube(p, q, radii, material: Material, *, part: int = 0) -> Prim:
    """A cylinder or frustum with flat ends from p (radius ``radii[0]``) to q (``radii[1]``)."""
    (bottom, top) = radii
    if top > bottom:  # the unit shape is widest at its base
        p, q, bottom, top = q, p, top, bottom
    axes, half = _along(np.asarray(p, float), q)
    middle = (np.asarray(p) + q) / 2
    size = np.array([bottom, half, bottom])
    return Prim(TUBE, _matrix(axes, size, middle), material, top / bottom, 0.0, part)


def limb(p, q, radii, material: Material, *, part: int = 0) -> Prim:
    """The hull of two balls at p and q."""
    axes, half = _along(np.asarray(p, float), q)
    half = max(half, abs(radii[0] - radii[1]) * 0.51)
    middle = (np.asarray(p) + q) / 2
    matrix = _matrix(axes, np.full(3, half), middle)
    return Prim(LIMB, matrix, material, radii[0] / half, radii[1] / half, part)


def ring(centre, radius: float, inner: float, width: float, material: Material, axis=UP) -> Prim:
    """A tyre of full `width` around `axis`; `inner` is the hole's share of the radius."""
    axes, _ = _along(np.zeros(3), axis)
    return Prim(RING, _matrix(axes, np.array([radius, width / 2, radius]), centre), material, inner)


def place(prims: list[Prim], position, yaw: float = 0.0, scale=1.0, tilt=None) -> list[Prim]:
    """Turns the primitives about y (after `tilt`), scales them, and moves them to `position`."""
    turn = rot_y(yaw) if tilt is None else rot_y(yaw) @ tilt
    matrices = (turn * scale) @ np.stack([p.matrix for p in prims])
    matrices[:, :, 3] += position
    return [p._replace(matrix=m) for p, m in zip(prims, matrices, strict=True)]


def half_extents(prims: list[Prim]) -> np.ndarray:
    """Half sizes [P, 3] of the unit shapes' bounding boxes in their own frames."""
    half = np.ones((len(prims), 3))
    for i, p in enumerate(prims):
        if p.shape == LIMB:
            r = max(p.a, p.b)
            half[i] = r, 1 + r, r
    return half


def bounds(prims: list[Prim]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner [3] of the axis-aligned box around the primitives."""
    matrices = np.stack([p.matrix for p in prims])
    reach = (np.abs(matrices[:, :, :3]) * half_extents(prims)[:, None]).sum(2)
    return (matrices[:, :, 3] - reach).min(0), (matrices[:, :, 3] + reach).max(0)
