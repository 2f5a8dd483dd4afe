"""Attention in shifted windows with relative position bias (Swin, arXiv 2103.14030)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from mtl_vision.models.attention import attend
from mtl_vision.models.convolution import pad_to
from mtl_vision.models.hidden import MASKED, Hidden
from mtl_vision.models.layers import NORMAL, Dtype, Linear, split


@functools.lru_cache(maxsize=64)
def relative_index(window: int) -> np.ndarray:
    """Row of the bias table for every (query, key) of a window: ``[w*w, w*w]`` int32.

    The row is ``(dy + w - 1) * (2w - 1) + dx + w - 1`` with (dy, dx) = query - key.
    """
    grid = np.stack(np.meshgrid(*[np.arange(window)] * 2, indexing="ij"), -1).reshape(-1, 2)
    offset = grid[:, None] - grid[None] + window - 1
    return (offset[..., 0] * (2 * window - 1) + offset[..., 1]).astype(np.int32)


@functools.lru_cache(maxsize=64)
def shift_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """What keeps a shifted window from looking across the seam: ``[windows, w*w, w*w]``.

    Rolling by `shift` brings the first rows and columns behind the last. Tokens of one window
    that were not neighbours before get -100, as in the reference, others 0.
    """

    def parts(size):  # 0 inside, 1 in the last window, 2 what was rolled in
        i = np.arange(size)
        return (i >= size - window).astype(int) + (i >= size - shift)

    label = 3 * parts(height)[:, None] + parts(width)[None]
    label = rearrange(label, "(h i) (w j) -> (h w) (i j)", i=window, j=window)
    return np.where(label[:, :, None] == label[:, None, :], 0.0, MASKED)


class WindowAttention(nnx.Module):
    """Attention inside windows of ``[S, B, H, W, C]``, with relative position bias.

    The bias table has a row per offset, ``(2w - 1)^2``. A smaller window uses the rows of its
    own offsets, the middle of the table.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        window: int,
        shift: int,
        shrink: bool,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        self.qkv = Linear(channels, 3 * channels, dtype=dtype, rngs=rngs)
        self.proj = Linear(channels, channels, dtype=dtype, rngs=rngs)
        shape = ((2 * window - 1) ** 2, heads)
        self.relative_position_bias_table = nnx.Param(NORMAL(rngs.params(), shape, jnp.float32))
        self.heads, self.window, self.shift, self.shrink = heads, window, shift, shrink
        self.hidden: Hidden | None = None

    def geometry(self, height: int, width: int) -> tuple[int, int]:
        """Returns the window and the shift that a map of this size gets."""
        if self.shrink and min(height, width) <= self.window:
            return min(height, width), 0
        return self.window, self.shift

    def bias(self, window: int) -> jax.Array:
        """Returns ``[heads, w*w, w*w]`` in the dtype of the table."""
        table = self.relative_position_bias_table[...]
        if window < self.window:
            side, cut = 2 * self.window - 1, self.window - window
            table = table.reshape(side, side, self.heads)[cut : side - cut, cut : side - cut]
            table = table.reshape(-1, self.heads)
        return jnp.moveaxis(table[relative_index(window)], -1, 0)

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        *_, height, width, _ = x.shape
        window, shift = self.geometry(height, width)
        keys = split(key, 2)
        x = into_windows(x, window, shift)
        x = self.mix(x, self.scores(height, width), key=keys[0])
        # Last, and not inside the windows: it may widen the streams, and here they need no order.
        return self.proj(from_windows(x, (height, width), window, shift), key=keys[1])

    def scores(self, height: int, width: int, extra: int = 0) -> list[jax.Array]:
        """Returns what is added to the scores on such a map.

        The bias ``[heads, N, N]``, and where it says more the mask ``[windows, 1, N, N]``, with an
        axis ``B`` before where tokens are hidden. They are not summed: the gradient of the bias
        would be one per window until the devices have exchanged it.

        Args:
          height, width: of the map.
          extra: tokens before those of every window, which get 0.
        """
        window, shift = self.geometry(height, width)
        bias, found = self.bias(window), []
        if shift:
            padded = (-(-size // window) * window for size in (height, width))
            found.append(jnp.asarray(shift_mask(*padded, window, shift), bias.dtype)[:, None])
        if self.hidden is not None:
            tokens = jnp.asarray(self.hidden.tokens(height, width), bias.dtype)[None, ..., None]
            hidden = into_windows(tokens, window, shift)[0, :, :, None, None, :, 0]
            hidden = jnp.broadcast_to(hidden, (*hidden.shape[:-2], *bias.shape[1:]))
            found = [MASKED * hidden + sum(x[None] for x in found)]
        before = [(extra, 0), (extra, 0)]
        return [jnp.pad(x, [(0, 0)] * (x.ndim - 2) + before) for x in (bias, *found)]

    def mix(
        self, x: jax.Array, added: Sequence[jax.Array], *, key: jax.Array | None = None
    ) -> jax.Array:
        """Attends inside of windows, without `proj`: ``[S, B, windows, N, C]``, see `scores`."""
        parts = jnp.split(self.qkv(x, key=key), 3, -1)
        q, k, v = (rearrange(t, "s b w n (h d) -> s b w h n d", h=self.heads) for t in parts)
        return rearrange(attend(q, k, v, *added), "s b w h n d -> s b w n (h d)")


def into_windows(x: jax.Array, window: int, shift: int) -> jax.Array:
    """``[S, B, H, W, C]``, filled up and rolled back by `shift`, -> ``[S, B, windows, N, C]``."""
    x = pad_to(x, window)
    x = jnp.roll(x, (-shift, -shift), (2, 3)) if shift else x
    return rearrange(x, "s b (h i) (w j) c -> s b (h w) (i j) c", i=window, j=window)


def from_windows(x: jax.Array, size: tuple[int, int], window: int, shift: int) -> jax.Array:
    """Undoes `into_windows` for maps of (H, W) = `size`."""
    height, width = size
    rows = -(-height // window)
    x = rearrange(x, "s b (h w) (i j) c -> s b (h i) (w j) c", h=rows, i=window, j=window)
    x = jnp.roll(x, (shift, shift), (2, 3)) if shift else x
    return x[:, :, :height, :width]
