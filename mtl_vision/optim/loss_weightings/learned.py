"""Weights with parameters of their own, which an Adam of their own learns."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_vision.errors import ConfigError
from mtl_vision.optim.contracts import LossWeighting, check_parity
from mtl_vision.optim.loss_weightings import scalars
from mtl_vision.optim.rows import wide


class Learned(NamedTuple):
    """Numbers ``[T]`` that a method learns by its own Adam, and that Adam's state."""

    values: jax.Array
    opt: optax.OptState


class Famo(NamedTuple):
    """What FAMO learned, and the losses ``[T]`` of the step before if `lagged`, else ``()``."""

    logits: Learned
    before: Any


def uw(*, lr: float = 0.025, parity: str = "") -> LossWeighting:
    """Homoscedastic uncertainty: ``sum_t L_t e^(-s_t) / 2 + s_t / 2`` with learned s.

    ``w_t = e^(-s_t) / 2``, ``ds_t = (1 - L_t e^(-s_t)) / 2``. LibMTL and nash-mtl put s into the
    model's optimizer, nash-mtl with a rate of its own, 0.025; here s has an Adam without decay.

    Args:
      lr: of that Adam, >= 0.
      parity: ``libmtl`` starts from s = -0.5; ``""`` from 0, as nash-mtl and TorchJD.

    Raises:
      ConfigError: a bad `lr` or an unknown `parity`.

    Source: arXiv 1705.07115, with L/2 for every kind of loss as in the codes named.
    """
    check_parity(parity, ("libmtl",), "uw")
    return _learned(scalars.uncertainty, -0.5 if parity == "libmtl" else 0.0, lr, "uw")


def imtl_l(*, lr: float = 0.025) -> LossWeighting:
    """IMTL-L: ``sum_t e^(s_t) L_t - s_t`` with learned s, from 0.

    ``w_t = e^(s_t)``, ``ds_t = e^(s_t) L_t - 1``. LibMTL puts s into the model's optimizer; here it
    has an Adam without decay.

    Args:
      lr: of that Adam, >= 0.

    Raises:
      ConfigError: a bad `lr`.

    Source: openreview IMPnRXEWpvr, the loss balance alone.
    """
    return _learned(scalars.impartial, 0.0, lr, "imtl_l")


def famo(*, lr: float = 0.025, weight_decay: float = 1e-3, lagged: bool = False) -> LossWeighting:
    """FAMO: equal relative decrease of all losses, ``w_t = z_t / (L_t + 1e-8) / c``.

    ``z = softmax(xi)`` and c makes the weights sum to 1. After the model's step the losses of the
    same batch are taken again, and Adam moves xi by ``z (delta - <z, delta>) + weight_decay xi``,
    ``delta_t = log L_t before - log L_t after``.

    Args:
      lr: of that Adam, >= 0.
      weight_decay: >= 0; the paper searched 1e-4 to 1e-2 and took 1e-2 for CityScapes, 1e-3
        elsewhere; the official code's default is 1e-5.
      lagged: takes the losses of the next step for those after this one and saves the second
        forward pass. They are of another batch, so xi is noisier. Not in the paper.

    Raises:
      ConfigError: a number out of range.

    Source: arXiv 2306.03792, Algorithm 1, with the official code's Adam and epsilons.
    """
    _check("famo", lr=lr, weight_decay=weight_decay)
    tx = optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(lr))

    def init(T: int) -> Famo:
        return Famo(_start(tx, T, 0.0), jnp.zeros(T) if lagged else ())

    def after(before, losses, state):
        z = jax.nn.softmax(state.logits.values)
        slope = scalars.famo_slope(wide(before), wide(losses), z)
        return state._replace(logits=_learn(tx, slope, state.logits))

    def update(losses, state, *, key=None):
        losses = wide(losses)
        if lagged:  # losses of exactly 0 are those before the first step
            moved, known = after(state.before, losses, state), jnp.any(state.before != 0)
            logits = jax.tree.map(partial(jnp.where, known), moved.logits, state.logits)
            state = Famo(logits, losses.astype(state.before.dtype))
        w = jax.grad(scalars.famo_mean)(losses, jax.nn.softmax(state.logits.values))
        return w, state

    return LossWeighting(init, update, None if lagged else after)


def _start(tx: optax.GradientTransformation, T: int, value: float) -> Learned:
    values = jnp.full(T, value, float)
    return Learned(values, tx.init(values))


def _learn(tx: optax.GradientTransformation, slope: jax.Array, state: Learned) -> Learned:
    step, opt = tx.update(slope.astype(state.values.dtype), state.opt, state.values)
    return Learned(state.values + step, opt)


def _learned(scalar: Callable[..., jax.Array], start: float, lr: float, name: str) -> LossWeighting:
    """The weighting of ``scalar(losses, s)``, which s minimizes too."""
    _check(name, lr=lr)
    tx = optax.adam(lr)

    def update(losses, state, *, key=None):
        w, slope = jax.grad(scalar, (0, 1))(wide(losses), state.values)
        return w, _learn(tx, jnp.where(losses == 0, 0, slope), state)

    return LossWeighting(lambda T: _start(tx, T, start), update)


def _check(method: str, **numbers: float) -> None:
    for name, value in numbers.items():
        if not value >= 0:
            raise ConfigError(f"{method}: {name}={value!r} must be at least 0.")
