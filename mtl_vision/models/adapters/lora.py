"""LoRA (arXiv 2106.09685): low-rank changes of linear layers, on the parts of qkv by themselves."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models.adapters.adapter import owned
from mtl_vision.models.adapters.inject import edit_blocks, merged, widths, wrap
from mtl_vision.models.adapters.low_rank import check_rank
from mtl_vision.models.adapters.maps import ZEROS, Dense
from mtl_vision.models.adapters.streams import task_streams
from mtl_vision.models.layers import Dtype, TaskParam, torch_uniform

# (layer, which of how many equal parts of its outputs)
SITES = {
    "q": ("attn.qkv", 0, 3),
    "k": ("attn.qkv", 1, 3),
    "v": ("attn.qkv", 2, 3),
    "proj": ("attn.proj", 0, 1),
    "fc1": ("mlp.fc1", 0, 1),
    "fc2": ("mlp.fc2", 0, 1),
}


class Pair(nnx.Module):
    """``x A B``, or ``(x A + a) B + b``: A is uniform, B and the biases are zero."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        rank: int,
        bias: bool,
        tasks: int,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        check_rank(rank, d_in, d_out)
        make = dict(bias=bias, tasks=tasks, dtype=dtype, rngs=rngs)
        self.a = Dense(d_in, rank, init=torch_uniform(d_in), **make)
        self.b = Dense(rank, d_out, init=ZEROS, **make)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(self.a(x))

    def product(self) -> tuple[jax.Array, jax.Array | None]:
        """Returns ``A B`` and ``a B + b``; works on stacked ones too."""
        kernel = self.b.kernel[...]
        if self.a.bias is None:
            return self.a.kernel[...] @ kernel, None
        moved = jnp.einsum("...r,...rd->...d", self.a.bias[...], kernel)
        return self.a.kernel[...] @ kernel, moved + self.b.bias[...]


class LoRALinear(nnx.Module):
    """``x W + b`` plus ``s`` times a `Pair` on some of the equal parts of its outputs.

    Pairs per task act on the streams of the tasks, which they open.

    Args:
      linear: the layer, ``[..., C]`` -> ``[..., D]``.
      pairs: by site, as in `SITES`.
      scale: s.
      shared: 0 or 1 leading streams that belong to all tasks, where task streams are open.
    """

    def __init__(self, linear: nnx.Module, pairs: Mapping[str, Pair], *, scale: float, shared: int):
        self.linear, self.lora = linear, nnx.Dict(dict(pairs))
        self.scale, self.shared = scale, shared

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        y = self.linear(x, key=key)
        T = max(pair.a.tasks for pair in self.lora.values())
        if not T:
            return self._changed(y, x)
        x = task_streams(x, self.shared, T)
        tasks = self._changed(task_streams(y, self.shared, T), x)
        return jnp.concatenate([y[: self.shared], tasks]) if self.shared else tasks

    def _changed(self, y, x):
        columns = jnp.split(y, self._parts(), -1)
        for site, pair in self.lora.items():
            columns[SITES[site][1]] += self.scale * pair(x)
        return jnp.concatenate(columns, -1)

    def _parts(self):
        return max(SITES[site][2] for site in self.lora)

    def merged(self) -> nnx.Module:
        """Returns the layer with the pairs folded in, or itself where they are per task."""
        self.linear = merged(self.linear)
        own = nnx.state(self.lora, TaskParam)
        if jax.tree.leaves(own) or not hasattr(self.linear, "kernel"):
            return self
        kernels = jnp.split(self.linear.kernel[...], self._parts(), -1)
        biases = jnp.split(self.linear.bias[...], self._parts(), -1)
        for site, pair in self.lora.items():
            kernel, bias = pair.product()
            kernels[SITES[site][1]] += self.scale * kernel
            if bias is not None:
                biases[SITES[site][1]] += self.scale * bias
        self.linear.kernel[...] = jnp.concatenate(kernels, -1)
        self.linear.bias[...] = jnp.concatenate(biases, -1)
        return self.linear


def lora(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    rank: int = 4,
    alpha: float = 32.0,
    sites: tuple[str, ...] = ("q", "v"),
    bias: bool = False,
    share: str = "all",
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts LoRA into linear layers, in place; the function is the same until it is trained.

    ``x W + (alpha / rank) x A B``. On Swin-T the defaults have 70,656 parameters, with
    ``bias=True`` 79,584; the latter, once per task, give the published total (arXiv 2210.03265).

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      rank: of ``A B``.
      alpha: the change is scaled by alpha / rank.
      sites: of ``q``, ``k``, ``v``, ``proj``, ``fc1`` and ``fc2``.
      bias: whether A and B are linear layers with biases.
      share: ``all`` for one set, ``none`` for one per task.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: an unknown name, or a rank that does not fit a layer.
    """
    layers = [lookup(SITES, site, "adapter.sites")[0] for site in sites]
    lookup(dict.fromkeys(("all", "none")), share, "adapter.share")
    if not sites:
        raise ConfigError(f"config.adapter.sites is empty; use some of {', '.join(SITES)}.")
    own, _ = owned(backbone, tasks, share=share)
    make = dict(rank=rank, bias=bias, tasks=own, dtype=dtype)

    def edit(block, place, rngs):
        for layer in dict.fromkeys(layers):
            chosen = [site for site in sites if SITES[site][0] == layer]

            def wrapped(linear, chosen=chosen):
                C, D = widths(linear)
                parts = {s: Pair(C, D // SITES[s][2], **make, rngs=rngs) for s in chosen}
                return LoRALinear(linear, parts, scale=alpha / rank, shared=backbone.shared)

            wrap(block, layer, wrapped)

    edit_blocks(backbone, edit, rngs=rngs)
    return backbone
