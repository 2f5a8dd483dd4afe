"""Atrous spatial pyramid pooling (arXiv 1706.05587) as a head of MTLoRA (arXiv 2403.20320)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.decoders.joined import check_widths, joined, narrowing
from mtl_vision.models.decoders.per_task import Outputs, PerTask
from mtl_vision.models.layers import BatchNorm, Conv, Dtype, dropout, split


class ConvNorm(nnx.Module):
    """``relu(norm(conv x))``, without a bias."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        size: int,
        *,
        dilation: int = 1,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        make = dict(dilation=dilation, bias=False, dtype=dtype, rngs=rngs)
        self.conv = Conv(d_in, d_out, size, **make)
        self.norm = BatchNorm(d_out, dtype=dtype)

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return jax.nn.relu(self.norm(self.conv(x), key=key))


class ASPPHead(nnx.Module):
    """Pyramid ``[[B, h, w, C], ...]`` -> ``[B, h, w, K]`` on the grid of the finest level.

    Every level is narrowed by a 1x1 convolution, resized and concatenated. Branches look at that
    with a 1x1 convolution, with 3x3 ones of several dilations, and at its mean; a 1x1 convolution
    joins them, and a 3x3 one and a 1x1 one predict.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out: int,
        *,
        widths: Sequence[int],
        width: int,
        dilations: Sequence[int],
        rate: float,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        make, total = dict(dtype=dtype, rngs=rngs), sum(widths)
        self.downsample = narrowing(channels, widths, **make)
        self.point = ConvNorm(total, width, 1, **make)
        self.dilated = nnx.List(
            [ConvNorm(total, width, 3, dilation=dilation, **make) for dilation in dilations]
        )
        self.pooled = ConvNorm(total, width, 1, **make)
        self.join = ConvNorm((2 + len(dilations)) * width, width, 1, **make)
        self.mix = ConvNorm(width, width, 3, **make)
        self.predict = Conv(width, out, 1, **make)
        self.rate = rate

    def __call__(self, levels: Sequence[jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        keys, x = split(key, 2), joined(self.downsample, levels)
        branches = [branch(x, key=keys[0]) for branch in (self.point, *self.dilated)]
        pooled = self.pooled(x.mean((1, 2), keepdims=True), key=keys[0])
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = self.join(jnp.concatenate(branches, -1), key=keys[0])
        x = self.mix(dropout(x, self.rate, keys[1]), key=keys[0])
        return self.predict(x)


def aspp(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    widths: tuple[int, ...] = (18, 36, 72, 144),
    width: int = 256,
    dilations: tuple[int, ...] = (12, 24, 36),
    dropout: float = 0.5,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> PerTask:
    """An `ASPPHead` for every task (scale-lab/MTLoRA, DeepLab v3's head on joined levels).

    The defaults have 2,925,568 + 257 K parameters each, and 183,168 more on the stages of Swin-T
    after merging.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels: of the backbone's taps, finest first.
      strides: of the taps; only their order matters here.
      widths: channels that each level is narrowed to.
      width: channels of every branch and behind them.
      dilations: of the 3x3 branches, in pixels of the finest level.
      dropout: rate before the last 3x3 convolution, in [0, 1).
      dtype: compute type.
      rngs: of the parameters.

    Raises:
      ConfigError: `widths` of another length than `channels`, sizes that are not positive, or a
        rate out of its range.
    """
    del strides
    check_widths(widths, channels)
    if min(width, *dilations) < 1:
        raise ConfigError(
            f"config.decoder: width={width} and dilations={dilations} must be positive."
        )
    if not 0 <= dropout < 1:
        raise ConfigError(f"config.decoder.dropout={dropout} must be at least 0 and below 1.")
    make = dict(widths=widths, width=width, dilations=dilations, rate=dropout)
    return PerTask(outputs, lambda out: ASPPHead(channels, out, **make, dtype=dtype, rngs=rngs))
