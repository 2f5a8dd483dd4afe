"""Resizing of maps as PyTorch's `interpolate` does it (``align_corners=False``).

Every method is linear and separable, so it is a matrix per axis, made once in NumPy. Enlarging
bilinearly by a whole number has only that many distinct weight pairs; written as shifted
multiply-adds it is 2 to 5 times faster than the matrices, forward and backward, on CPU.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtl_vision.errors import lookup

# The scope of what `resize` does.
INTERPOLATION = "interpolation"


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel with slope `a` at 1."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _clamped(source: int, target: int, kernel, support: int) -> np.ndarray:
    """Samples `kernel` at half-pixel centres; taps beyond the border repeat the border."""
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    taps = np.floor(centre).astype(int)[:, None] + np.arange(1 - support, support + 1)
    weights = kernel(centre[:, None] - taps)
    matrix = np.zeros((target, source))
    rows = np.broadcast_to(np.arange(target)[:, None], taps.shape)
    np.add.at(matrix, (rows, taps.clip(0, source - 1)), weights)
    return matrix


def _antialiased(source: int, target: int, kernel, support: int) -> np.ndarray:
    """Widens `kernel` when shrinking; taps beyond the border are left out, the rest rescaled."""
    scale = max(source / target, 1.0)
    centre = (np.arange(target) + 0.5) * source / target
    first = np.maximum((centre - support * scale + 0.5).astype(int), 0)
    last = np.minimum((centre + support * scale + 0.5).astype(int), source)
    taps = np.arange(source)
    weights = kernel((taps + 0.5 - centre[:, None]) / scale)
    weights = weights * ((taps >= first[:, None]) & (taps < last[:, None]))
    return weights / weights.sum(1, keepdims=True)


def _nearest(source: int, target: int) -> np.ndarray:
    return np.eye(source)[np.arange(target) * source // target]


METHODS = {
    "nearest": _nearest,
    "bilinear": functools.partial(_clamped, kernel=_triangle, support=1),
    "bicubic": functools.partial(_clamped, kernel=functools.partial(_cubic, a=-0.75), support=2),
    "bilinear_antialias": functools.partial(_antialiased, kernel=_triangle, support=1),
    "bicubic_antialias": functools.partial(
        _antialiased, kernel=functools.partial(_cubic, a=-0.5), support=2
    ),
}


@functools.lru_cache(maxsize=256)
def matrix(source: int, target: int, method: str) -> np.ndarray:
    """Returns the ``[target, source]`` float64 matrix of one axis; rows sum to 1.

    ``bicubic`` has the slope a = -0.75 and repeats the border; the ``_antialias`` kinds have
    a = -0.5 and renormalise at the border; ``nearest`` takes source ``floor(i * source / target)``.

    Raises:
      ConfigError: an unknown `method`.
    """
    made = lookup(METHODS, method, "resize.method")(source, target)
    made.setflags(write=False)
    return made


def _enlarge(x: jax.Array, factor: int, axis: int) -> jax.Array:
    """Bilinear by a whole number along one axis: `factor` weighted sums, interleaved."""
    size = x.shape[axis]
    first, last = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, size - 1))
    before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
    phases = []
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5
        neighbour = before if offset < 0 else after
        phases.append((1 - abs(offset)) * x + abs(offset) * neighbour)
    y = jnp.stack(phases, axis + 1)
    return y.reshape(*x.shape[:axis], size * factor, *x.shape[axis + 1 :])


def _along(x: jax.Array, target: int, axis: int, method: str) -> jax.Array:
    source = x.shape[axis]
    if source == target:
        return x
    if method == "bilinear" and target % source == 0:
        return _enlarge(x, target // source, axis)
    weights = jnp.asarray(matrix(source, target, method), x.dtype)
    return jnp.moveaxis(jnp.tensordot(weights, x, (1, axis)), 0, axis)


@jax.named_scope(INTERPOLATION)
def resize(x: jax.Array, size: tuple[int, int], method: str = "bilinear") -> jax.Array:
    """Resizes ``[..., h, w, C]`` to ``[..., H, W, C]`` in the dtype of `x`.

    Args:
      x: maps, channels last.
      size: (H, W).
      method: a key of `METHODS`, see `matrix`.
    """
    *_, height, width, _ = x.shape
    # The axis that shrinks, or grows less, goes first: less to do for the other.
    order = (-2, -3) if size[1] * height <= size[0] * width else (-3, -2)
    for axis in order:
        x = _along(x, size[axis + 3], x.ndim + axis, method)
    return x
