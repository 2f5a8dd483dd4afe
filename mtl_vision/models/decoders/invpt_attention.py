"""Attention among the tokens of all tasks, with scores that are passed on (arXiv 2203.07997)."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from mtl_vision.models import convolution
from mtl_vision.models.blocks import Mlp
from mtl_vision.models.decoders.task_maps import fold, resize_tasks
from mtl_vision.models.layers import (
    BatchNorm,
    Conv,
    Dtype,
    LayerNorm,
    Linear,
    torch_uniform,
)
from mtl_vision.models.resize import resize

HEADS = 2


class ScoreAttention(nnx.Module):
    """``[B, h, w, T, C]`` -> the same at half the size, and scores ``[B, heads, h/2, w/2, T N]``.

    Queries are strided depthwise convolutions of every task, keys and values means of blocks.
    Scores are before the softmax and scaled by ``C^-1/2`` with C of all heads, as in the authors'
    code. With `fuse`, those of the stage before are enlarged along the queries and mixed in.
    """

    def __init__(
        self, tasks: int, channels: int, *, pool: int, fuse: bool, dtype: Dtype, rngs: nnx.Rngs
    ):
        make, folded = dict(dtype=dtype, rngs=rngs), tasks * channels
        depthwise = dict(stride=2, groups=folded, bias=False)
        self.query_conv = Conv(folded, folded, 3, **depthwise, **make)
        self.query_norm = BatchNorm(folded, dtype=dtype)
        self.query, self.key, self.value, self.proj = (
            Linear(channels, channels, **make) for _ in range(4)
        )
        init = torch_uniform(2 * HEADS)
        mix = dict(init=init, bias_init=init, rngs=rngs)
        self.fuse = Linear(2 * HEADS, HEADS, **mix) if fuse else None
        self.pool = pool

    def __call__(
        self, x: jax.Array, before: jax.Array | None, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        folded, (tasks, channels) = fold(x), x.shape[-2:]
        queries = self.query_norm(self.query_conv(folded), key=key)
        h, w = queries.shape[1:3]
        q = self.query(_tokens(queries, tasks)) * channels**-0.5
        blocks = _tokens(convolution.avg_pool(folded, self.pool), tasks)
        q, k, v = map(_heads, (q, self.key(blocks), self.value(blocks)))
        wide = jnp.promote_types(q.dtype, jnp.float32)
        scores = jnp.einsum("band,bamd->banm", q, k, preferred_element_type=wide)
        if self.fuse is not None:
            scores = self._fused(scores, resize(before, (h, w)).reshape(scores.shape))
        y = jnp.einsum("banm,bamd->band", jax.nn.softmax(scores, -1).astype(v.dtype), v)
        y = self.proj(rearrange(y, "b a n d -> b n (a d)")).reshape(-1, h, w, tasks, channels)
        return y, rearrange(scores, "b a (h w t) m -> b a h w (t m)", h=h, w=w)

    def _fused(self, scores, before):  # in float32 or wider, as all scores
        kernel, bias = (x[...].astype(scores.dtype) for x in (self.fuse.kernel, self.fuse.bias))
        both = jnp.concatenate([scores, before], 1)
        return jnp.einsum("bsnm,sa->banm", both, kernel) + bias[None, :, None, None]


def _tokens(x, tasks):
    return rearrange(x, "b h w (t c) -> b (h w t) c", t=tasks)


def _heads(x):
    return rearrange(x, "b n (a d) -> b a n d", a=HEADS)


class AttentionBlock(nnx.Module):
    """``x + attn(norm x)``, enlarged again, then ``x + mlp(norm x)``: ``[B, h, w, T, C]``."""

    def __init__(
        self, tasks: int, channels: int, *, pool: int, fuse: bool, dtype: Dtype, rngs: nnx.Rngs
    ):
        make = dict(dtype=dtype, rngs=rngs)
        self.norm1, self.norm2 = (LayerNorm(channels, dtype=dtype) for _ in range(2))
        self.attn = ScoreAttention(tasks, channels, pool=pool, fuse=fuse, **make)
        self.mlp = Mlp(channels, 4 * channels, **make)

    def __call__(
        self, x: jax.Array, before: jax.Array | None, *, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        y, scores = self.attn(self.norm1(x), before, key=key)
        x = x + resize_tasks(y, x.shape[1:3])
        return x + self.mlp(self.norm2(x)), scores
