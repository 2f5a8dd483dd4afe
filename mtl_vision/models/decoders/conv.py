"""A small convolutional decoder: good quality for little time."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models import convolution
from mtl_vision.models.decoders.per_task import Outputs, PerDataset
from mtl_vision.models.layers import (
    BatchNorm,
    Conv,
    Dtype,
    Linear,
    TaskParam,
    compute_type,
    torch_uniform,
)
from mtl_vision.models.resize import resize


class ConvHeads(nnx.Module):
    """The heads of one dataset, on the grid of the finest level.

    1x1 convolutions join the levels once for all tasks; then every task looks around with a 3x3
    convolution of its own and predicts. The 3x3 ones are stacked: on a trunk they run, and
    compile, as one dense convolution.
    """

    def __init__(
        self,
        channels: Sequence[int],
        kinds: Mapping[str, int],
        *,
        width: int,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        self.project = nnx.List(
            [Conv(c, width, 1, bias=False, dtype=dtype, rngs=rngs) for c in channels]
        )
        self.join_norm = BatchNorm(width, dtype=dtype)
        init = torch_uniform(9 * width)
        self.mix = TaskParam(init(rngs.params(), (len(kinds), 3, 3, width, width), jnp.float32))
        self.mix_norm = BatchNorm(width, tasks=len(kinds), dtype=dtype)
        predict = torch_uniform(width)
        self.predict = nnx.Dict(
            {
                kind: Linear(width, out, init=predict, bias_init=predict, dtype=dtype, rngs=rngs)
                for kind, out in kinds.items()
            }
        )
        self.kinds, self.dtype = tuple(kinds), dtype

    def __call__(
        self,
        trunk: Sequence[jax.Array] | None,
        streams: Sequence[jax.Array] | None,
        *,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """``[[B, h, w, C], ...]`` or ``[[T, B, h, w, C], ...]`` -> ``{kind: [B, h, w, K]}``."""
        levels = trunk if streams is None else streams
        # A 1x1 convolution of the resized, concatenated levels is the sum of the levels' own,
        # resized afterwards: the same function on smaller maps.
        size = levels[0].shape[-3:-1]
        x = sum(resize(project(x), size) for project, x in zip(self.project, levels, strict=True))
        x = jax.nn.relu(self.join_norm(x, key=key))
        kernels = self.mix.astype(compute_type(self.dtype, self.mix))
        mix = _mix_trunk if streams is None else _mix_streams
        x = jax.nn.relu(self.mix_norm(mix(x, kernels), key=key))  # [B, h, w, T, W]
        return {kind: self.predict[kind](x[..., t, :]) for t, kind in enumerate(self.kinds)}


def _mix_trunk(x, kernels):  # [B, h, w, W], [T, 3, 3, W, W] -> [B, h, w, T, W]
    T, *_, W = kernels.shape
    dense = jnp.moveaxis(kernels, 0, 3).reshape(3, 3, W, T * W)
    return convolution.conv(x, dense, padding=1).reshape(*x.shape[:3], T, W)


def _mix_streams(x, kernels):  # [T, B, h, w, W], [T, 3, 3, W, W] -> [B, h, w, T, W]
    pairs = zip(x, kernels, strict=True)
    return jnp.stack([convolution.conv(u, kernel, padding=1) for u, kernel in pairs], -2)


def conv(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    width: int = 64,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> PerDataset:
    """Heads of `width` channels for every task.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels: of the backbone's taps, finest first.
      strides: of the taps; only their order matters here.
      width: channels inside a head.
      dtype: compute type.
      rngs: of the parameters.
    """
    del strides
    make = dict(width=width, dtype=dtype, rngs=rngs)
    return PerDataset(outputs, lambda _, kinds: ConvHeads(channels, kinds, **make))
