"""Scans over blocks that repeat every second one, as those of Swin do: a smaller program."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models.blocks import REMAT, Block, run_blocks
from mtl_vision.models.layers import Penalty, split


def scan_pairs(
    blocks: Sequence[Block],
    x: Any,
    *,
    rates: Sequence[float],
    remat: str,
    key: jax.Array | None,
) -> Any:
    """Like `run_blocks`; pairs of blocks that equal the pair before them are scanned.

    Their parameters stay where they are and are stacked in every call, which takes a copy of them.
    Blocks that differ, such as those an adapter has opened streams in, run by themselves.
    """
    if jax.tree.leaves([nnx.state(block, Penalty) for block in blocks]):
        return run_blocks(blocks, x, rates=rates, remat=remat, key=key)
    each, whole = REMAT[remat]

    def run(blocks, x, key):
        keys, i = split(key, len(blocks)), 0
        while i < len(blocks):
            end = i + max(_alike(blocks[i:], x), 1)
            step = _scan if end > i + 1 else _one
            x = step(blocks[i:end], x, rates[i:end], keys[i:end], each)
            i = end
        return x

    return (jax.checkpoint(run) if whole else run)(blocks, x, key)


def _alike(blocks, x):
    """Returns how many blocks from the front a scan may take; 0 if that is less than two pairs."""
    kinds = [(jax.tree.structure(b), [leaf.shape for leaf in jax.tree.leaves(b)]) for b in blocks]
    count = 2
    while kinds[count : count + 2] == kinds[:2]:
        count += 2
    if count < 4:
        return 0
    out = jax.eval_shape(lambda pair, x: pair[1](pair[0](x)), blocks[:2], x)
    same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, out, x)
    return count if all(jax.tree.leaves(same)) else 0


def _one(blocks, x, rates, keys, each):
    def step(block, x, key):
        return block(x, rate=rates[0], key=key)

    return (jax.checkpoint(step) if each else step)(blocks[0], x, keys[0])


def _scan(blocks, x, rates, keys, each):
    drops = keys[0] is not None and any(rates)

    def one(block, x, rate, key):
        return block(x, rate=rate if drops else 0.0, key=key)

    if each:  # a scan keeps its iterations apart by itself
        one = jax.checkpoint(one, prevent_cse=False)

    def step(x, pair):
        for block, rate, key in pair:
            x = one(block, x, rate, key)
        return x, None

    items = zip(blocks, jnp.asarray(rates, jnp.float32), keys, strict=True)
    items = [list(item) for item in items]
    pairs = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *items[i::2]) for i in range(2)]
    return jax.lax.scan(step, x, pairs)[0]
