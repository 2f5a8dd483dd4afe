"""A small convolutional decoder: good quality for little time."""

from collections.abc import Sequence

import jax
from flax import nnx

from mtl_vision.models.decoders.per_task import Outputs, PerTask
from mtl_vision.models.layers import BatchNorm, Conv, Dtype
from mtl_vision.models.resize import resize


class ConvHead(nnx.Module):
    """Pyramid ``[[B, h, w, C], ...]`` -> ``[B, h, w, K]`` on the grid of the finest level.

    Joins the levels by 1x1 convolutions, looks around with a 3x3 one and predicts.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out: int,
        *,
        width: int,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        self.project = nnx.List(
            [Conv(c, width, 1, bias=False, dtype=dtype, rngs=rngs) for c in channels]
        )
        self.join_norm = BatchNorm(width, dtype=dtype)
        self.mix = Conv(width, width, 3, bias=False, dtype=dtype, rngs=rngs)
        self.mix_norm = BatchNorm(width, dtype=dtype)
        self.predict = Conv(width, out, 1, dtype=dtype, rngs=rngs)

    def __call__(self, levels: Sequence[jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        # A 1x1 convolution of the resized, concatenated levels is the sum of the levels' own,
        # resized afterwards: the same function on smaller maps.
        size = levels[0].shape[-3:-1]
        x = sum(resize(project(x), size) for project, x in zip(self.project, levels, strict=True))
        x = jax.nn.relu(self.join_norm(x, key=key))
        x = jax.nn.relu(self.mix_norm(self.mix(x), key=key))
        return self.predict(x)


def conv(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    width: int = 64,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> PerTask:
    """A `ConvHead` of `width` channels for every task.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels: of the backbone's taps, finest first.
      strides: of the taps; only their order matters here.
      width: channels inside a head.
      dtype: compute type.
      rngs: of the parameters.
    """
    del strides
    return PerTask(
        outputs, lambda out: ConvHead(channels, out, width=width, dtype=dtype, rngs=rngs)
    )
