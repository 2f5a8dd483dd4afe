"""A pyramid on one grid: the taps of Swin for a memory that has one stride."""

from collections.abc import Sequence

import jax
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.layers import Conv, Dtype, Identity, Linear, torch_uniform
from mtl_vision.models.resize import resize

DEFAULT_STRIDE, WIDTH = 16, 512


class ToGrid(nnx.Module):
    """``[[..., h, w, C], ...]`` -> the same on the grid of one stride, `WIDTH` channels each.

    Finer taps pass a 3x3 convolution with a stride, coarser ones are resized bilinearly (after
    their projection: the same function on smaller maps). A 1x1 convolution each. Nothing happens
    where all taps have that stride already, as a ViT's do.

    Args:
      channels, strides: of the taps.
      stride: of the memory; 0 for the taps' own if they share one, else 16.
      dtype: compute type.
      rngs: of the parameters.

    Attributes: `channels` after it.

    Raises:
      ConfigError: a finer tap whose stride does not divide `stride`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        stride: int,
        *,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        if not stride:
            stride = strides[0] if len(set(strides)) == 1 else DEFAULT_STRIDE
        for own in strides:
            if own < stride and stride % own:
                raise ConfigError(
                    f"config.decoder.memory_stride={stride} is no multiple of a tap's stride "
                    f"{own}; the taps have {tuple(strides)}."
                )
        self.strides, self.stride = tuple(strides), stride
        self.moves = set(strides) != {stride}
        self.channels = (WIDTH,) * len(channels) if self.moves else tuple(channels)
        self.shrink, self.project = nnx.List(), nnx.List()
        if not self.moves:
            return
        for c, own in zip(channels, strides, strict=True):
            finer = own < stride
            conv = Conv(c, c, 3, stride=stride // own, dtype=dtype, rngs=rngs) if finer else None
            init = torch_uniform(c)
            self.shrink.append(conv or Identity())
            self.project.append(Linear(c, WIDTH, init=init, bias_init=init, dtype=dtype, rngs=rngs))

    def __call__(self, levels: Sequence[jax.Array]) -> list[jax.Array]:
        if not self.moves:
            return list(levels)
        first, reach = levels[0], self.strides[0]
        size = tuple(-(-n * reach // self.stride) for n in first.shape[-3:-1])
        steps = zip(self.shrink, self.project, levels, strict=True)
        return [resize(project(shrink(x)), size) for shrink, project, x in steps]
