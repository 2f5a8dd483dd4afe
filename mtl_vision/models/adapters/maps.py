"""Maps of the last axis with parameters for all tasks or one set per task.

A factor with one leading axis more than it needs has a slice per task there. It meets streams
``[T, B, ..., C]`` task by task; any other meets all streams.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.adapters.low_rank import check_rank
from mtl_vision.models.layers import AdapterParam, Dtype, Initializer, TaskParam, compute_type

SMALL = jax.nn.initializers.normal(1e-2)  # of the adapters and generators of Hyperformer
ZEROS = jax.nn.initializers.zeros


def xavier(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
    """Xavier's uniform with gain sqrt(2), for every matrix ``[..., C, D]`` by itself."""
    bound = math.sqrt(12 / sum(shape[-2:]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def parameter(
    init: Initializer, shape: tuple[int, ...], tasks: int, rngs: nnx.Rngs
) -> AdapterParam | TaskParam:
    """Returns an `AdapterParam` of this shape, or, if `tasks` is not 0, one per task."""
    if tasks:
        return TaskParam(init(rngs.params(), (tasks, *shape), jnp.float32))
    return AdapterParam(init(rngs.params(), shape, jnp.float32))


def contract(spec: str, x: jax.Array, factor: jax.Array) -> jax.Array:
    """Einsum over the last axes of streams.

    Args:
      spec: such as ``c,cd->d``, of the last axes only and without the letter t.
      x: ``[S, B, ..., C]``.
      factor: ``[C, D]``, or ``[T, C, D]`` with T = S.
    """
    inputs, out = spec.split("->")
    left, right = inputs.split(",")
    t = "t" if factor.ndim > len(right) else ""
    return jnp.einsum(f"{t}...{left},{t}{right}->{t}...{out}", x, factor.astype(x.dtype))


def spread(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Brings ``[D]`` or ``[T, D]`` to the rank of streams `x` ``[S, B, ..., D]``."""
    *lead, D = vector.shape
    return vector.astype(x.dtype).reshape(*lead, *(1,) * (x.ndim - vector.ndim), D)


def task_count(*factors: tuple[jax.Array | None, int]) -> int:
    """Returns T of the first (factor, axes without tasks) that has a task axis, 0 if none has."""
    own = [x.shape[0] for x, axes in factors if x is not None and x.ndim > axes]
    return own[0] if own else 0


class Dense(nnx.Module):
    """``x W + b``: ``[S, B, ..., C]`` -> ``[S, B, ..., D]``."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        init: Initializer = SMALL,
        bias: bool = True,
        tasks: int = 0,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        self.kernel = parameter(init, (d_in, d_out), tasks, rngs)
        self.bias = parameter(ZEROS, (d_out,), tasks, rngs) if bias else None
        self.dtype = dtype

    @property
    def tasks(self) -> int:
        """T, or 0 for one set for all."""
        return task_count((self.kernel, 2))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(compute_type(self.dtype, self.kernel))
        y = contract("c,cd->d", x, self.kernel[...])
        return y if self.bias is None else y + spread(self.bias[...], y)


class Product(nnx.Module):
    """``x U V + b`` with U ``[C, R]`` and V ``[R, D]``."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        rank: int,
        init: Initializer = xavier,
        bias: bool = True,
        tasks: int = 0,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        check_rank(rank, d_in, d_out)
        self.a = parameter(xavier, (d_in, rank), tasks, rngs)
        self.b = parameter(init, (rank, d_out), tasks, rngs)
        self.bias = parameter(ZEROS, (d_out,), tasks, rngs) if bias else None
        self.dtype = dtype

    @property
    def tasks(self) -> int:
        """T, or 0 for one set for all."""
        return task_count((self.a, 2))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(compute_type(self.dtype, self.a))
        y = contract("r,rd->d", contract("c,cr->r", x, self.a[...]), self.b[...])
        return y if self.bias is None else y + spread(self.bias[...], y)


class Kronecker(nnx.Module):
    """``x W + b`` with ``W = sum_i A_i (x) B_i``, i = 1..n, and W never formed.

    A ``[n, n, n]``, the rule, is written by `Rule`. B ``[n, C/n, D/n]`` is a parameter, or
    ``B_i = U_i V_i`` of a rank (arXiv 2106.04647, 4.2). With channels in n groups, c = (a, k) in
    and d = (c, p) out, ``y[c, p] = sum_iak A[i, a, c] x[a, k] B[i, k, p]``; the narrower side is
    taken first.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        n: int,
        rank: int,
        init: Initializer = xavier,
        tasks: int = 0,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        if d_in % n or d_out % n:
            raise ConfigError(
                f"config.adapter.n={n} must divide the widths of a layer {d_in} -> {d_out}; "
                f"choose n or the ratio differently."
            )
        C, D = d_in // n, d_out // n
        self.rule = nnx.data(None)
        if rank:
            check_rank(rank, C, D)
        self.a = parameter(xavier, (n, C, rank), tasks, rngs) if rank else None
        self.b = parameter(init, (n, rank or C, D), tasks, rngs)
        self.bias = parameter(ZEROS, (d_out,), tasks, rngs)
        self.n, self.dtype = n, dtype

    @property
    def tasks(self) -> int:
        """T, or 0 for one set for all."""
        return task_count((self.b, 3))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(compute_type(self.dtype, self.b))
        x = x.reshape(*x.shape[:-1], self.n, -1)
        if self.a is not None:
            x = contract("iar,iac->icr", contract("ak,ikr->iar", x, self.a[...]), self.rule)
            y = contract("icr,irp->cp", x, self.b[...])
        elif self.b.shape[-2] < self.b.shape[-1]:
            y = contract("ick,ikp->cp", contract("ak,iac->ick", x, self.rule), self.b[...])
        else:
            y = contract("iap,iac->cp", contract("ak,ikp->iap", x, self.b[...]), self.rule)
        y = y.reshape(*y.shape[:-2], -1)
        return y + spread(self.bias[...], y)
