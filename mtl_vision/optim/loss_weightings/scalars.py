"""One number from T losses; its derivative by the losses is how much each task weighs.

`losses` is ``[T]``, float32 or wider. The logarithm of a loss that is not positive is taken for 0
with slope 0: a task without labels in the batch has loss 0, and then weighs nothing and does not
drag the other tasks along. NaN goes through.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mtl_vision.optim.contracts import LossWeighting
from mtl_vision.optim.rows import wide

FAMO_EPS = 1e-8


def of_scalar(scalar: Callable[[jax.Array], jax.Array]) -> LossWeighting:
    """Returns the weighting of a scalar that depends on the losses of the step only."""

    def update(losses, state, *, key=None):
        del key
        return jax.grad(scalar)(wide(losses)), state

    return LossWeighting(lambda T: (), update)


def silent(losses: jax.Array) -> jax.Array:
    """Returns bool ``[T]``: True where a loss has no logarithm, never where it is NaN."""
    return losses <= jnp.finfo(losses.dtype).tiny


def logs(losses: jax.Array, eps: float = 0.0) -> jax.Array:
    """Returns ``log(L_t + eps)``, constant 0 where the task is `silent`."""
    off = silent(losses)
    return jnp.where(off, 0, jnp.log(jnp.where(off, 1, losses) + eps))


def log_sum(losses: jax.Array) -> jax.Array:
    """``sum_t log L_t``."""
    return logs(losses).sum()


def geometric_mean(losses: jax.Array) -> jax.Array:
    """``(prod_t L_t)^(1/T)`` over the tasks that are not silent."""
    count = jnp.sum(~silent(losses))
    return jnp.exp(logs(losses).sum() / jnp.maximum(count, 1))


def uncertainty(losses: jax.Array, log_var: jax.Array) -> jax.Array:
    """``sum_t L_t e^(-s_t) / 2 + s_t / 2`` (arXiv 1705.07115, as in LibMTL and nash-mtl)."""
    return jnp.sum(losses * jnp.exp(-log_var) + log_var) / 2


def impartial(losses: jax.Array, log_scale: jax.Array) -> jax.Array:
    """``sum_t e^(s_t) L_t - s_t`` (IMTL-L, openreview IMPnRXEWpvr)."""
    return jnp.sum(jnp.exp(log_scale) * losses - log_scale)


def chebyshev(losses: jax.Array, mu: float) -> jax.Array:
    """``mu log sum_t exp(L_t / (T mu))`` (arXiv 2402.19078, as in TorchJD)."""
    return mu * jax.nn.logsumexp(losses / (len(losses) * mu))


def log_chebyshev(losses: jax.Array, nadir: jax.Array, mu: float) -> jax.Array:
    """``T mu log sum_t (L_t / z_t)^(1/mu)``, z being `nadir` (arXiv 2402.19078, as in LibMTL)."""
    terms = (logs(losses) - logs(nadir)) / mu
    terms = jnp.where(silent(losses), jnp.finfo(terms.dtype).min, terms)  # -inf has no slope
    return len(losses) * mu * jax.nn.logsumexp(terms)


def famo_mean(losses: jax.Array, z: jax.Array) -> jax.Array:
    """``sum_t z_t log(L_t + eps) / c`` with ``c = sum_t z_t / (L_t + eps)`` held constant."""
    off = silent(losses)
    c = jnp.where(off, 0, z / (jnp.where(off, 1, losses) + FAMO_EPS)).sum()
    c = jax.lax.stop_gradient(jnp.maximum(c, jnp.finfo(c.dtype).tiny))
    return jnp.sum(z * logs(losses, FAMO_EPS)) / c


def famo_slope(before: jax.Array, after: jax.Array, z: jax.Array) -> jax.Array:
    """Returns ``z (delta - <z, delta>)``, ``delta = log L_before - log L_after``.

    Tasks that are silent in either take no part: they have slope 0, the others a mean without them.
    """
    off = silent(before) | silent(after)
    z = jnp.where(off, 0, z)
    delta = logs(before, FAMO_EPS) - logs(after, FAMO_EPS)
    mean = jnp.sum(z * delta) / jnp.maximum(z.sum(), jnp.finfo(z.dtype).tiny)
    return z * (delta - mean)
