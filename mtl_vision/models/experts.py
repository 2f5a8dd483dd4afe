"""Expert MLPs stacked on one axis, and two ways to run those that are chosen: both exact.

- ``sorted``: the rows of an image are sorted by expert and cut into blocks of rows of one expert,
  the last of which is filled up with zeros. No row is dropped, whatever the gate says.
- ``dense``: all experts run on all tokens, as one MLP that is E times as wide. E / K times the
  multiply-adds, in large products.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models.convolution import is_plain
from mtl_vision.models.gates import scattered
from mtl_vision.models.layers import (
    AdapterParam,
    Dtype,
    compute_type,
    expand,
    gelu,
    torch_uniform,
    widen,
)

BLOCK = 64  # rows; of 16 to 512 about the fastest at 384 channels (CPU)
DISPATCHES = ("auto", "sorted", "dense")


class Stack(nnx.Module):
    """E linear layers: kernel ``[E, D, F]``, bias ``[E, F]``."""

    def __init__(self, experts: int, d_in: int, d_out: int, *, dtype: Dtype, rngs: nnx.Rngs):
        # The authors' layer takes all but the first axis of [E, F, D] for the fan-in.
        init = torch_uniform(d_in * d_out)
        self.kernel = AdapterParam(init(rngs.params(), (experts, d_in, d_out), jnp.float32))
        self.bias = AdapterParam(jnp.zeros((experts, d_out), jnp.float32))
        self.dtype = dtype

    def weights(self) -> tuple[jax.Array, jax.Array]:
        """Returns kernel and bias in the compute type."""
        dtype = compute_type(self.dtype, self.kernel)
        return self.kernel.astype(dtype), self.bias.astype(dtype)


class Experts(nnx.Module):
    """``sum_k w_k fc2_e(gelu(fc1_e x))`` with ``e = index_k``.

    Args:
      experts: E.
      channels: D.
      hidden: h, the width inside an expert.
      dispatch: ``sorted``, ``dense``, or ``auto``: ``sorted`` on CPU, where it takes 0.4 times as
        long with 4 of 16 experts, with gradients too. Elsewhere ``dense``: blocks would read the
        weights of their expert again and again, more than small experts have to multiply.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self,
        experts: int,
        channels: int,
        hidden: int,
        *,
        dispatch: str = "auto",
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        self.fc1 = Stack(experts, channels, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = Stack(experts, hidden, channels, dtype=dtype, rngs=rngs)
        self.dispatch = dispatch

    def __call__(self, x: jax.Array, weights: jax.Array, index: jax.Array) -> jax.Array:
        """Runs the chosen experts.

        Args:
          x: ``[S or 1, B, ..., D]``.
          weights, index: ``[S, B, ..., K]``, the index without repetition.

        Returns: ``[S, B, ..., D]``.
        """
        x = x.astype(compute_type(self.fc1.dtype, self.fc1.kernel))
        x = jnp.broadcast_to(x, (*index.shape[:-1], x.shape[-1]))
        weights = weights.astype(x.dtype)
        if is_plain():
            return self.each(x, weights, index)
        kind = self.dispatch
        if kind == "auto":
            kind = "sorted" if jax.default_backend() == "cpu" else "dense"
        return self.dense(x, weights, index) if kind == "dense" else self.sorted(x, weights, index)

    def each(self, x: jax.Array, weights: jax.Array, index: jax.Array) -> jax.Array:
        """The chosen experts, with a copy of their weights for each token: the form that counts."""
        (w1, b1), (w2, b2) = self.fc1.weights(), self.fc2.weights()
        hidden = gelu(jnp.einsum("...d,...kdh->...kh", x, w1[index]) + b1[index])
        y = jnp.einsum("...kh,...khd->...kd", hidden, w2[index]) + b2[index]
        return (weights[..., None] * y).sum(-2)

    def dense(self, x: jax.Array, weights: jax.Array, index: jax.Array) -> jax.Array:
        """All experts on all tokens."""
        (w1, b1), (w2, b2) = self.fc1.weights(), self.fc2.weights()
        gates = scattered(weights, index, len(w1))
        hidden = gelu(jnp.einsum("...d,edh->...eh", x, w1) + expand(b1, x.ndim + 1))
        return jnp.einsum("...eh,ehd->...d", hidden * gates[..., None], w2) + gates @ b2

    def sorted(self, x: jax.Array, weights: jax.Array, index: jax.Array) -> jax.Array:
        """The chosen experts, in blocks."""
        (w1, b1), (w2, b2) = self.fc1.weights(), self.fc2.weights()
        (*_, D), K, E = x.shape, index.shape[-1], len(w1)
        # All streams of an image [B, M], so that a batch may lie over devices.
        image_first = jnp.swapaxes(index, 0, 1)
        rows = image_first.reshape(len(image_first), -1)
        tokens = jnp.swapaxes(x, 0, 1).reshape(len(rows), -1, D)
        slot, source, owner = jax.vmap(lambda rows: plan(rows, E))(rows)
        # Sources behind the last row are what fills up, and read zeros.
        blocks = jax.vmap(lambda x, i: x.at[i // K].get(mode="fill", fill_value=0))(tokens, source)
        blocks = blocks.reshape(*owner.shape, -1, D)
        y = gelu(by_block(blocks, w1, owner) + b1[owner][:, :, None])
        y = by_block(y, w2, owner) + b2[owner][:, :, None]
        y = jax.vmap(lambda y, slot: y[slot])(y.reshape(len(rows), -1, D), slot)
        y = jnp.swapaxes(y.reshape(*image_first.shape, D), 0, 1)
        return (y * weights[..., None]).sum(-2)


def plan(rows: jax.Array, experts: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Says where the rows of one group go.

    Args:
      rows: ``[M]`` int32, the expert of each.
      experts: E.

    Returns: ``slot [M]``, where in the blocks a row is; ``source [blocks * size]``, which row is
      there, M for none; ``owner [blocks]``, the expert of each block.
    """
    (M,) = rows.shape
    size, count = blocks_of(M, experts)
    ours = rows[:, None] == jnp.arange(experts)[None]
    before = jnp.cumsum(ours.astype(jnp.int32), 0)
    ends = jnp.cumsum(-(-before[-1] // size))  # blocks up to and with each expert's
    starts = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    place = jnp.where(ours, before - 1 + size * starts[None], 0).sum(1)
    source = jnp.full(count * size, M, jnp.int32).at[place].set(jnp.arange(M, dtype=jnp.int32))
    owner = jnp.searchsorted(ends, jnp.arange(count), side="right")
    return place, source, jnp.minimum(owner, experts - 1)


def blocks_of(rows: int, experts: int) -> tuple[int, int]:
    """Returns the size of blocks, and how many there are, enough for any division of the rows."""
    size = min(BLOCK, rows)
    return size, (rows + experts * (size - 1)) // size


def by_block(x: jax.Array, kernel: jax.Array, owner: jax.Array) -> jax.Array:
    """``x_gn W_owner(gn)``: ``[G, n, b, D]``, ``[E, D, F]``, ``[G, n]`` -> ``[G, n, b, F]``.

    On CPU a loop, which copies no weights together: half the time, with gradients two thirds.
    """
    if jax.default_backend() != "cpu":
        return jnp.einsum("gnbd,gndf->gnbf", x, kernel[owner])
    G, n, *rest = x.shape
    flat = x.reshape(G * n, *rest), owner.reshape(G * n)
    return _looped(*flat, kernel).reshape(G, n, rest[0], -1)


@jax.custom_vjp
def _looped(x, owner, kernel):
    return jax.lax.map(lambda item: item[0] @ kernel[item[1]], (x, owner))


def _forward(x, owner, kernel):
    return _looped(x, owner, kernel), (x, owner, kernel)


def _backward(saved, dy):
    """The plain gradient would add all experts' kernels for every block."""
    x, owner, kernel = saved

    def one(total, item):
        x, dy, e = item
        found = jnp.matmul(x.T, dy, preferred_element_type=total.dtype)
        return total.at[e].add(found), dy @ kernel[e].T

    total, dx = jax.lax.scan(one, jnp.zeros_like(widen(kernel)), (x, dy, owner))
    return dx, None, total.astype(kernel.dtype)


_looped.defvjp(_forward, _backward)
