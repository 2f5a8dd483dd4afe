"""Linear heads: what a backbone's features say by themselves."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision.models.decoders.per_task import Outputs, PerTask
from mtl_vision.models.layers import Conv, Dtype, compute_type
from mtl_vision.models.resize import resize


class LinearHead(nnx.Module):
    """Pyramid ``[[B, h, w, C], ...]`` -> ``[B, h, w, K]`` on the grid of the finest level.

    A 1x1 convolution of all levels, resized and concatenated. Its slices act before the resizing:
    the same function, and no more than K channels are resized.
    """

    def __init__(self, channels: Sequence[int], out: int, *, dtype: Dtype = None, rngs: nnx.Rngs):
        self.predict = Conv(sum(channels), out, 1, dtype=dtype, rngs=rngs)
        self.cuts = tuple(int(cut) for cut in np.cumsum(channels)[:-1])

    def __call__(self, levels: Sequence[jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        del key
        dtype, size = compute_type(self.predict.dtype, self.predict.kernel), levels[0].shape[1:3]
        parts = jnp.split(self.predict.kernel[0, 0].astype(dtype), self.cuts)
        pairs = zip(levels, parts, strict=True)
        y = sum(resize(x.astype(dtype) @ part, size) for x, part in pairs)
        return y + self.predict.bias.astype(dtype)[None, None, None]


def linear(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> PerTask:
    """A `LinearHead` for every task: ``sum(channels) * K + K`` parameters.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels: of the backbone's taps, finest first.
      strides: of the taps; only their order matters here.
      dtype: compute type.
      rngs: of the parameters.
    """
    del strides
    return PerTask(outputs, lambda out: LinearHead(channels, out, dtype=dtype, rngs=rngs))
