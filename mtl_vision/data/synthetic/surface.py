"""Position, normal and texture coordinates of the surfaces that the rays met."""

from typing import NamedTuple

import numpy as np

from mtl_vision.data.synthetic.raycast import Geometry, View, axis_lengths, cone
from mtl_vision.data.synthetic.shapes import BALL, LIMB, PLANE, PRISM, RING, TUBE

Vector = tuple[np.ndarray, np.ndarray, np.ndarray]  # x, y, z apart: long last axes are fast


class Surface(NamedTuple):
    """The met pixels, as flat arrays over N."""

    where: np.ndarray  # [N] flat pixel index
    prim: np.ndarray  # [N] index of the primitive
    distance: np.ndarray  # [N] metres along the optical axis
    point: Vector  # world
    normal: Vector  # world, unit, towards the camera
    facing: np.ndarray  # [N] cosine between normal and ray
    u: np.ndarray  # [N] metres along the surface
    v: np.ndarray


def directions(view: View) -> Vector:
    """World direction of every pixel's ray, [H, W] each, with unit depth."""
    x, y = axis_lengths(view)
    g = view.spread.astype(np.float32)
    x, y = x.astype(np.float32), y.astype(np.float32)
    return tuple(np.add.outer(g[i, 1] * y + g[i, 2], g[i, 0] * x) for i in range(3))


class _Tables(NamedTuple):
    """What normals depend on besides the point, by primitive; float32."""

    a: np.ndarray
    b: np.ndarray
    size: np.ndarray  # [P, 3] half sizes in metres
    m: np.ndarray  # radius of the side at height y: m + k y
    k: np.ndarray
    middle: np.ndarray  # heights where the side of a limb ends: middle +- reach
    reach: np.ndarray


# Gradients of the unit shapes at points (x, y, z) of the primitives p.


def _plane(x, y, z, t: _Tables, p):
    return 0, 1, 0


def _prism(x, y, z, t: _Tables, p):
    ex, ey, ez = np.abs(x), np.abs(y), np.abs(z)
    a, b = t.a.take(p), t.b.take(p)
    tapered = np.any(a) or np.any(b)
    if tapered:
        up = (y + 1) / 2
        ex, ez = ex + a * up, ez + b * up
    on_y = (ey >= ex) & (ey >= ez)
    on_x = ~on_y & (ex >= ez)
    on_z = ~(on_y | on_x)
    side = np.where(on_x, a, b) / 2 if tapered else np.float32(0)
    return on_x * np.sign(x), np.where(on_y, np.sign(y), side), on_z * np.sign(z)


def _ball(x, y, z, t: _Tables, p):
    return x, y, z


def _tube(x, y, z, t: _Tables, p):
    k = t.k.take(p)
    radius = t.m.take(p) + k * y
    end = np.abs(y) > np.sqrt(x * x + z * z) / np.maximum(radius, 1e-6)
    return np.where(end, 0, x), np.where(end, np.sign(y), -k * radius), np.where(end, 0, z)


def _limb(x, y, z, t: _Tables, p):
    k, reach = t.k.take(p), t.reach.take(p)
    h = y - t.middle.take(p)
    side = -k * (t.m.take(p) + k * y)
    return x, np.where(h > reach, y - 1, np.where(h < -reach, y + 1, side)), z


def _ring(x, y, z, t: _Tables, p):
    radius = np.sqrt(x * x + z * z)
    outer, inner = np.abs(1 - radius), np.abs(radius - t.a.take(p))
    thickness = (t.size[:, 1] / t.size[:, 0]).take(p)
    end = (1 - np.abs(y)) * thickness < np.minimum(outer, inner)
    sign = np.where(end, 0, np.where(inner < outer, -1, 1))
    return sign * x, np.where(end, np.sign(y), 0), sign * z


_NORMALS = {PLANE: _plane, PRISM: _prism, BALL: _ball, TUBE: _tube, LIMB: _limb, RING: _ring}


def surface(view: View, geo: Geometry, inverse_depth: np.ndarray, index: np.ndarray) -> Surface:
    """Evaluates the surfaces that `raycast.cast` found; see `Surface`."""
    where = np.flatnonzero(index.ravel() >= 0)
    prim = index.ravel().take(where)
    distance = 1 / inverse_depth.ravel().take(where)
    ray = [d.ravel().take(where) for d in directions(view)]
    point = tuple(np.float32(o) + distance * d for o, d in zip(view.origin[:3], ray, strict=True))
    rows = geo.inverse.astype(np.float32)
    gather = [[rows[:, i, j].take(prim) for j in range(4)] for i in range(3)]
    local = [r[0] * point[0] + r[1] * point[1] + r[2] * point[2] + r[3] for r in gather]
    size = np.linalg.norm(geo.matrix[:, :, :3], axis=1).astype(np.float32)
    sides = (v.astype(np.float32) for v in cone(geo.a, geo.b, geo.shape))
    tables = _Tables(geo.a.astype(np.float32), geo.b.astype(np.float32), size, *sides)
    shape = geo.shape.astype(np.int8).take(prim)
    n = [np.zeros_like(distance) for _ in range(3)]
    for kind, normal in _NORMALS.items():
        at = np.flatnonzero(shape == kind)
        if len(at):
            gradient = normal(*(c.take(at) for c in local), tables, prim.take(at))
            for axis, value in zip(n, gradient, strict=True):
                axis[at] = value
    u, v = _coordinates(n, local, size, prim)
    normal, facing = _to_world(n, gather, ray)
    return Surface(where, prim, distance, point, normal, facing, u, v)


def _coordinates(n, local, size, prim) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates: the two local axes, in metres, across the normal's main axis."""
    metres = [c * size[:, i].take(prim) for i, c in enumerate(local)]
    # Compare in metres, so that an ellipsoid is not cut by its short axis only.
    weight = [np.abs(c) / size[:, i].take(prim) for i, c in enumerate(n)]
    on_x = (weight[0] >= weight[1]) & (weight[0] >= weight[2])
    on_y = ~on_x & (weight[1] >= weight[2])
    return np.where(on_x, metres[2], metres[0]), np.where(on_y, metres[2], metres[1])


def _to_world(n, gather, ray) -> tuple[Vector, np.ndarray]:
    """Gradients of the local shape as unit world vectors that face the camera."""
    world = [n[0] * gather[0][j] + n[1] * gather[1][j] + n[2] * gather[2][j] for j in range(3)]
    length = np.sqrt(world[0] ** 2 + world[1] ** 2 + world[2] ** 2)
    towards = -(world[0] * ray[0] + world[1] * ray[1] + world[2] * ray[2])
    scale = np.where(towards < 0, -1, 1) / np.maximum(length, 1e-20)
    far = np.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2)
    return tuple(c * scale for c in world), np.abs(towards) / (length * far + 1e-20)
