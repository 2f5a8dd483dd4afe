"""Random numbers for every coordinate, as fast as the memory."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns float32 numbers, uniform on multiples of 2^-24 inside (0, 1).

    A hash of (key, position): XLA fuses it into the loop that uses the numbers, where threefry
    takes ten times as long, and a shard computes its own part from the positions. 23 random bits;
    for masks and noise, not for secrets.

    Args:
      key: another key gives independent numbers.
      shape: of one leaf, with less than 2^32 entries.
    """
    return uniforms(key, [shape])[0]


def uniforms(key: jax.Array, shapes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
    """Returns independent numbers for several leaves, see `uniform`.

    Their keys are drawn together: compiling one threefry takes as long as the rest of a leaf.
    """
    words = jax.random.bits(key, (len(shapes), 2))
    return [_hashed(word, shape) for word, shape in zip(words, shapes, strict=True)]


def _hashed(words, shape):
    position = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = jnp.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        position += stride * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    # Two rounds: with one, the numbers of two keys are the same, in another order.
    bits = _mix(_mix(position ^ words[0]) ^ words[1])
    return ((bits >> 9).astype(jnp.float32) + 0.5) * 2.0**-23


def _mix(x):
    """A bijection of 32-bit integers (C. Wellons' lowbias32): every bit moves every other one."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
