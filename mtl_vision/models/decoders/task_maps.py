"""Layers on maps of all tasks, ``[B, h, w, T, C]``.

With tasks next to channels, norms over one task or over all of them, depthwise convolutions,
pooling, resizing and attention need no transposition. Dense convolutions run task after task:
grouped or batched ones take 4 to 30 times as long on CPU, with their gradients.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models import convolution
from mtl_vision.models.decoders.enlarged import enlarged_conv
from mtl_vision.models.layers import (
    BatchNorm,
    Dtype,
    TaskParam,
    compute_type,
    standardized,
    torch_uniform,
)
from mtl_vision.models.resize import resize
from mtl_vision.models.sums import affine, biased


def each(x: jax.Array) -> list[jax.Array]:
    """``[..., T, C]`` -> T times ``[..., C]``."""
    return [x[..., t, :] for t in range(x.shape[-2])]


def fold(x: jax.Array) -> jax.Array:
    """``[..., T, C]`` -> ``[..., T C]``."""
    return x.reshape(*x.shape[:-2], -1)


def resize_tasks(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes ``[B, h, w, T, C]``."""
    return resize(fold(x), size).reshape(x.shape[0], *size, *x.shape[-2:])


class TaskConv(nnx.Module):
    """A convolution per task: maps ``[B, h, w, C]`` of T tasks -> ``[B, h, w, T, D]``.

    `own` says that no other task's loss reaches the parameters, ``[T, ...]``.
    """

    def __init__(
        self,
        tasks: int,
        d_in: int,
        d_out: int,
        size: int,
        *,
        dilation: int = 1,
        bias: bool = False,
        own: bool = False,
        init: jax.nn.initializers.Initializer | None = None,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        kind, uniform = TaskParam if own else nnx.Param, torch_uniform(size * size * d_in)
        shape = (tasks, size, size, d_in, d_out)
        self.kernel = kind((init or uniform)(rngs.params(), shape, jnp.float32))
        self.bias = kind(uniform(rngs.params(), (tasks, d_out), jnp.float32)) if bias else None
        self.dilation, self.padding, self.dtype = dilation, dilation * (size - 1) // 2, dtype

    def __call__(self, maps: Sequence[jax.Array], *, enlarge: int = 1) -> jax.Array:
        """Of maps enlarged by `enlarge`, which takes a plain 3x3 kernel; see `enlarged_conv`."""
        dtype = compute_type(self.dtype, self.kernel)
        options = dict(padding=self.padding, dilation=self.dilation)

        def one(x: jax.Array, kernel: jax.Array) -> jax.Array:
            if enlarge > 1:
                return enlarged_conv(x, kernel, enlarge)
            return convolution.conv(x, kernel, **options)

        pairs = zip(maps, self.kernel.astype(dtype), strict=True)
        y = jnp.stack([one(x.astype(dtype), kernel) for x, kernel in pairs], -2)
        return y if self.bias is None else biased(y, self.bias.astype(dtype))


class Deconv(nnx.Module):
    """A transposed 3x3 convolution that doubles the size: ``[..., h, w, C]`` -> ``[..., D]``."""

    def __init__(self, d_in: int, d_out: int, *, dtype: Dtype = None, rngs: nnx.Rngs):
        init = torch_uniform(9 * d_out)  # PyTorch takes the outputs for the fan-in here
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, d_in, d_out), jnp.float32))
        self.bias = nnx.Param(init(rngs.params(), (d_out,), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = compute_type(self.dtype, self.kernel)
        options = dict(stride=2, padding=1, output_padding=1)
        y = convolution.conv_transpose(x.astype(dtype), self.kernel.astype(dtype), **options)
        return biased(y, self.bias.astype(dtype))


class TaskConvNorm(nnx.Module):
    """`TaskConv` 3x3 without bias, BatchNorm and ReLU, reached by all tasks' losses."""

    def __init__(self, tasks: int, d_in: int, d_out: int, *, dtype: Dtype, rngs: nnx.Rngs, **conv):
        self.conv = TaskConv(tasks, d_in, d_out, 3, dtype=dtype, rngs=rngs, **conv)
        self.norm = BatchNorm(tasks * d_out, dtype=dtype)

    def __call__(self, maps: Sequence[jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        y = self.conv(maps)
        return jax.nn.relu(self.norm(fold(y), key=key)).reshape(y.shape)


class TaskNorm(nnx.Module):
    """LayerNorm with a scale and a bias per task: ``[..., T, C]``.

    Statistics are over the channels of a task, or, with `joint`, of all tasks together.
    """

    def __init__(self, tasks: int, channels: int, *, joint: bool = False, dtype: Dtype = None):
        self.scale = TaskParam(jnp.ones((tasks, channels), jnp.float32))
        self.bias = TaskParam(jnp.zeros((tasks, channels), jnp.float32))
        self.axes, self.dtype = (-2, -1) if joint else (-1,), dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        y = standardized(x, self.axes, 1e-5)
        y = affine(y, self.scale[...], self.bias[...])
        return y.astype(compute_type(self.dtype, self.scale))
