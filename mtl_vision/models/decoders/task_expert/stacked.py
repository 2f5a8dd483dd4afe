"""Layers stacked on a leading axis G of experts or tasks: parameters ``[G, ...]``."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from mtl_vision.models import convolution
from mtl_vision.models.layers import Dtype, Initializer, compute_type, torch_uniform, widen

EPS = 1e-5


class StackedLinear(nnx.Module):
    """``x_g W_g + b_g``: ``[G, ..., C]`` -> ``[G, ..., D]``; W is ``[G, C, D]``.

    Args:
      count: G.
      d_in, d_out: C and D.
      bias: whether there is b.
      kind: of the parameters: `nnx.Param` for experts, `TaskParam` for tasks.
      init, bias_init: PyTorch's defaults if None.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self,
        count: int,
        d_in: int,
        d_out: int,
        *,
        bias: bool = True,
        kind: type[nnx.Param] = nnx.Param,
        init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        init, bias_init = init or torch_uniform(d_in), bias_init or torch_uniform(d_in)
        self.kernel = kind(init(rngs.params(), (count, d_in, d_out), jnp.float32))
        self.bias = kind(bias_init(rngs.params(), (count, d_out), jnp.float32)) if bias else None
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """``[G, ..., C]`` -> ``[G, ..., D]``."""
        dtype = compute_type(self.dtype, self.kernel)
        folded = x.reshape(x.shape[0], -1, x.shape[-1]).astype(dtype)
        y = jnp.einsum("gxc,gcd->gxd", folded, self.kernel.astype(dtype))
        return shift(y.reshape(*x.shape[:-1], y.shape[-1]), self.bias)

    def fan_out(self, x: jax.Array) -> jax.Array:
        """The same input for all: ``[..., C]`` -> ``[G, ..., D]``."""
        dtype = compute_type(self.dtype, self.kernel)
        y = jnp.einsum("...c,gcd->g...d", x.astype(dtype), self.kernel.astype(dtype))
        return shift(y, self.bias)


class StackedConv(nnx.Module):
    """3x3 convolutions with zeros around: ``[G, B, h, w, C]`` -> ``[G, B, h, w, D]``.

    The kernel is ``[G, 3, 3, C, D]``; the arguments are those of `StackedLinear`.
    """

    def __init__(
        self,
        count: int,
        d_in: int,
        d_out: int,
        *,
        kind: type[nnx.Param] = nnx.Param,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        init = torch_uniform(9 * d_in)
        self.kernel = kind(init(rngs.params(), (count, 3, 3, d_in, d_out), jnp.float32))
        self.bias = kind(init(rngs.params(), (count, d_out), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = compute_type(self.dtype, self.kernel)
        # Made again in the backward pass: nine times the input is a lot to keep.
        y = each(jax.checkpoint(_conv), x.astype(dtype), self.kernel.astype(dtype))
        return shift(y, self.bias)

    def fan_out(self, x: jax.Array) -> jax.Array:
        """The same input for all, as one convolution: ``[B, h, w, C]`` -> ``[G, B, h, w, D]``."""
        dtype = compute_type(self.dtype, self.kernel)
        dense = rearrange(self.kernel.astype(dtype), "g i j c d -> i j c (g d)")
        y = convolution.conv(x.astype(dtype), dense, padding=1)
        G, D = self.bias.shape
        return shift(rearrange(y, "b h w (g d) -> g b h w d", g=G, d=D), self.bias)


class StackedNorm(nnx.Module):
    """BatchNorm with parameters ``[G, C]`` of ``[G, ..., C]``; otherwise as `layers.BatchNorm`.

    Means over one axis, with G in front, take a third of the time (CPU, with gradients).
    """

    def __init__(
        self, count: int, channels: int, *, kind: type[nnx.Param] = nnx.Param, dtype: Dtype = None
    ):
        shape = (count, channels)
        self.scale = kind(jnp.ones(shape, jnp.float32))
        self.bias = kind(jnp.zeros(shape, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(shape, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(shape, jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array, *, key: jax.Array | None) -> jax.Array:
        flat = widen(x).reshape(x.shape[0], -1, x.shape[-1])
        mean, var = (self.mean[...], self.var[...]) if key is None else self._batch(flat)
        gain = self.scale[...] * jax.lax.rsqrt(var + EPS)
        y = (flat - mean[:, None]) * gain[:, None] + self.bias[...][:, None]
        return y.reshape(x.shape).astype(compute_type(self.dtype, self.scale))

    def _batch(self, flat):
        count = flat.shape[1]
        mean = flat.mean(1)
        var = jnp.square(flat - mean[:, None]).mean(1)
        unbiased = var * (count / max(count - 1, 1))
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            running[...] += 0.1 * (jax.lax.stop_gradient(batch) - running[...])
        return mean, var


def each(function: Callable, *stacked: jax.Array) -> jax.Array:
    """Runs ``function`` for every g: at once, but one after the other on CPU.

    There the parts stay in the cache, and big products are no faster than small ones.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda parts: function(*parts), stacked)
    return jax.vmap(function)(*stacked)


def _conv(x, kernel):
    """As one product: XLA's grouped and looped convolutions are 8 to 30 times slower on CPU."""
    *_, h, w, C = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.concatenate(patches, -1) @ kernel.reshape(9 * C, -1)


def shift(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Adds ``[G, D]`` to ``[G, ..., D]``, if there is one."""
    if bias is None:
        return y
    G, D = bias.shape
    return y + bias.astype(y.dtype).reshape(G, *(1,) * (y.ndim - 2), D)
