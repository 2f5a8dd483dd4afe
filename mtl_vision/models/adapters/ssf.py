"""SSF: scaling and shifting of features (arXiv 2210.08823).

Behind every operation of the frozen backbone, ``gamma * y + beta`` per channel. Sites and start
are those of dongzelian/SSF: the convolution and the norm of the patch embedding, in every block
both norms and all four linear layers, the norms of patch merging, and the last norms.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models.adapters.inject import edit_blocks, merged, wrap
from mtl_vision.models.adapters.sharing import (
    Owners,
    columns,
    foldable,
    per_channel,
    per_stream,
    share_streams,
)
from mtl_vision.models.layers import AdapterParam, Dtype, Identity, TaskParam, compute_type

SITES = {  # whether the site stands behind the attention
    "norm1": False,
    "attn.qkv": False,
    "attn.proj": True,
    "norm2": True,
    "mlp.fc1": True,
    "mlp.fc2": True,
}


class ScaleShift(nnx.Module):
    """``gamma * x + beta``: vectors ``[C]``, or with `tasks` ``[T, C]`` and x ``[T, ..., C]``."""

    def __init__(self, channels: int, *, tasks: int = 0, std: float, dtype: Dtype, rngs: nnx.Rngs):
        shape, kind = ((tasks, channels), TaskParam) if tasks else ((channels,), AdapterParam)
        noise = (std * jax.random.normal(rngs.params(), (2, *shape))).astype(jnp.float32)
        self.gamma, self.beta = kind(1 + noise[0]), kind(noise[1])
        self.own, self.dtype = bool(tasks), dtype

    @property
    def tasks(self) -> int:
        """T, or 0."""
        return self.gamma.shape[-2] if self.own else 0

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = compute_type(self.dtype, self.gamma)
        vectors = (v.astype(dtype) for v in (self.gamma, self.beta))
        gamma, beta = (per_channel(v, x, self.tasks) for v in vectors)
        return x * gamma + beta


class SSFLayer(nnx.Module):
    """A layer whose output is scaled and shifted: ``[1 or S, ..., C]`` -> ``[S, ..., D]``.

    Args:
      linear: linear layer, convolution or norm, ``[..., C]`` -> ``[..., D]``.
      owners: who has vectors.
      std: of the start.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self, linear: nnx.Module, owners: Owners, *, std: float, dtype: Dtype, rngs: nnx.Rngs
    ):
        D = out_channels(linear)
        made = dict(std=std, dtype=dtype, rngs=rngs)
        self.linear, self.owners = linear, owners
        if owners.mixed:
            self.carried = owners.carried  # asks adapters after it to keep the shared stream
        self.ssf = ScaleShift(D, **made) if owners.common else None
        self.task_ssf = ScaleShift(D, tasks=owners.tasks, **made) if owners.tasks else None

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return per_stream(self.linear(x, key=key), self.owners, self.ssf, self.task_ssf)

    def merged(self) -> nnx.Module:
        """Returns the layer with ``W diag(gamma)`` and ``gamma b + beta``, or itself."""
        self.linear = merged(self.linear)
        gain = getattr(self.linear, "kernel", getattr(self.linear, "scale", None))
        if gain is None or self.linear.bias is None or not foldable(self.owners, self.task_ssf):
            return self
        vectors = self.ssf or self.task_ssf
        gamma, beta = vectors.gamma[...], vectors.beta[...]
        if vectors.tasks:
            gamma, beta = gamma[..., 0, :], beta[..., 0, :]
        gain[...] *= columns(gamma, gain)
        self.linear.bias[...] = gamma * self.linear.bias[...] + beta
        return self.linear


def out_channels(layer: nnx.Module) -> int:
    """Returns D of a layer with a kernel ``[..., D]`` or a scale ``[D]``, however wrapped."""
    while hasattr(layer, "linear"):
        layer = layer.linear
    return (layer.kernel if hasattr(layer, "kernel") else layer.scale).shape[-1]


def ssf(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    share: str = "all",
    std: float = 0.02,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts SSF into a backbone, in place.

    Swin-T gets 102,912 parameters, and 2 per channel of its last norms. They start at random
    around the identity, as published, so the function of the backbone changes a little; with
    ``std=0`` it does not. With ``share="none"`` the tasks still share those of the patch embedding.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      share: how tasks share, see `sharing`.
      std: of gamma around 1 and of beta around 0 at the start.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: an unknown `share`, or a backbone that it does not work on.
    """
    owned = share_streams(backbone, tasks, share)
    embedding = Owners(True, 0, backbone.shared)

    def put(module, site, owners, rngs):
        wrap(module, site, lambda x: SSFLayer(x, owners, std=std, dtype=dtype, rngs=rngs))

    def edit(block, place, rngs):
        for site, late in SITES.items():
            put(block, site, owned(place, late), rngs)

    edit_blocks(backbone, edit, rngs=rngs)
    put(backbone.patch_embed, "proj", embedding, rngs)
    if hasattr(backbone, "stages"):
        put(backbone.patch_embed, "norm", embedding, rngs)
        for stage in backbone.stages:
            if not isinstance(stage.merging, Identity):
                put(stage.merging, "norm", owned(), rngs)
        for i, norm in enumerate(backbone.out_norms):
            if not isinstance(norm, Identity):
                made = SSFLayer(norm, owned(), std=std, dtype=dtype, rngs=rngs)
                backbone.out_norms[i] = made
    else:
        put(backbone, "norm", owned(), rngs)
    return backbone
