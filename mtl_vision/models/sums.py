"""Sums over rows as products with ones, and the layers whose gradients they are.

XLA on CPU makes what is summed again inside every sum that reads it, and adds up columns slowly.
What goes into a product is made once, and the product is fast.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp


def expand(x: jax.Array, ndim: int) -> jax.Array:
    """Adds leading axes of size 1 up to `ndim`, to broadcast on purpose."""
    return jax.lax.expand_dims(x, range(ndim - x.ndim))


def row_sum(x: jax.Array, kept: int = 1) -> jax.Array:
    """Sums over all but the last `kept` axes, in float32 or wider; rows may be sharded."""
    lead = x.shape[: x.ndim - kept]
    axes = tuple(range(len(lead)))
    return jax.lax.dot_general(
        jnp.ones(lead, x.dtype),
        x,
        ((axes, axes), ((), ())),
        precision="highest",
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )


@jax.custom_vjp
def biased(x: jax.Array, bias: jax.Array) -> jax.Array:
    """``x + bias``: ``[..., C]``, or ``[..., T, C]`` with a bias of two axes."""
    return x + expand(bias, x.ndim)


def _biased_forward(x, bias):
    return biased(x, bias), bias


def _biased_backward(bias, dy):
    return dy, row_sum(dy, bias.ndim).astype(bias.dtype)


biased.defvjp(_biased_forward, _biased_backward)


@jax.custom_vjp
def affine(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """``x * scale + bias``, over the same axes as `biased`."""
    return x * expand(scale, x.ndim) + expand(bias, x.ndim)


def _affine_forward(x, scale, bias):
    return affine(x, scale, bias), (x, scale)


def _affine_backward(kept, dy):
    x, scale = kept
    sums = (row_sum(g, scale.ndim).astype(scale.dtype) for g in (dy * x, dy))
    return (dy * expand(scale, x.ndim)).astype(x.dtype), *sums


affine.defvjp(_affine_forward, _affine_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_normalized(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns ``scale * (x - mean) / sqrt(var + eps) + bias``, the mean and the biased variance.

    Mean and variance are over all axes that `scale` lacks. They are for the running statistics:
    no gradient goes through them.
    """
    return _normalize(x, scale, bias, eps)[0]


def _normalize(x, scale, bias, eps):
    count = math.prod(x.shape[: x.ndim - scale.ndim])
    mean = row_sum(x, scale.ndim) / count
    centred = x - expand(mean, x.ndim)
    var = row_sum(jnp.square(centred), scale.ndim) / count
    inverse = jax.lax.rsqrt(var + eps)
    y = centred * expand(scale * inverse, x.ndim) + expand(bias, x.ndim)
    return (y, mean, var), (x, mean, inverse, scale)


def _normalize_backward(eps, kept, grads):
    del eps
    x, mean, inverse, scale = kept
    dy, count = grads[0], x.size // scale.size
    centred = (x - expand(mean, x.ndim)) * expand(inverse, x.ndim)
    dscale, dbias = row_sum(dy * centred, scale.ndim), row_sum(dy, scale.ndim)
    slope = centred * expand(dscale / count, x.ndim) + expand(dbias / count, x.ndim)
    dx = (dy - slope) * expand(scale * inverse, x.ndim)
    return dx, dscale, dbias


batch_normalized.defvjp(_normalize, _normalize_backward)
