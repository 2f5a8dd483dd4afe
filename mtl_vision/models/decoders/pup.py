"""Heads that enlarge step by step, SETR-PUP (arXiv 2012.15840), as M3ViT has them."""

from collections.abc import Sequence

import jax
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.decoders.per_task import Outputs, PerTask
from mtl_vision.models.layers import BatchNorm, Conv, Dtype, LayerNorm
from mtl_vision.models.resize import resize

STEPS = 4


class PUPHead(nnx.Module):
    """Last level ``[B, h, w, C]`` -> ``[B, 8h, 8w, K]``.

    A norm, then four 3x3 convolutions to `width` channels, with a bilinear enlargement by two after
    all but the last; a 1x1 convolution predicts.
    """

    def __init__(self, channels: int, out: int, *, width: int, dtype: Dtype = None, rngs: nnx.Rngs):
        widths = (channels, *[width] * STEPS)
        self.norm = LayerNorm(channels, eps=1e-6, dtype=dtype)
        self.convs = nnx.List(
            [Conv(*widths[i : i + 2], 3, dtype=dtype, rngs=rngs) for i in range(STEPS)]
        )
        self.norms = nnx.List([BatchNorm(width, dtype=dtype) for _ in range(STEPS)])
        self.predict = Conv(width, out, 1, dtype=dtype, rngs=rngs)

    def __call__(self, levels: Sequence[jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        x = self.norm(levels[-1])
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if i:
                _, h, w, _ = x.shape
                x = resize(x, (2 * h, 2 * w))
            x = jax.nn.relu(norm(conv(x), key=key))
        return self.predict(x)


def pup(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    width: int = 256,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> PerTask:
    """A `PUPHead` for every task, on the last tap.

    After 384 channels a head has 2,658,048 + 257 K parameters.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels: of the backbone's taps; only the last is read.
      strides: of the taps, not used.
      width: channels inside a head.
      dtype: compute type.
      rngs: of the parameters.

    Raises:
      ConfigError: a `width` that is not positive.
    """
    del strides
    if width < 1:
        raise ConfigError(f"config.decoder.width={width} must be positive.")
    return PerTask(
        outputs, lambda out: PUPHead(channels[-1], out, width=width, dtype=dtype, rngs=rngs)
    )
