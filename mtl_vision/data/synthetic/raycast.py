"""Nearest surface per pixel, one primitive at a time inside its screen box.

A ray through the image point ``p = (x, y, 1)`` is the set of homogeneous points
``X(s) = s A + G p``. For a pinhole camera ``A = (position, 1)``, ``G p = (direction, 0)`` and s is
the inverse depth; for parallel light ``A = (-direction, 0)``, ``G p = (origin, 1)`` and s is minus
the distance. In both cases the nearest point has the largest s, a plane gives an s that is affine
in p, and a quadric gives the root of a polynomial whose coefficients are quadratic in p. So all
matrix work is done once per primitive, in float64, and a pixel costs a few float32 additions.
"""

from typing import NamedTuple

import numpy as np

from mtl_vision.data.synthetic.shapes import (
    BALL,
    LIMB,
    PLANE,
    PRISM,
    RING,
    TUBE,
    Prim,
    half_extents,
)


class View(NamedTuple):
    """A pinhole camera or parallel light, and its pixel grid."""

    origin: np.ndarray  # A [4]
    spread: np.ndarray  # G [4, 3]
    focal: float  # pixels per unit of p
    size: tuple[int, int]

    @property
    def parallel(self) -> bool:
        return self.origin[3] == 0


class Geometry(NamedTuple):
    """Primitives as arrays over P."""

    shape: np.ndarray  # [P] int
    matrix: np.ndarray  # [P, 3, 4] unit frame -> world
    inverse: np.ndarray  # [P, 4, 4] world -> unit frame
    half: np.ndarray  # [P, 3] bounding box in the unit frame
    a: np.ndarray  # [P]
    b: np.ndarray  # [P]


def geometry(prims: list[Prim]) -> Geometry:
    matrix = np.stack([p.matrix for p in prims])
    square = np.zeros((len(prims), 4, 4))
    square[:, :3], square[:, 3, 3] = matrix, 1
    a, b = np.array([p.a for p in prims]), np.array([p.b for p in prims])
    shape = np.array([p.shape for p in prims])
    return Geometry(shape, matrix, np.linalg.inv(square), half_extents(prims), a, b)


def axis_lengths(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Image coordinates p of the pixel centres: x [W] and y [H]."""
    H, W = view.size
    x = (np.arange(W) + 0.5 - W / 2) / view.focal
    y = (np.arange(H) + 0.5 - H / 2) / view.focal
    return x, y


def cone(a: np.ndarray, b: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, ...]:
    """Side of tubes, rings and limbs: radius ``m + k y`` for y in ``middle +- reach``."""
    limb = shape == LIMB
    slope = np.where(limb, (a - b) / 2, 0)  # sine of the angle of the common tangent
    cosine = np.sqrt(np.maximum(1 - slope**2, 1e-6))
    low, high = np.where(limb, a * slope, 0) - 1, np.where(limb, b * slope, 0) + 1
    tube = shape == TUBE
    radius_low = np.where(limb, a * cosine, 1)
    radius_high = np.where(limb, b * cosine, np.where(tube, a, 1))
    k = (radius_high - radius_low) / np.maximum(high - low, 1e-6)
    return radius_low - k * low, k, (low + high) / 2, (high - low) / 2


def _quadrics(geo: Geometry) -> np.ndarray:
    """[P, 3, 4, 4]: the ball or side of a primitive, and a limb's ends or a ring's hole."""
    P = len(geo.shape)
    M = np.zeros((P, 3, 4, 4))
    m, k, _, _ = cone(geo.a, geo.b, geo.shape)
    M[:, 0, 0, 0] = M[:, 0, 2, 2] = 1
    M[:, 0, 1, 1] = -(k**2)
    M[:, 0, 1, 3] = M[:, 0, 3, 1] = -m * k
    M[:, 0, 3, 3] = -(m**2)
    M[geo.shape == BALL, 0] = np.diag([1.0, 1, 1, -1])
    for i, (centre, radius) in enumerate(((-1, geo.a), (1, geo.b)), start=1):
        M[:, i] = np.diag([1.0, 1, 1, 0])
        M[:, i, 1, 3] = M[:, i, 3, 1] = -centre
        M[:, i, 3, 3] = 1 - radius**2
    hole = geo.shape == RING
    M[hole, 1] = np.diag([1.0, 0, 1, 0])
    M[hole, 1, 3, 3] = -(geo.a[hole] ** 2)
    return M


def _planes(geo: Geometry) -> np.ndarray:
    """[P, 6, 4]: outward planes; the first two are y = +1 and y = -1, or y = 0 of a PLANE."""
    N = np.zeros((len(geo.shape), 6, 4))
    N[:, 0, 1], N[:, 1, 1] = 1, -1
    N[:, :2, 3] = -1
    N[geo.shape == PLANE, 0, 3] = 0
    for i, axis, sign in ((2, 0, 1), (3, 0, -1), (4, 2, 1), (5, 2, -1)):
        taper = geo.a if axis == 0 else geo.b
        N[:, i, axis], N[:, i, 1] = sign, taper / 2
        N[:, i, 3] = taper / 2 - 1
    return N


def screen_boxes(view: View, geo: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Pixel boxes [P, 4] as (top, bottom, left, right) and image points [P, 2] inside them."""
    signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    corners = np.einsum("pij,pkj->pki", geo.matrix[:, :, :3], signs * geo.half[:, None])
    corners += geo.matrix[:, None, :, 3]  # [P, 8, 3]
    axes = view.spread[:3]
    H, W = view.size
    if view.parallel:
        local = (corners - axes[:, 2]) @ axes[:, :2]
        behind = np.zeros(len(corners), bool)
    else:
        local = (corners - view.origin[:3]) @ axes
        depth = np.maximum(local[..., 2:], 0.05)
        behind = (local[..., 2] < 0.05).any(1) & (local[..., 2] > 0.05).any(1)
        gone = (local[..., 2] < 0.05).all(1)
        local = local[..., :2] / depth
    low, high = local.min(1), local.max(1)
    box = np.stack([low[:, 1], high[:, 1], low[:, 0], high[:, 0]], 1) * view.focal
    box += np.array([H, H, W, W]) / 2
    box[:, ::2], box[:, 1::2] = np.floor(box[:, ::2]), np.ceil(box[:, 1::2])
    everywhere = behind | (geo.shape == PLANE)
    box[everywhere] = 0, H, 0, W
    if not view.parallel:
        box[gone & (geo.shape != PLANE)] = 0
    box = np.clip(box, 0, np.array([H, H, W, W])).astype(int)
    middle = (low + high) / 2
    middle[everywhere] = 0
    return box, middle


class _Rays(NamedTuple):
    """Per-primitive coefficients, centred on the primitive's image point."""

    alpha: np.ndarray  # [P, 6] plane . A
    planes: np.ndarray  # [P, 6, 3] plane . G
    c: np.ndarray  # [P, 3] A M A
    beta: np.ndarray  # [P, 3, 3] A M G
    D: np.ndarray  # [P, 3, 3, 3] beta beta' - c G M G
    disc: np.ndarray  # [P, 3, 3, 3] quadrics on the visible flat end
    cap: np.ndarray  # [P] index of the visible flat end, or -1
    side: np.ndarray  # [P, 2, 4] (A, G) of y - middle, and of w times reach


def _rays(view: View, geo: Geometry, middle: np.ndarray) -> _Rays:
    A = geo.inverse @ view.origin  # [P, 4]
    G = geo.inverse @ view.spread  # [P, 4, 3]
    G[:, :, 2] += np.einsum("pij,pj->pi", G[:, :, :2], middle)
    N, M = _planes(geo), _quadrics(geo)
    alpha = np.einsum("pni,pi->pn", N, A)
    planes = N @ G
    MA = np.einsum("pqij,pj->pqi", M, A)
    c = np.einsum("pqi,pi->pq", MA, A)
    beta = MA @ G
    Gt = np.swapaxes(G, 1, 2)[:, None]
    D = beta[..., :, None] * beta[..., None, :] - c[..., None, None] * (Gt @ M @ G[:, None])
    cap = np.where(alpha[:, 0] > 1e-9, 0, np.where(alpha[:, 1] > 1e-9, 1, -1))
    at = np.arange(len(cap)), np.maximum(cap, 0)
    safe = np.where(cap < 0, 1.0, alpha[at])
    flat = G - A[:, :, None] * (planes[at] / safe[:, None])[:, None, :]  # points of that end
    disc = np.swapaxes(flat, 1, 2)[:, None] @ M @ flat[:, None]
    _, _, centre, reach = cone(geo.a, geo.b, geo.shape)
    w = np.concatenate([A[:, 3:], G[:, 3]], 1)
    y = np.concatenate([A[:, 1:2], G[:, 1]], 1) - centre[:, None] * w
    side = np.stack([y, w * reach[:, None]], 1)
    single = (np.asarray(v, np.float32) for v in (alpha, planes, c, beta, D, disc))
    return _Rays(*single, cap, side.astype(np.float32))


def _affine(g: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.add.outer(g[1] * y + g[2], g[0] * x)


def _quadratic(K: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    value = np.multiply.outer((2 * K[0, 1]) * y, x)
    value += (K[0, 0] * x + 2 * K[0, 2]) * x
    value += ((K[1, 1] * y + 2 * K[1, 2]) * y + K[2, 2])[:, None]
    return value


def _root(r: _Rays, i: int, q: int, x: np.ndarray, y: np.ndarray, *, sign: float = 1.0):
    """s where the ray enters (sign +1) or leaves (-1) quadric q; NaN where it misses."""
    c = r.c[i, q]
    c = c if abs(c) > 1e-12 else 1e-12
    s = _quadratic(r.D[i, q] / c**2, x, y)
    np.sqrt(s, out=s)
    if sign * c < 0:
        np.negative(s, out=s)
    s -= _affine(r.beta[i, q] / c, x, y)
    return s


def _hull(r: _Rays, i: int, x: np.ndarray, y: np.ndarray, floor: float) -> np.ndarray:
    """Convex body of six planes: enters at the smallest s of those that face the viewer."""
    alpha = r.alpha[i]
    g = r.planes[i] / -np.where(np.abs(alpha) > 1e-12, alpha, np.float32(1e-12))[:, None]
    columns, rows = g[:, :1] * x, g[:, 1:2] * y + g[:, 2:]
    front = alpha > 0
    if not front.any():
        return np.full((len(y), len(x)), floor, np.float32)
    near = np.minimum.reduce(rows[front][:, :, None] + columns[front][:, None])
    back = ~front
    if back.any():
        far = np.maximum.reduce(rows[back][:, :, None] + columns[back][:, None])
        near[near <= far] = floor
    return near


def _side(r: _Rays, i: int, q: int, x, y, *, sign: float = 1.0, floor: float) -> np.ndarray:
    """The curved side between the two ends."""
    s = _root(r, i, q, x, y, sign=sign)
    (height, *g), (weight, *w) = r.side[i]
    h = _affine(g, x, y)
    h += height * s
    np.abs(h, out=h)
    limit = weight * s if weight else np.float32(w[2])
    s[~(h <= limit)] = floor
    return s


def _cap(r: _Rays, i: int, x, y, floor: float, *, hole: bool = False) -> np.ndarray:
    """The flat end that faces the viewer."""
    n = r.cap[i]
    s = _affine(r.planes[i, n] / -r.alpha[i, n], x, y)
    s[_quadratic(r.disc[i, 0], x, y) > 0] = floor
    if hole:
        s[_quadratic(r.disc[i, 1], x, y) < 0] = floor
    return s


def _nearest(r: _Rays, shape: int, i: int, x, y, floor: float) -> np.ndarray:
    if shape == PLANE:
        if r.alpha[i, 0] <= 1e-9:
            return np.full((len(y), len(x)), floor, np.float32)
        return _affine(r.planes[i, 0] / -r.alpha[i, 0], x, y)
    if shape == PRISM:
        return _hull(r, i, x, y, floor)
    if shape == BALL:
        return _root(r, i, 0, x, y)
    s = _side(r, i, 0, x, y, floor=floor)
    if shape == LIMB:
        np.fmax(s, _root(r, i, 1, x, y), out=s)
        return np.fmax(s, _root(r, i, 2, x, y), out=s)
    if r.cap[i] >= 0:
        np.fmax(s, _cap(r, i, x, y, floor, hole=shape == RING), out=s)
    if shape == RING:
        np.fmax(s, _side(r, i, 1, x, y, sign=-1.0, floor=floor), out=s)
    return s


def cast(view: View, geo: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest surface of every pixel.

    Returns: s [H, W] float32 (0 for a camera, -1e9 for light where nothing is met) and the
    primitive's index [H, W], -1 where nothing is met.
    """
    floor = -1e9 if view.parallel else 0.0
    best = np.full(view.size, floor, np.float32)
    index = np.full(view.size, -1, np.intp)
    boxes, middle = screen_boxes(view, geo)
    rays = _rays(view, geo, middle)
    xs, ys = axis_lengths(view)
    shapes = geo.shape.tolist()
    with np.errstate(invalid="ignore", over="ignore"):
        for i, (top, bottom, left, right) in enumerate(boxes.tolist()):
            if top >= bottom or left >= right:
                continue
            x = (xs[left:right] - middle[i, 0]).astype(np.float32)
            y = (ys[top:bottom] - middle[i, 1]).astype(np.float32)
            s = _nearest(rays, shapes[i], i, x, y, floor)
            window = best[top:bottom, left:right]
            nearer = s > window
            np.copyto(window, s, where=nearer)
            np.copyto(index[top:bottom, left:right], i, where=nearer)
    return best, index
