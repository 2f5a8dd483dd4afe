"""(IA)3: learned vectors rescale keys, values and the hidden layer (arXiv 2205.05638)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models.adapters.inject import edit_blocks, merged, widths, wrap
from mtl_vision.models.adapters.sharing import (
    Owners,
    columns,
    foldable,
    per_channel,
    per_stream,
    share_streams,
)
from mtl_vision.models.layers import AdapterParam, Dtype, TaskParam, compute_type


class Rescale(nnx.Module):
    """``l * x`` on as many of the last channels of x as l, ``[C]`` or ``[T, C]``, has."""

    def __init__(self, channels: int, *, tasks: int = 0, dtype: Dtype = None):
        shape, kind = ((tasks, channels), TaskParam) if tasks else ((channels,), AdapterParam)
        self.gain = kind(jnp.ones(shape, jnp.float32))
        self.own, self.dtype = bool(tasks), dtype

    @property
    def tasks(self) -> int:
        """T, or 0."""
        return self.gain.shape[-2] if self.own else 0

    def __call__(self, x: jax.Array) -> jax.Array:
        gain = self.gain.astype(compute_type(self.dtype, self.gain))
        first, last = jnp.split(x, [x.shape[-1] - gain.shape[-1]], -1)
        return jnp.concatenate([first, last * per_channel(gain, last, self.tasks)], -1)


class IA3Linear(nnx.Module):
    """A linear layer whose input, or output, is rescaled: ``[1 or S, ..., C]`` -> ``[S, ..., D]``.

    Args:
      linear: the layer, ``[..., C]`` -> ``[..., D]``.
      channels: how many of the last channels are rescaled.
      owners: who has vectors.
      before: whether it is the input.
      dtype: compute type.
    """

    def __init__(
        self, linear: nnx.Module, channels: int, owners: Owners, *, before: bool, dtype: Dtype
    ):
        self.linear, self.owners, self.before = linear, owners, before
        self.ia3 = Rescale(channels, dtype=dtype) if owners.common else None
        own = Rescale(channels, tasks=owners.tasks, dtype=dtype) if owners.tasks else None
        self.task_ia3 = own
        if owners.mixed:
            self.carried = owners.carried  # asks adapters after it to keep the shared stream

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        if self.before:
            return self.linear(per_stream(x, self.owners, self.ia3, self.task_ia3), key=key)
        return per_stream(self.linear(x, key=key), self.owners, self.ia3, self.task_ia3)

    def merged(self) -> nnx.Module:
        """Returns the layer with rescaled rows or columns of W, or itself."""
        self.linear = merged(self.linear)
        if not hasattr(self.linear, "kernel") or not foldable(self.owners, self.task_ia3):
            return self
        vectors, kernel, bias = self.ia3 or self.task_ia3, self.linear.kernel, self.linear.bias
        gain = vectors.gain[..., 0, :] if vectors.tasks else vectors.gain[...]
        if self.before:
            kernel[...] *= gain[..., None]
            return self.linear
        kept = [(0, 0)] * (gain.ndim - 1) + [(kernel.shape[-1] - gain.shape[-1], 0)]
        gain = jnp.pad(gain, kept, constant_values=1)
        kernel[...] *= columns(gain, kernel)
        if bias is not None:
            bias[...] *= gain
        return self.linear


def ia3(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    share: str = "all",
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts (IA)3 into a backbone, in place; the function is the same until the vectors train.

    A block of width C has vectors of C for the keys, C for the values and the hidden width for
    what follows the nonlinearity of its MLP: 26,496 parameters on Swin-T.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      share: how tasks share, see `sharing`.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: an unknown `share`, or a backbone that it does not work on.
    """
    owned = share_streams(backbone, tasks, share)

    def edit(block, place, rngs):
        del rngs  # all vectors start at 1

        def keys_and_values(layer):
            channels, _ = widths(layer)
            return IA3Linear(layer, 2 * channels, owned(place), before=False, dtype=dtype)

        def hidden(layer):
            channels, _ = widths(layer)
            return IA3Linear(layer, channels, owned(place, True), before=True, dtype=dtype)

        wrap(block, "attn.qkv", keys_and_values)
        wrap(block, "mlp.fc2", hidden)

    edit_blocks(backbone, edit, rngs=rngs)
    return backbone
