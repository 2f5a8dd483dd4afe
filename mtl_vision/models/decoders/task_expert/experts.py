"""Experts: functions that all tasks share, ``[B, h, w, D]`` -> ``[N, B, h, w, C]``.

Each is followed by a BatchNorm and a GELU, which belong to the dataset and to the tap.
"""

import jax
from flax import nnx

from mtl_vision.models.decoders.task_expert.stacked import StackedConv, StackedLinear
from mtl_vision.models.layers import Dtype, Linear, torch_uniform


class ConvExperts(nnx.Module):
    """``Conv3x3(Conv1x1(x))``, D -> C -> C, N times."""

    def __init__(
        self, count: int, d_in: int, d_out: int, *, rank: int, dtype: Dtype = None, rngs: nnx.Rngs
    ):
        del rank
        self.proj = StackedLinear(count, d_in, d_out, dtype=dtype, rngs=rngs)
        self.conv = StackedConv(count, d_out, d_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(self.proj.fan_out(x))


class LinearExperts(nnx.Module):
    """``Conv1x1(x)``, D -> C, N times."""

    def __init__(
        self, count: int, d_in: int, d_out: int, *, rank: int, dtype: Dtype = None, rngs: nnx.Rngs
    ):
        del rank
        self.proj = StackedLinear(count, d_in, d_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.proj.fan_out(x)


class LowRankExperts(nnx.Module):
    """``Conv1x1(Conv3x3(y))``, C -> R -> C, N times, of one ``y = Conv1x1(x)``, D -> C."""

    def __init__(
        self, count: int, d_in: int, d_out: int, *, rank: int, dtype: Dtype = None, rngs: nnx.Rngs
    ):
        init = torch_uniform(d_in)
        self.proj = Linear(d_in, d_out, init=init, bias_init=init, dtype=dtype, rngs=rngs)
        self.conv = StackedConv(count, d_out, rank, dtype=dtype, rngs=rngs)
        self.expand = StackedLinear(count, rank, d_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.expand(self.conv.fan_out(self.proj(x)))


EXPERTS = {"conv": ConvExperts, "linear": LinearExperts, "lowrank": LowRankExperts}
