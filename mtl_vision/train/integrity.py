"""What a saved tree must be: names, shapes, dtypes and a checksum of every leaf."""

import math
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


class Leaf(NamedTuple):
    """One line of a table; `checksum` is 0 where only the form matters."""

    shape: tuple[int, ...]
    dtype: str
    checksum: int = 0


Table = dict[str, Leaf]


# Every shape is compiled once: a plain loop over memory gains nothing from optimization.
@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def checksum(x: jax.Array) -> jax.Array:
    """Returns a uint32 that changes with any one changed word of `x`.

    ``sum_i mix(word_i + i * 0x9E3779B9) mod 2^32`` with the finaliser of MurmurHash3, a bijection,
    as `mix`. Unlike a CRC of bytes it is a sum, so devices and hosts that hold pieces of an array
    compute it in place, and the value does not depend on the mesh.
    """
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    words = jax.lax.bitcast_convert_type(x, WORDS[x.dtype.itemsize]).astype(jnp.uint32)
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = math.prod(words.shape[axis + 1 :]) & 0xFFFFFFFF
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index += place * jnp.uint32(stride)
    h = words + index * jnp.uint32(0x9E3779B9)
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)


def shapes(leaves: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes, dtypes and shardings of arrays."""
    return {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        for path, x in leaves.items()
    }


def table(leaves: Mapping[str, Any]) -> Table:
    """Describes arrays, with checksums, or their shapes, without.

    Args:
      leaves: ``{path: array or ShapeDtypeStruct}``.
    """
    arrays = {path: x for path, x in leaves.items() if isinstance(x, jax.Array)}
    found = {}
    for path, x in arrays.items():
        found[path] = checksum(_numbers(x))
        # Hosts that start sums in different orders would wait for each other forever.
        if jax.process_count() > 1:
            jax.block_until_ready(found[path])
    found = jax.device_get(found)
    return {
        path: Leaf(tuple(x.shape), str(x.dtype), int(found.get(path, 0)))
        for path, x in leaves.items()
    }


def _numbers(x: jax.Array) -> jax.Array:
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def digest(entries: Table) -> int:
    """Returns one number for a whole table."""
    return zlib.crc32(repr(sorted(entries.items())).encode())


def differences(saved: Mapping[str, Leaf], wanted: Mapping[str, Leaf]) -> list[str]:
    """Lists where two tables differ in names, shapes and dtypes, one line each.

    Args:
      saved: the checkpoint's table.
      wanted: the model's table.
    """
    lines = [f"{path} is not in the checkpoint" for path in wanted if path not in saved]
    lines += [f"{path} is not in the model" for path in saved if path not in wanted]
    for path in wanted.keys() & saved.keys():
        here, there = wanted[path], saved[path]
        if here.shape != there.shape:
            lines.append(f"{path} is {there.shape} in the checkpoint, {here.shape} in the model")
        elif here.dtype != there.dtype:
            lines.append(f"{path} is {there.dtype} in the checkpoint, {here.dtype} in the model")
    return sorted(lines)


def damaged(found: Mapping[str, Leaf], saved: Mapping[str, Leaf]) -> list[str]:
    """Lists the paths whose checksum is not the one that was saved."""
    return [path for path, leaf in found.items() if leaf.checksum != saved[path].checksum]
