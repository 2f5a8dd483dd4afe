"""What TaskPrompter reads at a tap: a map per task, made by its prompt's attention."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.adapters.streams import ByDataset
from mtl_vision.models.decoders.task_maps import TaskConv, each
from mtl_vision.models.layers import (
    BatchNorm,
    Dtype,
    TaskParam,
    compute_type,
    gelu,
    torch_uniform,
)

Grid = tuple[int, int]


def check_grid(found: tuple[int, ...], grid: Grid) -> None:
    """Raises ConfigError if there are other patches than layers were made for.

    Args:
      found: (h, w) of the patches, or their number (h w,).
      grid: (h, w) of the layers.
    """
    h, w = grid
    if found not in ((h, w), (h * w,)):
        raise ConfigError(
            f"The image has {' x '.join(map(str, found))} patches, but task_prompter was made for "
            f"{h} x {w}; set config.adapter.size to the (height, width) of the images."
        )


class Tapped(NamedTuple):
    """What comes out of the last block before a tap.

    Attributes:
      tokens: ``[1, B, T + N, C]``, the prompts first.
      spatial: scores of the prompts for all tokens, ``[B, H, T, T + N]`` for H heads.
      channel: scores of the prompts for the channels in every window, ``[B, n, n, T, C]``.
    """

    tokens: jax.Array
    spatial: jax.Array
    channel: jax.Array


class Reweighing(nnx.Module):
    """Sums of all tasks' maps, by weights made from the scores of prompts for prompts.

    ``F_t <- sum_s w_ts F_s``; w_ts is a small network of the task t on the H heads' scores of
    prompt t for prompt s.
    """

    def __init__(self, tasks: int, heads: int, *, dtype: Dtype, rngs: nnx.Rngs):
        def draw(*shape):
            return TaskParam(torch_uniform(heads)(rngs.params(), (tasks, *shape)))

        self.hidden, self.hidden_bias = draw(heads, heads), draw(heads)
        self.out, self.out_bias = draw(heads), draw()
        self.dtype = dtype

    def __call__(self, maps: jax.Array, scores: jax.Array) -> jax.Array:
        """``[B, h, w, T, C]`` and ``[B, H, T, T]`` -> ``[B, h, w, T, C]``."""
        dtype = compute_type(self.dtype, self.out)
        first, first_bias, out, out_bias = (
            v.astype(dtype) for v in (self.hidden, self.hidden_bias, self.out, self.out_bias)
        )
        x = jnp.einsum("bhts,thg->btsg", scores.astype(dtype), first)
        x = gelu(x + first_bias[None, :, None])
        weights = jnp.einsum("btsg,tg->bts", x, out) + out_bias[None, :, None]
        return jnp.einsum("bts,bhwsc->bhwtc", weights, maps)


class TaskFeatures(nnx.Module):
    """The maps of one dataset's tasks at one tap; see `task_prompter`.

    Twice the patches are multiplied by one plus the scores of a task's prompt: heads by their
    scores for the patch, and channels by their scores in the window. Both are projected and
    fused by convolutions of the task. With `reweigh` all tasks' maps are summed by `Reweighing`, so
    that all tasks' losses reach these convolutions; else they are the task's own.

    Raises, when called:
      ConfigError: a map that is not of the size `grid`.
    """

    def __init__(
        self,
        tasks: int,
        channels: int,
        heads: int,
        *,
        embed: int,
        width: int,
        reweigh: bool,
        grid: Grid,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        self.grid = grid
        make = dict(dtype=dtype, rngs=rngs)
        conv = make | dict(bias=True, own=not reweigh)
        self.spatial = TaskConv(tasks, channels, embed, 1, **conv)
        self.channel = TaskConv(tasks, channels, embed, 1, **conv)
        self.join = TaskConv(tasks, 2 * embed, width, 1, **conv)
        self.mix = TaskConv(tasks, width, width, 3, **conv)
        self.norm = BatchNorm(width, tasks=tasks, dtype=dtype)
        if reweigh:
            for name in ("scale", "bias"):
                setattr(self.norm, name, nnx.Param(getattr(self.norm, name)[...]))
        self.out = TaskConv(tasks, width, width, 1, **conv)
        self.reweigh = Reweighing(tasks, heads, **make) if reweigh else None

    def __call__(self, x: jax.Array, tapped: Tapped, *, key: jax.Array | None = None) -> jax.Array:
        """Patches ``[B, h, w, C]`` -> ``[T, B, h, w, width]``."""
        check_grid(x.shape[1:3], self.grid)
        T = tapped.spatial.shape[2]
        spatial = tapped.spatial[..., T:].astype(x.dtype)
        channel = tapped.channel.astype(x.dtype)
        near = self.spatial([by_head(x, spatial[:, :, t]) for t in range(T)])
        far = self.channel([by_window(x, channel[..., t, :]) for t in range(T)])
        y = self.join(each(jnp.concatenate([near, far], -1)))
        y = gelu(self.norm(self.mix(each(y)), key=key))
        y = self.out(each(y))
        if self.reweigh is not None:
            y = self.reweigh(y, tapped.spatial[..., :T])
        return jnp.moveaxis(y, -2, 0)


def by_head(x: jax.Array, scores: jax.Array) -> jax.Array:
    """Returns ``x (1 + s)``: ``[B, h, w, C]``, with scores ``[B, H, h w]`` of its H equal parts."""
    B, h, w, _ = x.shape
    factor = 1 + jnp.moveaxis(scores, 1, -1).reshape(B, h, w, -1, 1)
    return (x.reshape(*factor.shape[:-1], -1) * factor).reshape(x.shape)


def by_window(x: jax.Array, scores: jax.Array) -> jax.Array:
    """Returns ``x (1 + s)``: ``[B, h, w, C]``, with scores ``[B, n, n, C]`` of n x n windows."""
    B, h, w, C = x.shape
    n = scores.shape[1]
    factor = 1 + scores[:, :, None, :, None]
    return (x.reshape(B, n, h // n, n, w // n, C) * factor).reshape(x.shape)


class TaskTap(nnx.Module):
    """A tap of a ViT that gives task streams: `TaskFeatures` per dataset and tap."""

    def __init__(self, taps: list[ByDataset]):
        self.taps = nnx.List(taps)

    def __call__(
        self,
        x: Tapped,
        *,
        index: int,
        norm: nnx.Module,
        grid: Grid,
        key: jax.Array | None = None,
    ) -> jax.Array:
        h, w = grid
        (patches,) = norm(x.tokens[:, :, -h * w :])
        patches = patches.reshape(-1, h, w, patches.shape[-1])
        return self.taps[index].chosen(patches, x, key=key)
