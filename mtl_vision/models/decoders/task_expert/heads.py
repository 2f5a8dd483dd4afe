"""Heads: from the memory of every task to its prediction on a finer grid."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from mtl_vision.models.decoders.enlarged import enlarged_conv
from mtl_vision.models.decoders.task_expert.stacked import (
    StackedConv,
    StackedLinear,
    StackedNorm,
    each,
    shift,
)
from mtl_vision.models.layers import (
    Dtype,
    Linear,
    TaskParam,
    compute_type,
    gelu,
    torch_uniform,
)

FACTOR = 4


class Predict(nnx.Module):
    """A 1x1 convolution per task: ``[T, B, h, w, C]`` -> ``{kind: [B, h, w, K]}``."""

    def __init__(
        self, kinds: Mapping[str, int], channels: int, *, dtype: Dtype = None, rngs: nnx.Rngs
    ):
        init = torch_uniform(channels)
        make = dict(init=init, bias_init=init, dtype=dtype, rngs=rngs)
        self.kinds = nnx.Dict({kind: Linear(channels, out, **make) for kind, out in kinds.items()})
        self.order = tuple(kinds)

    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        return {kind: self.kinds[kind](x[t]) for t, kind in enumerate(self.order)}


class BilinearHeads(nnx.Module):
    """Bilinear x4, Conv3x3, BN, GELU, and Conv1x1 to the prediction, per task."""

    def __init__(
        self, kinds: Mapping[str, int], channels: int, *, dtype: Dtype = None, rngs: nnx.Rngs
    ):
        T = len(kinds)
        self.conv = StackedConv(T, channels, channels, kind=TaskParam, dtype=dtype, rngs=rngs)
        self.norm = StackedNorm(T, channels, kind=TaskParam, dtype=dtype)
        self.predict = Predict(kinds, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, key: jax.Array | None) -> dict[str, jax.Array]:
        """``[T, B, h, w, C]`` -> ``{kind: [B, 4h, 4w, K]}``."""
        dtype = compute_type(self.conv.dtype, self.conv.kernel)
        enlarge = functools.partial(enlarged_conv, factor=FACTOR)
        y = each(enlarge, x.astype(dtype), self.conv.kernel.astype(dtype))
        return self.predict(gelu(self.norm(shift(y, self.conv.bias), key=key)))


class DeconvHeads(nnx.Module):
    """ConvTranspose2x2 to C/2, BN, GELU, Conv3x3, BN, GELU, Conv1x1 to the prediction, per task.

    `DEConvHead` of prismformore/Multi-Task-Transformer: TaskPrompter.
    """

    def __init__(
        self, kinds: Mapping[str, int], channels: int, *, dtype: Dtype = None, rngs: nnx.Rngs
    ):
        T, half = len(kinds), channels // 2
        make = dict(kind=TaskParam, dtype=dtype, rngs=rngs)
        init = torch_uniform(4 * half)  # of a transposed kernel PyTorch counts the outputs
        # The patches of neighbours do not overlap: a linear map to the four pixels of each.
        self.deconv = StackedLinear(T, channels, 4 * half, bias=False, init=init, **make)
        self.deconv_bias = TaskParam(init(rngs.params(), (T, half), jnp.float32))
        self.deconv_norm = StackedNorm(T, half, kind=TaskParam, dtype=dtype)
        self.conv = StackedConv(T, half, half, **make)
        self.norm = StackedNorm(T, half, kind=TaskParam, dtype=dtype)
        self.predict = Predict(kinds, half, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, key: jax.Array | None) -> dict[str, jax.Array]:
        """``[T, B, h, w, C]`` -> ``{kind: [B, 2h, 2w, K]}``."""
        y = rearrange(self.deconv(x), "t b h w (i j c) -> t b (h i) (w j) c", i=2, j=2)
        y = gelu(self.deconv_norm(shift(y, self.deconv_bias), key=key))
        return self.predict(gelu(self.norm(self.conv(y), key=key)))


HEADS = {"bilinear4": BilinearHeads, "deconv2": DeconvHeads}
