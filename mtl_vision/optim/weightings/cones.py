"""Projections on the cone of directions that conflict with no task: UPGrad, DualProj and PCD.

``d`` conflicts with no task if ``<g_t, d> >= 0`` for all t. With ``w = v / n`` and the cosines C
the nearest such vector to ``sum_t u_t g_t / n_t`` has ``min v^T C v, v >= u``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.optim.contracts import Weighting, check_parity, stateless
from mtl_vision.optim.solvers import complementary, unit_gramian
from mtl_vision.optim.weightings.balance import surface
from mtl_vision.optim.weightings.simple import preferred

REG = 1e-6  # on the diagonal of C; float32 resolves it
TORCHJD = {"reg_mode": "trace", "reg": 1e-4, "norm_eps": 1e-4}


def dual_cone(matrix: jax.Array, u: jax.Array) -> jax.Array:
    """Returns v ``[T]`` of ``min v^T M v, v >= u``, by block principal pivoting.

    Args:
      matrix: ``[T, T]`` M, positive definite.
      u: ``[T]``.
    """
    return u + complementary(matrix, matrix @ u)


def _by_cosine(gram, reg, norm_eps):
    del norm_eps
    unit = unit_gramian(gram)
    norms = jnp.where(unit.active, unit.norms, 0)
    inverse = jnp.where(unit.active, 1 / unit.norms, 0)
    return unit.cosines + reg * jnp.eye(len(gram), dtype=gram.dtype), norms, inverse


def _by_trace(gram, reg, norm_eps):
    trace = jnp.trace(gram)
    usable = (trace > 0) & (trace >= norm_eps)
    scaled = jnp.where(usable, gram / jnp.where(usable, trace, 1), 0)
    one = jnp.ones(len(gram), gram.dtype)
    return scaled + reg * jnp.eye(len(gram), dtype=gram.dtype), one, one


REG_MODES = {"cosine": _by_cosine, "trace": _by_trace}


def _projected(method, select, preference, reg_mode, reg, norm_eps, parity):
    """Returns the Weighting whose right-hand sides are the rows of ``select(p)``."""
    check_parity(parity, ("torchjd", "libmtl"), method)
    made = {"reg_mode": reg_mode, "reg": reg, "norm_eps": norm_eps} | (TORCHJD if parity else {})
    prepare = lookup(REG_MODES, made["reg_mode"], "optim.aggregator.reg_mode")
    if not made["reg"] > 0:
        raise ConfigError(
            f"{method}: reg={made['reg']} must be above 0, or dependent gradients have no solution."
        )

    def weights(gram, *, losses, key):
        del losses, key
        p = preferred(preference, gram, default=1 / len(gram))
        matrix, norms, inverse = prepare(gram, made["reg"], made["norm_eps"])
        v = jax.vmap(dual_cone, in_axes=(None, 0))(matrix, select(p * norms))
        return surface(v.sum(0) * inverse, gram)

    return stateless(weights)


def upgrad(
    *,
    preference: tuple[float, ...] = (),
    reg_mode: str = "cosine",
    reg: float = REG,
    norm_eps: float = 0.0,
    parity: str = "",
) -> Weighting:
    """UPGrad (arXiv 2406.16232): the sum of every task's gradient, projected on the dual cone.

    ``w = sum_t v(p_t e_t)`` with v of `dual_cone`. As reg goes to 0 no task is harmed. For T = 2
    in conflict it is half of PCGrad: ``w = (1 - G_12 / G_11, 1 - G_12 / G_22) / 2``; without any
    conflict it is the mean.

    Args:
      preference: p ``[T]``; ``()`` for ``1 / T``.
      reg_mode: what `reg` is added to: ``cosine``, the cosines, so that tasks with small gradients
        are safe as well; ``trace``, the Gramian over its trace, where they are not.
      reg: on the diagonal, above 0.
      norm_eps: with ``trace``, a trace below this counts as 0, which makes w the preference. Not
        relative to the gradients: only for parity.
      parity: ``torchjd`` is ``trace`` with 1e-4 for both; ``libmtl`` is a copy of it.

    Raises:
      ConfigError: an unknown mode or parity, a `reg` of 0, a preference that has not T numbers.
    """
    return _projected("upgrad", jnp.diag, preference, reg_mode, reg, norm_eps, parity)


def dualproj(
    *,
    preference: tuple[float, ...] = (),
    reg_mode: str = "cosine",
    reg: float = REG,
    norm_eps: float = 0.0,
    parity: str = "",
) -> Weighting:
    """DualProj (arXiv 2406.16232, section 3): the mean gradient, projected on the dual cone.

    ``w = v(p)`` with v of `dual_cone`. Without any conflict it is the mean.

    Args:
      preference, reg_mode, reg, norm_eps, parity: see `upgrad`.

    Raises:
      ConfigError: see `upgrad`.
    """
    return _projected("dualproj", _one_row, preference, reg_mode, reg, norm_eps, parity)


def _one_row(p):
    return p[None]


class PCDState(NamedTuple):
    """State of `pcd`.

    squares: moving average ``[T]`` of squared norms, biased towards 0.
    count: how many times ``[T]`` a task had a gradient.
    """

    squares: jax.Array
    count: jax.Array


def pcd(*, tau: float = 0.02, beta: float = 0.999, parity: str = "") -> Weighting:
    """PCD (arXiv 2606.29521): the first task's gradient, changed until it serves all others.

    ``min |d - s_0 g_0|^2`` with ``<s_t g_t, d> >= tau s_t^2 |g_t|^2`` for all others, then d gets
    the norm of g_0; ``s = 1 / sqrt(mean square + eps)``. If nothing serves all, d is g_0.

    Args:
      tau: share of its own squared norm that every other task gains.
      beta: decay of the mean squares, 0 to 1.
      parity: ``torchjd`` has ``eps = 1e-8``; else it is that share of the largest mean square,
        and a task without a gradient keeps its mean square.

    Raises:
      ConfigError: an unknown parity, or `beta` out of range.
    """
    check_parity(parity, ("torchjd",), "pcd")
    if not 0 <= beta < 1:
        raise ConfigError(f"pcd: beta={beta}; 0 or more and less than 1 is expected.")

    def init(T):
        return PCDState(jnp.zeros(T), jnp.zeros(T, jnp.int32))

    def update(gram, state, *, losses=None, key=None):
        del losses, key
        squares = jnp.diagonal(gram)
        seen = unit_gramian(gram).active | bool(parity)
        old = state.squares.astype(gram.dtype)
        average = jnp.where(seen, beta * old + (1 - beta) * squares, old)
        count = state.count + seen
        unbiased = average / jnp.maximum(1 - beta ** count.astype(gram.dtype), 1 - beta)
        eps = 1e-8 if parity else 1e-8 * jnp.max(unbiased)
        s = 1 / jnp.sqrt(jnp.maximum(unbiased + eps, jnp.finfo(gram.dtype).tiny))
        w = surface(_primary(gram, s, tau), gram)
        return w, PCDState(average.astype(state.squares.dtype), count)

    return Weighting(init, update)


def _primary(gram, s, tau):
    """Returns the weights of PCD with scales s ``[T]``."""
    cosines, norms, active = unit_gramian(gram)
    first, one = jnp.arange(len(gram)) == 0, jnp.eye(len(gram), dtype=gram.dtype)
    u = jnp.where(first & active, 1, 0).astype(gram.dtype)
    demand = jnp.where(active, tau * s * norms / (s[0] * norms[0]), 0)
    q = jnp.where(first | ~active, 0, cosines[0] - demand)
    others = jnp.where(first[:, None] | first[None], one, cosines)
    x = complementary(others + 10 * jnp.finfo(gram.dtype).eps * one, q)
    v = u + x
    slack = jnp.where(first, 0, others @ x + q)
    limit = jnp.sqrt(jnp.finfo(gram.dtype).eps) * jnp.max(jnp.abs(q))
    solved = jnp.isfinite(v).all() & (jnp.min(slack) >= -limit)  # else no d serves all
    v = jnp.where(solved, v, u)
    length = jnp.sqrt(jnp.maximum(v @ cosines @ v, 0))
    found = active[0] & (length > jnp.finfo(gram.dtype).eps)
    return jnp.where(active & found, v * norms[0] / norms / jnp.where(found, length, 1), 0)
