"""The decoder of MTLoRA (arXiv 2403.20320): downsamplers and a head in the manner of HRNet."""

from collections.abc import Sequence

import jax
from flax import nnx

from mtl_vision.models.decoders.joined import check_widths, joined, narrowing
from mtl_vision.models.decoders.per_task import Outputs, PerTask
from mtl_vision.models.layers import BatchNorm, Conv, Dtype


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
        make, total = dict(dtype=dtype, rngs=rngs), sum(widths)
        self.downsample = narrowing(channels, widths, **make)
        self.hidden = Conv(total, 4 * total, 1, **make)
        self.norm = BatchNorm(4 * total, dtype=dtype)
        self.predict = Conv(4 * total, out, 1, **make)

    def __call__(self, levels: Sequence[jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        x = self.hidden(joined(self.downsample, levels))
        return self.predict(jax.nn.relu(self.norm(x, key=key)))


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
    check_widths(widths, channels)
    return PerTask(
        outputs, lambda out: HRNetHead(channels, out, widths=widths, dtype=dtype, rngs=rngs)
    )
