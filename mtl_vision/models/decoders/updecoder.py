"""A head of MTLoRA (arXiv 2403.20320) that enlarges the joined levels with learned steps."""

from collections.abc import Sequence

import jax
from einops import rearrange
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.decoders.joined import check_widths, joined, narrowing
from mtl_vision.models.decoders.per_task import Outputs, PerTask
from mtl_vision.models.layers import BatchNorm, Conv, Dtype, Linear, torch_uniform
from mtl_vision.models.resize import resize

STEPS, DOUBLINGS = 3, 2


class UpHead(nnx.Module):
    """Pyramid ``[[B, h, w, C], ...]`` -> ``[B, 32h, 32w, K]``, h and w of the finest level.

    Three transposed 2x2 convolutions double the size of the joined levels, each with BatchNorm and
    ReLU; a 3x3 one predicts, with BatchNorm and ReLU too; two bilinear doublings follow.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out: int,
        *,
        widths: Sequence[int],
        width: int,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        make = dict(dtype=dtype, rngs=rngs)
        self.downsample = narrowing(channels, widths, **make)
        # Patches of neighbours do not overlap: a linear map to the four pixels of each.
        init, inputs = torch_uniform(4 * width), (sum(widths), *[width] * (STEPS - 1))
        self.enlarge = nnx.List(
            [Linear(c, 4 * width, bias=False, init=init, **make) for c in inputs]
        )
        self.norms = nnx.List([BatchNorm(width, dtype=dtype) for _ in range(STEPS)])
        self.predict = Conv(width, out, 3, **make)
        self.predict_norm = BatchNorm(out, dtype=dtype)

    def __call__(self, levels: Sequence[jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        x = joined(self.downsample, levels)
        for enlarge, norm in zip(self.enlarge, self.norms, strict=True):
            x = rearrange(enlarge(x), "b h w (i j c) -> b (h i) (w j) c", i=2, j=2)
            x = jax.nn.relu(norm(x, key=key))
        x = jax.nn.relu(self.predict_norm(self.predict(x), key=key))
        for _ in range(DOUBLINGS):
            _, h, w, _ = x.shape
            x = resize(x, (2 * h, 2 * w))
        return x


def updecoder(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    widths: tuple[int, ...] = (18, 36, 72, 144),
    width: int = 32,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> PerTask:
    """An `UpHead` for every task (scale-lab/MTLoRA).

    As theirs it ends in a ReLU, so it cannot predict what is negative: it does not suit normals,
    nor tasks whose logits have to fall below 0. The defaults have 42,944 + 291 K parameters each,
    and 183,168 more on the stages of Swin-T after merging.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels: of the backbone's taps, finest first.
      strides: of the taps; only their order matters here.
      widths: channels that each level is narrowed to.
      width: channels of the enlarged maps.
      dtype: compute type.
      rngs: of the parameters.

    Raises:
      ConfigError: `widths` of another length than `channels`, or sizes that are not positive.
    """
    del strides
    check_widths(widths, channels)
    if width < 1:
        raise ConfigError(f"config.decoder.width={width} must be positive.")
    make = dict(widths=widths, width=width, dtype=dtype, rngs=rngs)
    return PerTask(outputs, lambda out: UpHead(channels, out, **make))
