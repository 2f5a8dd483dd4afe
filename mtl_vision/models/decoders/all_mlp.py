"""The All-MLP decoder of SegFormer (arXiv 2105.15203), one per task, as Polyhistor uses it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models.decoders.per_task import Outputs, PerTask
from mtl_vision.models.layers import (
    BatchNorm,
    Conv,
    Dtype,
    Linear,
    compute_type,
    dropout,
    split,
    torch_uniform,
)
from mtl_vision.models.resize import resize


class AllMLPHead(nnx.Module):
    """Pyramid ``[[B, h, w, C], ...]`` -> ``[B, h, w, K]`` on the grid of the finest level.

    Every level is projected to `width` channels, resized and concatenated, coarsest first; a 1x1
    convolution joins them. Joining before resizing is the same function on smaller maps, since
    both are linear and resizing keeps constants: the joining kernel is used in slices.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out: int,
        *,
        width: int,
        rate: float,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        def project(c):
            init = torch_uniform(c)
            return Linear(c, width, init=init, bias_init=init, dtype=dtype, rngs=rngs)

        self.project = nnx.List([project(c) for c in channels])
        self.join = Conv(len(channels) * width, width, 1, bias=False, dtype=dtype, rngs=rngs)
        self.join_norm = BatchNorm(width, dtype=dtype)
        self.predict = Conv(width, out, 1, dtype=dtype, rngs=rngs)
        self.rate, self.dtype = rate, dtype

    def __call__(self, levels: Sequence[jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        keys, size = split(key, 2), levels[0].shape[-3:-1]
        kernel = self.join.kernel[0, 0].astype(compute_type(self.dtype, self.join.kernel))
        slices = jnp.split(kernel, len(levels))[::-1]  # coarsest first in the kernel
        parts = zip(self.project, levels, slices, strict=True)
        x = sum(resize(project(x) @ part, size) for project, x, part in parts)
        x = jax.nn.relu(self.join_norm(x, key=keys[0]))
        return self.predict(drop_channels(x, self.rate, keys[1]))


def drop_channels(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Dropout of whole channels of ``[B, h, w, C]``, sample by sample; no key drops nothing."""
    batch, _, _, channels = x.shape
    return x * dropout(jnp.ones((batch, 1, 1, channels), x.dtype), rate, key)


def all_mlp(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    width: int = 256,
    dropout: float = 0.1,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> PerTask:
    """An `AllMLPHead` for every task.

    On the stages of Swin-T before merging one has 632,320 + 257 K parameters. (Polyhistor's
    published totals also fit heads with one more classifier that nothing uses, another 257 K, and
    two channels for saliency; those are not built.)

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels: of the backbone's taps, finest first.
      strides: of the taps; only their order matters here.
      width: channels inside a head.
      dropout: rate at which channels are dropped before the prediction, in [0, 1).
      dtype: compute type.
      rngs: of the parameters.
    """
    del strides
    make = dict(width=width, rate=dropout, dtype=dtype, rngs=rngs)
    return PerTask(outputs, lambda out: AllMLPHead(channels, out, **make))
