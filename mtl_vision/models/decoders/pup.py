"""Heads that enlarge step by step, SETR-PUP (arXiv 2012.15840), as M3ViT has them."""

from collections.abc import Mapping, Sequence

import jax
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.decoders.per_task import Outputs, PerDataset, PerTask
from mtl_vision.models.decoders.tam import Tam, TamHeads
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
        return self.predict(self.features(levels, key=key)[-1])

    def features(
        self, levels: Sequence[jax.Array], *, key: jax.Array | None = None
    ) -> list[jax.Array]:
        """Returns the maps after every convolution, each twice the size of the one before."""
        x, maps = self.norm(levels[-1]), []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            if maps:
                _, h, w, _ = x.shape
                x = resize(x, (2 * h, 2 * w))
            x = jax.nn.relu(norm(conv(x), key=key))
            maps.append(x)
        return maps


def pup(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    width: int = 256,
    tam: tuple[int, ...] = (),
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> PerTask | PerDataset:
    """A `PUPHead` for every task, on the last tap.

    After 384 channels a head has 2,658,048 + 257 K parameters. The authors of M3ViT train with
    `tam` at some of the levels 0, 1 and 2, and with the full loss of every extra prediction; their
    paper does not mention it.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels: of the backbone's taps; only the last is read.
      strides: of the taps, not used.
      width: channels inside a head.
      tam: after which enlargements the tasks' maps are put together in training, see `Tam`.
      dtype: compute type.
      rngs: of the parameters.

    Raises:
      ConfigError: a `width` that is not positive, levels of `tam` that do not rise within 0 to 2,
        or `tam` for a dataset of one task.
    """
    del strides
    if width < 1:
        raise ConfigError(f"config.decoder.width={width} must be positive.")

    def head(out: int) -> PUPHead:
        return PUPHead(channels[-1], out, width=width, dtype=dtype, rngs=rngs)

    def together(dataset: str, kinds: Mapping[str, int]) -> TamHeads:
        if len(kinds) < 2:
            raise ConfigError(f"config.decoder.tam={tam}: {dataset} has one task; tam needs two.")
        tams = {level + 1: Tam(kinds, width, dtype=dtype, rngs=rngs) for level in tam}
        return TamHeads([head(out) for out in kinds.values()], tams, tuple(kinds))

    if list(tam) != sorted(set(tam) & set(range(STEPS - 1))):
        raise ConfigError(f"config.decoder.tam={tam} must rise within 0 to {STEPS - 2}.")
    return PerDataset(outputs, together) if tam else PerTask(outputs, head)
