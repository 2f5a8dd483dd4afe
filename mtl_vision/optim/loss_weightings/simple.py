"""Weights from the losses of this step and nothing else."""

import jax
import jax.numpy as jnp

from mtl_vision.errors import ConfigError
from mtl_vision.optim.contracts import LossWeighting
from mtl_vision.optim.loss_weightings.scalars import geometric_mean, log_sum, of_scalar
from mtl_vision.optim.rows import wide


def equal() -> LossWeighting:
    """``sum_t L_t``."""
    return of_scalar(jnp.sum)


def fixed(*, weights: tuple[float, ...] = ()) -> LossWeighting:
    """``sum_t a_t L_t``, on top of the weights that the losses already carry.

    Args:
      weights: a, one per task in task order; ``()`` is 1 for all.

    Raises:
      ConfigError: from `init`, if their number is not that of the tasks.
    """

    def init(T: int) -> tuple[()]:
        if weights and len(weights) != T:
            raise ConfigError(
                f"fixed: weights={tuple(weights)} are {len(weights)} for {T} tasks; give one for "
                f"each, or () for 1 everywhere."
            )
        return ()

    def scalar(losses: jax.Array) -> jax.Array:
        return losses @ jnp.asarray(weights, losses.dtype) if weights else losses.sum()

    return of_scalar(scalar)._replace(init=init)


def si() -> LossWeighting:
    """Scale-invariant sum ``sum_t log L_t``: weights ``1 / L_t`` (nash-mtl's baseline SI)."""
    return of_scalar(log_sum)


def gls() -> LossWeighting:
    """Geometric mean of the losses: weights ``mean / (T L_t)`` (arXiv 1904.08492).

    LibMTL logs other weights, but its gradient is this one.
    """
    return of_scalar(geometric_mean)


def rlw() -> LossWeighting:
    """Random loss weighting: ``softmax(N(0, 1)^T)``, new in every step (arXiv 2111.10603)."""

    def update(losses, state, *, key):
        losses = wide(losses)
        return jax.nn.softmax(jax.random.normal(key, losses.shape, losses.dtype)), state

    return LossWeighting(lambda T: (), update)
