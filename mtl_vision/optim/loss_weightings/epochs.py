"""Weights from the mean losses of past epochs, which are running sums in the state."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_vision.errors import ConfigError
from mtl_vision.optim.contracts import LossWeighting, check_parity
from mtl_vision.optim.loss_weightings import scalars
from mtl_vision.optim.rows import wide


class Windows(NamedTuple):
    """Updates done, the sum ``[T]`` of this epoch's losses, the means ``[2, T]`` of the last two.

    The latest mean comes first.
    """

    count: jax.Array
    total: jax.Array
    means: jax.Array


class Latest(NamedTuple):
    """Updates done and the losses ``[steps, T]`` of the latest ones, oldest first."""

    count: jax.Array
    losses: jax.Array


class Nadir(NamedTuple):
    """Updates done and the sum ``[T]`` of the losses over the epoch that sets the scales."""

    count: jax.Array
    total: jax.Array


def dwa(*, temperature: float = 2.0, steps_per_epoch: int = 25, parity: str = "") -> LossWeighting:
    """Dynamic weight average: ``w = T softmax(r / temperature)``, 1 in the first two epochs.

    ``r_t`` is the mean loss of the last epoch over that of the one before.

    Args:
      temperature: > 0; larger is closer to equal weights.
      steps_per_epoch: >= 1. The default is the window of nash-mtl.
      parity: ``nash-mtl`` slides both windows with every step, the latest losses included, starts
        them at 1, keeps w = 1 for one window, and takes the mean of ``w_t L_t``, not the sum.

    Raises:
      ConfigError: a number out of range or an unknown `parity`.

    Source: arXiv 1803.10704; LibMTL's is the same.
    """
    check_parity(parity, ("nash-mtl",), "dwa")
    _check("dwa", temperature=temperature, steps_per_epoch=steps_per_epoch)
    n = steps_per_epoch

    def weights(new, old, ready):
        ratio = jnp.where(old == 0, 1, new / jnp.where(old == 0, 1, old))
        return jnp.where(ready, len(new) * jax.nn.softmax(ratio / temperature), 1)

    def update(losses, state, *, key=None):
        count, losses = state.count, wide(losses)
        full = (count > 0) & (count % n == 0)
        means = jnp.where(full, jnp.stack([state.total / n, state.means[0]]), state.means)
        total = jnp.where(full, 0, state.total) + losses
        w = weights(*means, count >= 2 * n).astype(losses.dtype)
        return w, Windows(count + 1, total, means)

    def slide(losses, state, *, key=None):
        losses = wide(losses)
        kept = jnp.concatenate([state.losses[1:], losses[None]])
        w = weights(kept[n:].mean(0), kept[:n].mean(0), state.count > n) / len(losses)
        return w.astype(losses.dtype), Latest(state.count + 1, kept)

    if parity == "nash-mtl":
        return LossWeighting(lambda T: Latest(_zero(), jnp.ones((2 * n, T))), slide)
    return LossWeighting(lambda T: Windows(_zero(), jnp.zeros(T), jnp.zeros((2, T))), update)


def stch(
    *, mu: float = 1.0, warmup_epochs: int = 4, steps_per_epoch: int = 25, parity: str = ""
) -> LossWeighting:
    """Smooth Tchebycheff scalarization: ``T mu log sum_t (L_t / z_t)^(1/mu)``.

    z is the mean loss of epoch number `warmup_epochs`, counted from 0. Through that epoch the
    scalar is ``sum_t log L_t``.

    Args:
      mu: smoothness, > 0; towards 0 only the largest of ``L_t / z_t`` counts.
      warmup_epochs: >= 0.
      steps_per_epoch: >= 1.
      parity: ``torchjd`` takes ``mu log sum_t exp(L_t / (T mu))`` from the first step on; ``""``
        is LibMTL's without its 1e-20 in the logarithms.

    Raises:
      ConfigError: a number out of range or an unknown `parity`.

    Source: arXiv 2402.19078.
    """
    check_parity(parity, ("torchjd",), "stch")
    _check("stch", mu=mu, steps_per_epoch=steps_per_epoch)
    if warmup_epochs < 0:
        raise ConfigError(f"stch: warmup_epochs={warmup_epochs} is negative; use 0 or more.")
    if parity == "torchjd":
        return scalars.of_scalar(partial(scalars.chebyshev, mu=mu))

    def update(losses, state, *, key=None):
        losses, epoch = wide(losses), state.count // steps_per_epoch
        early = jax.grad(scalars.log_sum)(losses)
        late = jax.grad(scalars.log_chebyshev)(losses, state.total / steps_per_epoch, mu)
        total = state.total + jnp.where(epoch == warmup_epochs, losses, 0)
        return jnp.where(epoch > warmup_epochs, late, early), Nadir(state.count + 1, total)

    return LossWeighting(lambda T: Nadir(_zero(), jnp.zeros(T)), update)


def _zero() -> jax.Array:
    return jnp.zeros((), jnp.int32)


def _check(method: str, **numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise ConfigError(f"{method}: {name}={value!r} must be above 0.")
