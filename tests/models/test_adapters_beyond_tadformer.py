"""TADFormer: filters, and a window with prompts, against the formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision import rules
from mtl_vision.models.adapters.prompts import PromptBlock
from mtl_vision.models.adapters.tadformer import DynamicFilter, StaticFilter, TADLinear
from mtl_vision.models.blocks import Block, Mlp
from mtl_vision.models.layers import Identity
from mtl_vision.models.windows import WindowAttention, relative_index
from tests.models.adapter_layers import C, T, agree, moved, rngs, values


def test_dynamic_filter_normalises_a_kernel_made_from_the_mean():
    part = moved(DynamicFilter(2, dtype=None, rngs=rngs()))
    v, z = values(part), np.random.default_rng(0).normal(size=(1, 2, 3, 4, 2)).astype(np.float32)
    kernel = (z[0, 1].mean((0, 1)) @ v["make/kernel"] + v["make/bias"]).reshape(2, 9)
    kernel = (kernel - kernel.mean(1)[:, None]) / kernel.std(1, ddof=1)[:, None]
    kernel = (kernel * v["std"] + v["mean"]).reshape(2, 3, 3)
    want = np.zeros((3, 4, 2))
    padded = np.pad(z[0, 1], [(1, 1), (1, 1), (0, 0)])
    for i, j, c in np.ndindex(3, 4, 2):
        want[i, j, c] = (padded[i : i + 3, j : j + 3, c] * kernel[c]).sum()
    agree(part(jnp.asarray(z))[0, 1], want)
    grads = jax.jit(jax.grad(lambda part: jnp.square(part(z)).sum()))(part)
    for path, grad in rules.flatten(nnx.to_pure_dict(nnx.state(grads))).items():
        assert np.isfinite(grad).all() and jnp.abs(grad).max() > 0, path


def test_static_filter_is_one_per_task():
    part = moved(StaticFilter(2, T, rngs=rngs()))
    z = np.zeros((T, 1, 3, 3, 2), np.float32)
    z[:, :, 1, 1] = 1  # the answer to a point is the kernel turned round
    v, out = values(part), part(jnp.asarray(z))
    want = v["kernel"][1, :, ::-1].T.reshape(3, 3, 2) + v["bias"][1]
    agree(out[1, 0], want)


def test_tadformer_tasks_attend_with_their_prompts():
    """One window of a last block, against the formulas."""
    heads, made = 2, dict(dtype=None, rngs=rngs())
    attn = WindowAttention(C, heads, window=2, shift=0, shrink=True, **made)
    block = Block(C, attn, Mlp(C, C, **made))
    for site in ("qkv", "proj"):
        inner = getattr(attn, site)
        part = dict(rank=2, scale=2.0, rate=0.0, filter=Identity())
        setattr(attn, site, TADLinear(inner, **part, **made))
    block = moved(PromptBlock(block, T, last=True, final=True, dtype=None))
    draws = np.random.default_rng(2)
    tokens, prompts = draws.normal(size=(4, C)), draws.normal(size=(T, C))
    v = values(block)
    frozen = {
        s: (v[f"attn/{s}/linear/kernel"], v[f"attn/{s}/linear/bias"]) for s in ("qkv", "proj")
    }
    lora = {s: (v[f"attn/{s}/lora/a"], 2 * v[f"attn/{s}/lora/b"]) for s in ("qkv", "proj")}
    both = np.concatenate([prompts, tokens])
    qkv = both @ (frozen["qkv"][0] + lora["qkv"][0] @ lora["qkv"][1]) + frozen["qkv"][1]
    q, k, value = qkv.reshape(T + 4, 3, heads, C // heads).transpose(1, 2, 0, 3)
    scores = q @ k.transpose(0, 2, 1)
    bias = np.zeros_like(scores)
    table = v["attn/relative_position_bias_table"]
    bias[:, T:, T:] = table[relative_index(2)].transpose(2, 0, 1)
    weights = scores * (C // heads) ** -0.5 + bias
    weights = np.exp(weights) / np.exp(weights).sum(-1, keepdims=True)
    y = weights @ value
    gelu = np.vectorize(lambda s: 0.5 * s * (1 + math.erf(s / 2**0.5)))
    m = gelu(scores[:, 1, T:])[..., None] * y[:, T:]  # of the second task
    m, y = (part.transpose(1, 0, 2).reshape(-1, C) for part in (m, y))
    u = y[T:] + m
    u = (u - u.mean(1)[:, None]) / np.sqrt(u.var(1)[:, None] + 1e-5)
    u = u * v["prompt_norm/scale"] + v["prompt_norm/bias"]
    p = y @ frozen["proj"][0] + frozen["proj"][1]
    shared = p + y @ lora["proj"][0] @ lora["proj"][1]
    x, prompts = jnp.asarray(tokens, jnp.float32), jnp.asarray(prompts, jnp.float32)
    attend = jax.jit(lambda block, *inputs: block._attend(*inputs, None))
    streams, averaged, maps = attend(block, x.reshape(1, 1, 2, 2, C), prompts[None, None])
    agree(averaged[0, 0], shared[:T])
    agree(streams[0].reshape(4, C), shared[T:])
    agree(maps[1].reshape(4, C), m)
    agree(streams[2].reshape(4, C), p[T:] + u @ lora["proj"][0] @ lora["proj"][1])
