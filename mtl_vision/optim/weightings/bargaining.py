"""Weights that tasks agree on when they bargain: Nash-MTL and FairGrad."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_vision.errors import ConfigError
from mtl_vision.optim.contracts import Weighting, check_parity, stateless
from mtl_vision.optim.solvers import fair_point, unit_gramian
from mtl_vision.optim.weightings.balance import surface


def fair_weights(gram: jax.Array, alpha: float, drop_zero_rows: bool = True) -> jax.Array:
    """Returns w ``[T]`` with ``(G w)_t = w_t^(-1/alpha)``.

    A few units of rounding are added to the cosines' diagonal: without them there is no solution
    at a Pareto-stationary point.

    Args:
      gram: ``[T, T]``.
      alpha: fairness, above 0.
      drop_zero_rows: a task without a gradient has weight 0; else 1.
    """
    cosines, norms, active = unit_gramian(gram)
    largest = jnp.max(jnp.where(active, norms, 0))
    relative = jnp.where(active, norms / jnp.where(largest > 0, largest, 1), 1)
    ridge = 10 * jnp.finfo(gram.dtype).eps * jnp.eye(len(gram), dtype=gram.dtype)
    # In y = w n^(2a/(1+a)) both sides have the same scale.
    y = fair_point(cosines + ridge, relative ** (2 * (1 - alpha) / (1 + alpha)), alpha)
    absent = 0 if drop_zero_rows else 1
    return surface(jnp.where(active, y * norms ** (-2 * alpha / (1 + alpha)), absent), gram)


class NashState(NamedTuple):
    """State of `nash_mtl`: updates done, and the latest solution ``[T]``."""

    count: jax.Array
    w: jax.Array


def nash_mtl(
    *, max_norm: float = 1.0, every: int = 1, drop_zero_rows: bool = True, parity: str = ""
) -> Weighting:
    """Nash-MTL (arXiv 2202.01017): ``G w = 1 / w``, the bargaining solution of the tasks.

    d does not change with the scale of any gradient, and ``|d| = sqrt(T)`` before it is clipped.
    For T = 2: ``w_t = 1 / (n_t sqrt(1 + cos))``. Solved by Newton's method, not by the authors'
    sequence of convex problems, which stops short for badly scaled gradients.

    Args:
      max_norm: largest ``|d|``, by ``|d|^2 = w^T G w``; 0 for any.
      every: updates between two solutions, 1 or more; in between the weights are used again.
      drop_zero_rows: a task without a gradient has weight 0; else 1 before d is clipped.
      parity: all keep zero rows; ``libmtl`` and ``nash-mtl`` add 1e-6 to the norm that is clipped.

    Raises:
      ConfigError: a negative `max_norm`, `every` below 1, or an unknown parity.
    """
    check_parity(parity, ("torchjd", "libmtl", "nash-mtl"), "nash_mtl")
    if max_norm < 0 or every < 1:
        raise ConfigError(
            f"nash_mtl: max_norm={max_norm} and every={every}; at least 0 (no limit) and 1 are "
            f"expected."
        )
    drop, eps = drop_zero_rows and not parity, 1e-6 if parity in ("libmtl", "nash-mtl") else 0.0

    def solve(gram, *, losses=None, key=None):
        del losses, key
        return fair_weights(gram, 1.0, drop)

    def clip(gram, w):
        if not max_norm:
            return w
        cosines, norms, active = unit_gramian(gram)
        y = jnp.where(active, w * norms, 0)
        norm = jnp.sqrt(jnp.maximum(y @ cosines @ y, 0)) + eps
        return w * max_norm / jnp.maximum(norm, max_norm)

    def reuse(gram, state, *, losses=None, key=None):
        del losses, key
        active = unit_gramian(gram).active
        new = jnp.where(active, solve(gram), state.w.astype(gram.dtype))
        w = jnp.where(state.count % every == 0, new, state.w.astype(gram.dtype))
        used = jnp.where(active | (not drop), w, 0)
        return clip(gram, surface(used, gram)), NashState(state.count + 1, w.astype(state.w.dtype))

    if every == 1:
        return stateless(lambda gram, **extra: clip(gram, solve(gram, **extra)))
    return Weighting(lambda T: NashState(jnp.zeros((), jnp.int32), jnp.ones(T)), reuse)


def fairgrad(*, alpha: float = 2.0, drop_zero_rows: bool = True, parity: str = "") -> Weighting:
    """FairGrad (arXiv 2402.15638): alpha-fair weights, ``G w = w^(-1/alpha)``.

    1 is Nash-MTL without its clipping; small alpha favours the sum, large alpha the task that
    gains least. Never conflicts, because ``(G w)_t > 0``. For orthogonal gradients
    ``w_t = n_t^(-2 alpha / (1 + alpha))``. With alpha above 1 larger gradients make shorter steps.

    Args:
      alpha: fairness, above 0; 2 in the paper's NYUv2 runs, 1 is the default of the codes.
      drop_zero_rows: a task without a gradient has weight 0; else 1.
      parity: ``torchjd`` and ``libmtl`` solve the same equation and keep zero rows.

    Raises:
      ConfigError: alpha is not above 0, or an unknown parity.
    """
    check_parity(parity, ("torchjd", "libmtl"), "fairgrad")
    if not alpha > 0:
        raise ConfigError(f"fairgrad: alpha={alpha} is not above 0; as it goes to 0, use 'sum'.")
    drop = drop_zero_rows and not parity

    def weights(gram, *, losses, key):
        del losses, key
        return fair_weights(gram, alpha, drop)

    return stateless(weights)
