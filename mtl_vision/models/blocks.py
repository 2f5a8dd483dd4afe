"""The pre-norm transformer block that Swin and ViT share, and how blocks are run in a row.

Activations are ``[S, B, ..., C]``. The leading stream axis is 1 in a plain backbone; an adapter
may widen it, and everything here works on any S by broadcasting.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision.models.convolution import pad_to
from mtl_vision.models.layers import (
    Conv,
    Dtype,
    Identity,
    LayerNorm,
    Linear,
    Penalty,
    drop_path,
    gelu,
    split,
)

# What the backward pass computes again: nothing, the inside of every block, or of every stage.
REMAT = {"none": (False, False), "block": (True, False), "stage": (False, True)}


def quick_gelu(x: jax.Array) -> jax.Array:
    """``x sigmoid(1.702 x)``, as in CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


def swiglu(x: jax.Array) -> jax.Array:
    """``silu(a) b`` of the halves (a, b) of the last axis (arXiv 2002.05202)."""
    gate, value = jnp.split(x, 2, -1)
    return jax.nn.silu(gate) * value


# What stands between the layers of an MLP.
ACTS = {
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
    "swiglu": swiglu,
}


class PatchEmbed(nnx.Module):
    """Image ``[B, H, W, 3]`` -> tokens ``[B, ceil(H/p), ceil(W/p), C]``, through `norm`."""

    def __init__(
        self,
        channels: int,
        patch: int,
        *,
        norm: nnx.Module,
        bias: bool = True,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        make = dict(stride=patch, padding=0, bias=bias, dtype=dtype, rngs=rngs)
        self.proj = Conv(3, channels, patch, **make)
        self.norm, self.patch = norm, patch

    def __call__(self, image: jax.Array) -> jax.Array:
        return self.norm(self.proj(pad_to(image, self.patch)))


class Mlp(nnx.Module):
    """``fc2(act(fc1 x))``, `act` being a key of `ACTS`; for ``swiglu`` fc1 is twice as wide."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        act: str = "gelu",
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        wide = 2 * hidden if act == "swiglu" else hidden
        self.fc1 = Linear(channels, wide, dtype=dtype, rngs=rngs)
        self.fc2 = Linear(hidden, channels, dtype=dtype, rngs=rngs)
        self.act = act

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        keys = split(key, 2)
        return self.fc2(ACTS[self.act](self.fc1(x, key=keys[0])), key=keys[1])


class Block(nnx.Module):
    """``x + attn(norm x)``, then ``x + mlp(norm x)``, each branch scaled and dropped.

    `attn` and `mlp` are modules ``[S, B, ..., C]`` -> ``[S or wider, B, ..., C]``; `scale1` and
    `scale2` likewise (Identity, or LayerScale).
    """

    def __init__(
        self,
        channels: int,
        attn: nnx.Module,
        mlp: nnx.Module,
        *,
        scales: tuple[nnx.Module, nnx.Module] | None = None,
        eps: float = 1e-5,
        dtype: Dtype = None,
    ):
        self.norm1, self.norm2 = (LayerNorm(channels, eps=eps, dtype=dtype) for _ in range(2))
        self.attn, self.mlp = attn, mlp
        self.scale1, self.scale2 = scales or (Identity(), Identity())

    def __call__(
        self,
        x: jax.Array,
        *,
        rate: jax.Array | float = 0.0,
        key: jax.Array | None = None,
        **given: Any,
    ) -> jax.Array:
        """`given` goes to the attention."""
        keys = split(key, 6)
        branch = self.scale1(self.attn(self.norm1(x), key=keys[0], **given), key=keys[4])
        x = x + drop_path(branch, rate, keys[1])
        branch = self.scale2(self.mlp(self.norm2(x), key=keys[2]), key=keys[5])
        return x + drop_path(branch, rate, keys[3])


def drop_rates(most: float, depth: int) -> tuple[float, ...]:
    """Drop path rates that rise linearly from 0 at the first block to `most` at the last."""
    return tuple(float(rate) for rate in np.linspace(0, most, depth))


def run_blocks(
    blocks: Sequence[Block],
    x: jax.Array,
    *,
    rates: Sequence[float],
    remat: str,
    key: jax.Array | None,
    **given: Any,
) -> jax.Array:
    """Runs `blocks` one after another; `remat` is a key of `REMAT`, `given` is for all."""
    each, whole = REMAT[remat]

    def step(block, rate, x, key):
        return block(x, rate=rate, key=key, **given), nnx.state(block, Penalty)

    if each:
        step = jax.checkpoint(step, static_argnums=(1,))

    def run(blocks, x, key):
        written = []
        for block, rate, block_key in zip(blocks, rates, split(key, len(blocks)), strict=True):
            x, penalty = step(block, rate, x, block_key)
            written.append(penalty)
        return x, written

    x, written = (jax.checkpoint(run) if whole else run)(blocks, x, key)
    # A checkpoint works on copies of the blocks.
    for block, penalty in zip(blocks, written, strict=True):
        nnx.update(block, penalty)
    return x


def scan_blocks(
    blocks: Block,
    x: jax.Array,
    *,
    rates: Sequence[float],
    remat: str,
    key: jax.Array | None,
    **given: Any,
) -> jax.Array:
    """Like `run_blocks`, for blocks stacked on a leading axis of every parameter.

    The program holds one block, whatever the depth. S must be the same before and after a block.
    """
    each, whole = REMAT[remat]
    drops = any(rates)

    def step(x, item):
        block, rate, key = item
        x = block(x, rate=rate if drops else 0.0, key=key, **given)
        return x, nnx.state(block, Penalty)

    if each:  # a scan keeps its iterations apart by itself
        step = jax.checkpoint(step, prevent_cse=False)

    def run(blocks, x, key):
        keys = None if key is None else jax.random.split(key, len(rates))
        return jax.lax.scan(step, x, (blocks, jnp.asarray(rates, jnp.float32), keys))

    x, penalties = (jax.checkpoint(run) if whole else run)(blocks, x, key)
    nnx.update(blocks, penalties)  # a scan works on copies of the blocks
    return x
