"""The decoder of MTLoRA (arXiv 2403.20320): downsamplers and a head in the manner of HRNet."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.decoders.per_task import Outputs, PerTask
from mtl_vision.models.layers import BatchNorm, Conv, Dtype
from mtl_vision.models.resize import resize


class HRNetHead(nnx.Module):
    """Pyramid ``[[B, h, w, C], ...]`` -> ``[B, h, w, K]`` on the grid of the finest level.

    Every level is narrowed by a 1x1 convolution, resized and concatenated; two 1x1 convolutions
    with a hidden width of four times that predict. Projecting before resizing would be the same
    function again, but its backward pass resizes hidden maps and takes 2 to 3 times as long.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out: int,
        *,
        widths: Sequence[int],
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        joined = sum(widths)
        self.downsample = nnx.List(
            [
                Conv(c, width, 1, bias=False, dtype=dtype, rngs=rngs)
                for c, width in zip(channels, widths, strict=True)
            ]
        )
        self.hidden = Conv(joined, 4 * joined, 1, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(4 * joined, dtype=dtype)
        self.predict = Conv(4 * joined, out, 1, dtype=dtype, rngs=rngs)

    def __call__(self, levels: Sequence[jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        size = levels[0].shape[-3:-1]
        narrow = [conv(x) for conv, x in zip(self.downsample, levels, strict=True)]
        x = jnp.concatenate([resize(x, size) for x in narrow], -1)
        return self.predict(jax.nn.relu(self.norm(self.hidden(x), key=key)))


def hrnet(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    widths: Sequence[int] = (18, 36, 72, 144),
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> PerTask:
    """An `HRNetHead` for every task; the defaults have 183,168 + 294,840 + 1081 K parameters each.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels: of the backbone's taps, finest first.
      strides: of the taps; only their order matters here.
      widths: channels that each level is narrowed to.
      dtype: compute type.
      rngs: of the parameters.

    Raises:
      ConfigError: `widths` of another length than `channels`.
    """
    del strides
    if len(widths) != len(channels):
        raise ConfigError(
            f"config.decoder.widths={tuple(widths)} needs one entry for each of the backbone's "
            f"{len(channels)} taps."
        )
    return PerTask(
        outputs, lambda out: HRNetHead(channels, out, widths=widths, dtype=dtype, rngs=rngs)
    )
