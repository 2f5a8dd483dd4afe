"""Bottleneck adapters: ``x + norm(up(act(down x)))`` behind attention or MLP."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models.adapters.inject import edit_blocks, widths, wrap
from mtl_vision.models.adapters.maps import parameter, spread, task_count
from mtl_vision.models.adapters.streams import task_streams
from mtl_vision.models.layers import Dtype, compute_type, widen

ACTS = {"gelu_tanh": jax.nn.gelu, "swish": jax.nn.silu, "relu": jax.nn.relu}
SITES = {"attn": "scale1", "mlp": "scale2"}  # the slots behind attention and MLP
NORMS = ("none", "shared", "task")
ONE = jax.nn.initializers.constant

# The paths of what these adapters add.
PATTERNS = (r".*/scale[12]/(linear/)*(down|up|norm)/.*", "generate/.*")


class Map(Protocol):
    """What `Bottleneck` needs of its two maps ``[S, B, ..., C]`` -> ``[S, B, ..., D]``."""

    tasks: int

    def __call__(self, x: jax.Array) -> jax.Array: ...


class PostNorm(nnx.Module):
    """LayerNorm of the last axis, the same for all streams or one per task."""

    def __init__(
        self, channels: int, *, gain: float, tasks: int, dtype: Dtype = None, rngs: nnx.Rngs
    ):
        self.scale = parameter(ONE(gain), (channels,), tasks, rngs)
        self.bias = parameter(ONE(0.0), (channels,), tasks, rngs)
        self.dtype = dtype

    @property
    def tasks(self) -> int:
        """T, or 0 for one norm for all."""
        return task_count((self.scale, 1))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = widen(x)
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)
        y = x * spread(self.scale[...], x) + spread(self.bias[...], x)
        return y.astype(compute_type(self.dtype, self.scale))


class Bottleneck(nnx.Module):
    """``y + norm(up(act(down y)))`` with y what the layer in this place gives.

    Works on every stream alike, ``[S, ...]`` -> ``[S, ...]``, unless a part has parameters per
    task: then on the streams of the tasks, which it opens, and the shared stream passes by.

    Args:
      linear: the layer in this place: Identity, a LayerScale, or an adapter put there before.
      down, up: maps ``[..., C]`` -> ``[..., d]`` and back.
      norm: or None.
      act: a key of `ACTS`.
      shared: 0 or 1 leading streams that belong to all tasks, where task streams are open.
    """

    def __init__(
        self,
        linear: nnx.Module,
        down: Map,
        up: Map,
        norm: PostNorm | None,
        *,
        act: str,
        shared: int,
    ):
        self.linear, self.down, self.up, self.norm = linear, down, up, norm
        self.act, self.shared = act, shared

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        y = self.linear(x, key=key)
        parts = [part for part in (self.down, self.up, self.norm) if part is not None]
        T = max(part.tasks for part in parts)
        if not T:
            return y + self._branch(y)
        tasks = task_streams(y, self.shared, T)
        tasks = tasks + self._branch(tasks)
        return jnp.concatenate([y[: self.shared], tasks]) if self.shared else tasks

    def _branch(self, x):
        u = self.up(ACTS[self.act](self.down(x)))
        return u if self.norm is None else self.norm(u)


# (C, d, rngs) -> the maps C -> d and d -> C
Maps = Callable[[int, int, nnx.Rngs], tuple[Map, Map]]


def insert(
    backbone: Any,
    maps: Maps,
    *,
    sites: tuple[str, ...],
    ratio: int,
    act: str,
    norm: str,
    gain: float,
    dtype: Dtype,
    rngs: nnx.Rngs,
) -> Any:
    """Puts a `Bottleneck` into every block, in place.

    Args:
      backbone: its tasks are named, and its streams open if anything is per task.
      maps: makes the two maps of a block of width C with d = C / `ratio`.
      sites: keys of `SITES`.
      ratio: of the width of a block to that of the bottleneck; divides the widths.
      act: a key of `ACTS`.
      norm: one of `NORMS`.
      gain: scale of the norms at the start.
      dtype: compute type.
      rngs: of the parameters.

    Raises:
      ConfigError: an unknown name, or a ratio that does not divide a width.
    """
    lookup(ACTS, act, "adapter.act")
    lookup(dict.fromkeys(NORMS), norm, "adapter.norm")
    slots = [lookup(SITES, site, "adapter.sites") for site in sites]
    tasks = len(backbone.tasks) if norm == "task" else 0

    def edit(block, place, rngs):
        _, C = widths(block.mlp.fc2)
        d = bottleneck(C, ratio)
        for slot in slots:
            post = dict(gain=gain, tasks=tasks, dtype=dtype, rngs=rngs)
            normed = None if norm == "none" else PostNorm(C, **post)
            down, up = maps(C, d, rngs)

            def make(x, down=down, up=up, normed=normed):
                return Bottleneck(x, down, up, normed, act=act, shared=backbone.shared)

            wrap(block, slot, make)

    edit_blocks(backbone, edit, rngs=rngs)
    return backbone


def bottleneck(channels: int, ratio: int) -> int:
    """Returns the width of the bottleneck, ``channels / ratio``.

    Raises:
      ConfigError: it is not a whole number.
    """
    if ratio < 1 or channels % ratio:
        raise ConfigError(
            f"config.adapter.ratio={ratio} does not divide a block's {channels} channels; use a "
            f"divisor of the narrowest block's."
        )
    return channels // ratio
