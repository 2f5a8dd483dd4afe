"""Rotary positions of patches (RoFormer, arXiv 2104.09864) in the form of DINOv3 (2508.10104)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtl_vision.models.layers import expand, widen


@functools.lru_cache(maxsize=64)
def rotation(height: int, width: int, dim: int, base: float = 100.0) -> np.ndarray:
    """Returns ``[2, h*w, d]`` float64: cosine and sine of the angles of every patch.

    The angles are ``2 pi p / base^(4 i / d)`` for i < d / 4, with p the centre of the patch in
    [-1, 1], first for its row, then for its column, all that twice.

    Args:
      height, width: of the grid.
      dim: d, channels of a head, a multiple of 4.
      base: the longest period.
    """
    periods = base ** np.arange(0, 1, 4 / dim)
    centres = [(np.arange(n) + 0.5) / n * 2 - 1 for n in (height, width)]
    grid = np.stack(np.meshgrid(*centres, indexing="ij"), -1).reshape(-1, 2)
    angles = (2 * np.pi * grid[:, :, None] / periods).reshape(len(grid), -1)
    angles = np.concatenate([angles, angles], -1)
    return np.stack([np.cos(angles), np.sin(angles)])


def rotated(x: jax.Array, rotation: jax.Array | None) -> jax.Array:
    """Turns the last tokens of ``[..., N, d]`` by `rotation`, ``[2, n, d]``; None for nothing.

    A channel of the first half of d is turned together with the one at its place in the second.
    """
    if rotation is None:
        return x
    cos, sin = (expand(one, x.ndim) for one in widen(rotation))
    first, last = jnp.split(x, [x.shape[-2] - rotation.shape[1]], -2)
    last = widen(last)
    a, b = jnp.split(last, 2, -1)
    last = last * cos + jnp.concatenate([-b, a], -1) * sin
    return jnp.concatenate([first, last.astype(x.dtype)], -2)
