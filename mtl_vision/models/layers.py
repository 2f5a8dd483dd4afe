"""Layers with PyTorch's arithmetic and initialisation, channels last.

Every layer is called as ``layer(x, key=key)``: no key means evaluation (running statistics, no
noise), and a layer without randomness ignores it. So whatever wraps a layer may use the key, and
the code around it does not change. Parameters are float32; `dtype` is the compute type, None for
the type of the parameters.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models import convolution
from mtl_vision.models.sums import affine, batch_normalized, biased, expand

Dtype = Any  # "float32", "bfloat16", a jnp dtype, or None: the parameters' own
Initializer = jax.nn.initializers.Initializer

# The references truncate at +-2 absolute, a hundred deviations away.
NORMAL = jax.nn.initializers.normal(0.02)


def torch_uniform(fan_in: int) -> Initializer:
    """PyTorch's default of weights and biases: uniform in ``+-1/sqrt(fan_in)``."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def split(key: jax.Array | None, count: int) -> list[jax.Array | None]:
    """Returns `count` keys, or as many None."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def compute_type(dtype: Dtype, parameter: nnx.Param) -> Dtype:
    """Returns `dtype`, or that of the parameter where none is asked for."""
    return parameter.dtype if dtype is None else dtype


def widen(x: jax.Array) -> jax.Array:
    """Returns `x` as float32, or wider if it is: for norms, softmax and statistics."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def standardized(x: jax.Array, axes: int | tuple[int, ...], eps: float) -> jax.Array:
    """Returns `x` with mean 0 and variance 1 over `axes`, in float32 or wider."""
    x = widen(x)
    x = x - x.mean(axes, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axes, keepdims=True) + eps)


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``x @ kernel`` on the last axis: ``[..., C]``, ``[C, D]`` -> ``[..., D]``.

    One stream, ``[1, ..., C]``, is multiplied as a matrix: the gradient of the kernel is then a
    product without transposed copies (CPU). Several are not, since their rows may be sharded.
    """
    if x.shape[0] != 1:
        return x @ kernel
    y = x.reshape(-1, x.shape[-1]) @ kernel
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class AdapterParam(nnx.Param):
    """A parameter that an adapter adds and all tasks share."""


class TaskParam(nnx.Param):
    """A parameter whose leading axis is the tasks, in their order; each owns its slice.

    The metadata `used`, a fraction, says how much of it is not padding.
    """


class Penalty(nnx.Variable):
    """A loss that belongs to no task, such as the balance of experts: a weighted float32 scalar.

    A module writes it in every call with a key. The step adds all of them to what is minimised,
    outside what merges or weights the tasks. Its attribute must be called ``penalty``.
    """


class Identity(nnx.Module):
    """Returns its input; a place for adapters to stand in."""

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        del key
        return x


class Linear(nnx.Module):
    """``x W + b`` on the last axis: ``[..., C]`` -> ``[..., D]``; W is ``[C, D]``."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        bias: bool = True,
        init: Initializer = NORMAL,
        bias_init: Initializer = jax.nn.initializers.zeros,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(init(rngs.params(), (d_in, d_out), jnp.float32))
        self.bias = nnx.Param(bias_init(rngs.params(), (d_out,), jnp.float32)) if bias else None
        self.dtype = dtype

    def __call__(
        self, x: jax.Array, *, key: jax.Array | None = None, extra: jax.Array | float = 0.0
    ) -> jax.Array:
        """`extra` is added to the kernel."""
        del key
        dtype = compute_type(self.dtype, self.kernel)
        y = matmul(x.astype(dtype), (self.kernel[...] + extra).astype(dtype))
        return y if self.bias is None else biased(y, self.bias.astype(dtype))


class Conv(nnx.Module):
    """Convolution of ``[..., H, W, C]`` with a kernel ``[k, k, C / groups, D]``.

    `padding` is the number of zeros on each side, by default what keeps the size at stride 1.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: int | None = None,
        bias: bool = True,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        init = torch_uniform(size * size * d_in // groups)
        shape = (size, size, d_in // groups, d_out)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(init(rngs.params(), (d_out,), jnp.float32)) if bias else None
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.padding = dilation * (size - 1) // 2 if padding is None else padding
        self.dtype = dtype

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        del key
        dtype = compute_type(self.dtype, self.kernel)
        y = convolution.conv(
            x.astype(dtype),
            self.kernel.astype(dtype),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y if self.bias is None else biased(y, self.bias.astype(dtype))


class LayerNorm(nnx.Module):
    """Normalises the last axis; statistics in float32 or wider, output in the compute type."""

    def __init__(self, channels: int, *, eps: float = 1e-5, dtype: Dtype = None):
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        del key
        y = standardized(x, -1, self.eps)
        y = affine(y, self.scale[...], self.bias[...])
        return y.astype(compute_type(self.dtype, self.scale))


class LayerScale(nnx.Module):
    """``gamma * x`` per channel (arXiv 2103.17239)."""

    def __init__(self, channels: int, init: float, *, dtype: Dtype = None):
        self.gamma = nnx.Param(jnp.full(channels, init, jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        del key
        return x * expand(self.gamma.astype(compute_type(self.dtype, self.gamma)), x.ndim)


class BatchNorm(nnx.Module):
    """Normalises every channel over all other axes (arXiv 1502.03167), as PyTorch does.

    With a key: statistics of this call, which is the global batch under `jax.jit`, and the
    running ones move by a tenth, the variance as the unbiased estimate. Without: the running ones.
    With `tasks`, parameters are ``[T, C]`` and inputs ``[..., T, C]``: one norm per task.
    """

    def __init__(self, channels: int, *, tasks: int = 0, eps: float = 1e-5, dtype: Dtype = None):
        shape, kind = ((tasks, channels), TaskParam) if tasks else ((channels,), nnx.Param)
        self.scale = kind(jnp.ones(shape, jnp.float32))
        self.bias = kind(jnp.zeros(shape, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(shape, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(shape, jnp.float32))
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        x = widen(x)
        if key is None:
            gain = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.eps)
            y = (x - expand(self.mean[...], x.ndim)) * expand(gain, x.ndim)
            y = y + expand(self.bias[...], x.ndim)
        else:
            y, *found = batch_normalized(x, self.scale[...], self.bias[...], self.eps)
            self._move(*found, x.size // self.scale.size)
        return y.astype(compute_type(self.dtype, self.scale))

    def _move(self, mean, var, count):
        unbiased = var * (count / max(count - 1, 1))
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            running[...] += 0.1 * (jax.lax.stop_gradient(batch) - running[...])


def gelu(x: jax.Array) -> jax.Array:
    """The exact form, with erf; `jax.nn.gelu` takes erfc, which is 5 times slower on CPU."""
    wide = widen(x)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def drop_path(x: jax.Array, rate: jax.Array | float, key: jax.Array | None) -> jax.Array:
    """Drops whole samples, per stream, and rescales the kept ones (arXiv 1603.09382).

    Args:
      x: ``[S, B, ...]``, a residual branch.
      rate: probability of dropping in [0, 1); a Python 0.0 costs nothing.
      key: None in evaluation: nothing is dropped.
    """
    if key is None or (isinstance(rate, float) and rate == 0.0):
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape[:2])
    factor = (kept / (1 - rate)).astype(x.dtype)
    return x * jax.lax.expand_dims(factor, range(2, x.ndim))


def hash_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns random uint32 of `shape`: a hash of each place in row-major order and of the key.

    Ten integer operations a number, which fuse with what uses them, so that nothing is stored.
    The generators of `jax.random` took longer than the layers they were to regularise (CPU). Each
    of the two rounds is the finalizer ``lowbias32``. Good for masks, not for statistics.
    """
    first, second = jax.random.bits(key, (2,), "uint32")
    place, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return _mix(_mix(place ^ first) ^ second)


def _mix(h):
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * jnp.uint32(0x846CA68B)
    return h ^ (h >> 16)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes values with probability `rate` and rescales the others (arXiv 1207.0580).

    Args:
      x: any array.
      rate: in [0, 1); 0.0 costs nothing.
      key: None in evaluation: nothing is dropped.
    """
    if key is None or rate == 0.0:
        return x
    kept = hash_bits(key, x.shape) >= jnp.uint32(rate * 2**32)
    return jnp.where(kept, x / (1 - rate), 0)
