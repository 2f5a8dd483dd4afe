"""Low-rank functions of a stream: one for all tasks, or one per task."""

from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.layers import (
    AdapterParam,
    Dtype,
    TaskParam,
    compute_type,
    matmul,
    torch_uniform,
)


class LowRank(nnx.Module):
    """``s x A B``: ``[..., C]`` -> ``[..., D]``; A ``[C, R]`` is uniform, B ``[R, D]`` zero."""

    def __init__(self, d_in: int, d_out: int, rank: int, *, dtype: Dtype = None, rngs: nnx.Rngs):
        check_rank(rank, d_in, d_out)
        self.a = AdapterParam(torch_uniform(d_in)(rngs.params(), (d_in, rank)))
        self.b = AdapterParam(jnp.zeros((rank, d_out), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array, scale: jax.Array | float = 1.0) -> jax.Array:
        dtype = compute_type(self.dtype, self.a)
        a, b = self.a.astype(dtype), (self.b[...] * scale).astype(dtype)
        return matmul(matmul(x.astype(dtype), a), b)

    def product(self) -> jax.Array:
        """Returns ``A B``, ``[C, D]``; works on stacked ones too."""
        return self.a[...] @ self.b[...]


class TaskLowRank(nnx.Module):
    """``s_t x_t A_t B_t`` for every task: ``[1 or T, ..., C]`` -> ``[T, ..., D]``.

    A is ``[T, C, R]``, uniform, and B ``[T, R, D]``, zero, with R the largest rank. A task of a
    smaller one has zeros there; they get no gradient and so stay, and do not count as parameters.
    """

    def __init__(
        self, d_in: int, d_out: int, ranks: Sequence[int], *, dtype: Dtype = None, rngs: nnx.Rngs
    ):
        for rank in ranks:
            check_rank(rank, d_in, d_out)
        T, R = len(ranks), max(ranks)
        used = Fraction(sum(ranks), T * R)
        real = np.arange(R) < np.array(ranks)[:, None]
        a = torch_uniform(d_in)(rngs.params(), (T, d_in, R))
        self.a = TaskParam(a * real[:, None].astype(np.float32), used=used)
        self.b = TaskParam(jnp.zeros((T, R, d_out), jnp.float32), used=used)
        self.dtype = dtype

    def __call__(self, x: jax.Array, scale: jax.Array) -> jax.Array:
        return self.up(self.down(x), scale)

    def down(self, x: jax.Array) -> jax.Array:
        """``x_t A_t``: ``[1 or T, ..., C]`` -> ``[T, ..., R]``."""
        dtype = compute_type(self.dtype, self.a)
        x, a = x.astype(dtype), self.a.astype(dtype)
        if x.shape[0] == 1:
            return jnp.einsum("...c,tcr->t...r", x[0], a)
        return jnp.einsum("t...c,tcr->t...r", x, a)

    def up(self, z: jax.Array, scale: jax.Array) -> jax.Array:
        """``s_t z_t B_t``: ``[T, ..., R]`` -> ``[T, ..., D]``."""
        return jnp.einsum("t...r,trd->t...d", z, self.factor(scale))

    def factor(self, scale: jax.Array) -> jax.Array:
        """Returns ``s_t B_t``, ``[T, R, D]``, in the compute type."""
        b = self.b[...] * scale[:, None, None]
        return b.astype(compute_type(self.dtype, self.b))


def check_rank(rank: int, d_in: int, d_out: int) -> None:
    """Raises ConfigError for a rank that a layer ``d_in -> d_out`` cannot have."""
    if not 1 <= rank <= (most := min(d_in, d_out)):
        raise ConfigError(
            f"config.adapter: rank {rank} does not fit a layer {d_in} -> {d_out}; use 1 to {most}."
        )
