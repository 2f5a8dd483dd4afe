"""Exponential moving averages of the parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mtl_vision.errors import lookup


def plain(decay: float, count: jax.Array) -> jax.Array:
    """The same decay always; the initial parameters weigh ``decay^count``."""
    return jnp.full_like(count, decay, dtype=float)


def unbiased(decay: float, count: jax.Array) -> jax.Array:
    """Decay of the bias-corrected average ``sum_i decay^(t-i) p_i / sum_i decay^(t-i)``, i >= 1.

    Without the initial parameters, as the moments of Adam (arXiv 1412.6980, section 3).
    """
    t = jnp.asarray(count, float)
    log = jnp.log(decay)  # expm1: 1 - decay^t keeps its digits for a decay close to 1
    return decay * jnp.expm1((t - 1) * log) / jnp.expm1(t * log)


def ramp(decay: float, count: jax.Array) -> jax.Array:
    """``min(decay, (1 + t) / (10 + t))``: young averages forget faster."""
    t = jnp.asarray(count, float)
    return jnp.minimum(decay, (1 + t) / (10 + t))


AVERAGES: dict[str, Callable[[float, jax.Array], jax.Array]] = {
    "plain": plain,
    "unbiased": unbiased,
    "ramp": ramp,
}


def averaging(
    decay: float, kind: str = "ramp"
) -> Callable[[optax.Params, optax.Params, jax.Array], optax.Params]:
    """Returns ``(average, params, count) -> average``, count being the updates done, from 1.

    Raises:
      ConfigError: an unknown `kind`.
    """
    decay_at = lookup(AVERAGES, kind, "optim.ema_kind")

    def average(mean: optax.Params, params: optax.Params, count: jax.Array) -> optax.Params:
        step = 1 - decay_at(decay, count)
        return jax.tree.map(lambda m, p: m + step.astype(m.dtype) * (p - m), mean, params)

    return average
