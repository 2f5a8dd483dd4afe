"""Attention, in the form that suits the device, the lengths and the types.

On one CPU long rows go head by head, on GPUs in half precision through cuDNN's flash attention;
scores of all heads at once are kept nowhere then. Everything else is plain products.
"""

import functools

import jax
import jax.numpy as jnp

from mtl_vision.models import convolution
from mtl_vision.models.layers import expand

LONG = 256  # keys from which on it pays to keep no scores
QUERIES = 128  # of one head at once: their scores stay in the cache
WIDTH = 32  # of the columns that `_maxima` compares


def attend(q: jax.Array, k: jax.Array, v: jax.Array, *added: jax.Array) -> jax.Array:
    """``softmax(q k^T / sqrt(d) + added) v``; scores and softmax in float32 or wider.

    Args:
      q, k, v: ``[..., N, d]``.
      added: any number of arrays ``[..., N, N]``, broadcast over missing leading axes.
    """
    *_, N, d = q.shape
    if not added and N >= LONG and not convolution.is_plain():
        if _one_cpu():
            merged = (x.reshape(-1, N, d) for x in (q, k, v))
            return by_heads(*merged).reshape(v.shape)
        if q.ndim > 3 and q.dtype in (jnp.bfloat16, jnp.float16) and d % 8 == 0 and _flash(d):
            turned = (jnp.swapaxes(x.reshape(-1, *x.shape[-3:]), 1, 2) for x in (q, k, v))
            y = jax.nn.dot_product_attention(*turned, implementation="cudnn")
            return jnp.swapaxes(y, 1, 2).reshape(v.shape)
    return plain(q, k, v, *added)


def _one_cpu() -> bool:
    # On several devices rows or heads may be sharded, which a loop over them would undo.
    return jax.default_backend() == "cpu" and jax.device_count() == 1


@functools.cache
def _flash(d: int) -> bool:
    """Says whether cuDNN does this here, forward and backward."""
    if jax.default_backend() != "gpu":
        return False
    x = jax.ShapeDtypeStruct((1, 2 * LONG, 2, d), jnp.bfloat16)
    attention = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    try:
        jax.jit(jax.grad(lambda *x: attention(*x).sum().astype(jnp.float32))).lower(
            x, x, x
        ).compile()
    except Exception:  # of many kinds: no cuDNN, an old one, an old device
        return False
    return True


def plain(q: jax.Array, k: jax.Array, v: jax.Array, *added: jax.Array) -> jax.Array:
    """`attend` by products over all heads at once."""
    scores = _scores(q * q.shape[-1] ** -0.5, k)
    for x in added:
        scores = scores + expand(x.astype(scores.dtype), scores.ndim)
    weights = jax.nn.softmax(scores, -1).astype(v.dtype)
    return jnp.einsum("...nm,...md->...nd", weights, v)


@jax.custom_vjp
def by_heads(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`attend` of ``[heads, N, d]``, one head and some queries after the other.

    The backward pass computes the weights again from their row sums, as flash attention does
    (arXiv 2205.14135), so no ``[N, N]`` is kept.
    """
    return _forward(q, k, v)[0]


def _forward(q, k, v):
    def head(qkv):
        q, k, v = qkv

        def some(q):
            scores = _scores(q, k)
            top = _maxima(scores)
            e = jnp.exp(scores - top)
            total = e.sum(-1, keepdims=True)
            y = jnp.einsum("nm,md->nd", e.astype(v.dtype), v, preferred_element_type=e.dtype)
            return (y / total).astype(v.dtype), top + jnp.log(total)

        return _joined(jax.lax.map(some, _chunks(q * q.shape[-1] ** -0.5)), len(q))

    y, sums = jax.lax.map(head, (q, k, v))
    return y, (q, k, v, y, sums)


def _backward(kept, dy):
    def head(args):
        q, k, v, dy, sums, inner = args
        scale = q.shape[-1] ** -0.5

        def some(grads, args):
            dk, dv = grads
            q, dy, sums, inner = args
            p = jnp.exp(_scores(q, k) - sums)
            ds = (p * (_scores(dy, v) - inner)).astype(q.dtype)
            product = functools.partial(jnp.einsum, preferred_element_type=sums.dtype)
            dv += product("nm,nd->md", p.astype(dy.dtype), dy)
            dk += product("nm,nd->md", ds, q)
            return (dk, dv), product("nm,md->nd", ds, k) * scale

        zeros = (jnp.zeros(k.shape, sums.dtype), jnp.zeros(v.shape, sums.dtype))
        rows = tuple(_chunks(x) for x in (q * scale, dy, sums, inner))
        (dk, dv), dq = jax.lax.scan(some, zeros, rows)
        return tuple(x.astype(q.dtype) for x in (_joined(dq, len(q)), dk, dv))

    q, k, v, y, sums = kept
    inner = (dy.astype(sums.dtype) * y).sum(-1, keepdims=True)
    return jax.lax.map(head, (q, k, v, dy, sums, inner))


by_heads.defvjp(_forward, _backward)


def _scores(q, k):
    wide = jnp.promote_types(q.dtype, jnp.float32)
    return jnp.einsum("...nd,...md->...nm", q, k, preferred_element_type=wide)


def _maxima(scores):
    """Returns the largest of every row, ``[n, m] -> [n, 1]``, over columns that lie together.

    XLA's own maximum of a long row takes longer on a CPU than the row's exponentials.
    """
    last = scores.shape[-1] - WIDTH
    parts = [scores[:, i : i + WIDTH] for i in (*range(0, last, WIDTH), last)]
    top = functools.reduce(jnp.maximum, parts)
    while top.shape[-1] > 1:
        top = jnp.maximum(*jnp.split(top, 2, -1))
    return top


def _chunks(x):
    """``[N, ...]``, filled up with zeros, -> ``[n, QUERIES, ...]``."""
    x = jnp.pad(x, [(0, -len(x) % QUERIES)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(-1, QUERIES, *x.shape[1:])


def _joined(chunks, count):
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], chunks)
