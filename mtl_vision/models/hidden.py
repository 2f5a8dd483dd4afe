"""Tokens that attention must not read: the margins of images on a canvas that is too large."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

MASKED = -100.0  # added to a score, as in Swin's masks: its weight is then below 4e-44


class Area(NamedTuple):
    """Rows of a batch, and where on the canvas they hold something, in pixels."""

    rows: int
    top: int
    left: int
    height: int
    width: int


class Hidden(NamedTuple):
    """Which tokens of a batch lie outside of their area.

    canvas: (H, W) of the images of the batch.
    areas: one for each block of rows, in order.
    stride: pixels of a token's side at the entry of the backbone.
    """

    canvas: tuple[int, int]
    areas: tuple[Area, ...]
    stride: int

    def tokens(self, height: int, width: int) -> np.ndarray:
        """Returns bool ``[B, height, width]``, True for tokens without a pixel of their area."""

        def outside(size: int, tokens: int, start: int, length: int) -> np.ndarray:
            stride = -(-size // tokens)
            first = np.arange(tokens) * stride
            return (first + stride <= start) | (first >= start + length)

        blocks = []
        for rows, top, left, area_height, area_width in self.areas:
            y = outside(self.canvas[0], height, top, area_height)
            x = outside(self.canvas[1], width, left, area_width)
            blocks.append(np.broadcast_to(y[:, None] | x, (rows, height, width)))
        return np.concatenate(blocks)

    def bias(self, count: int) -> jax.Array:
        """Returns what is added to scores of ``[B, heads, N, N]``: ``[B, 1, 1, count]``.

        The last tokens are the patches; what stands before them is seen by all.
        """
        grid = [-(-size // self.stride) for size in self.canvas]
        hidden = self.tokens(*grid).reshape(-1, 1, 1, grid[0] * grid[1])
        lead = np.zeros((len(hidden), 1, 1, count - hidden.shape[-1]), bool)
        return jnp.where(np.concatenate([lead, hidden], -1), MASKED, 0.0)


def hide(backbone: Any, hidden: Hidden) -> None:
    """Makes every attention of a backbone leave out these tokens, in place.

    Args:
      backbone: put together for one pass over such a batch.
      hidden: which tokens.
    """
    for _, module in nnx.iter_modules(backbone):
        if hasattr(module, "hidden"):
            module.hidden = hidden
