"""Fixed weights, and the preference over tasks that other methods take as well."""

import jax
import jax.numpy as jnp

from mtl_vision.errors import ConfigError
from mtl_vision.optim.contracts import Weighting, stateless


def preferred(preference: tuple[float, ...], like: jax.Array, *, default: float) -> jax.Array:
    """Returns the preference as ``[T]``, or `default` for every task where it is empty.

    Args:
      preference: one number per task in their order, or ``()``.
      like: any array with T as its last axis; gives the type.
      default: value of every task for ``()``.

    Raises:
      ConfigError: the preference has another length than T.
    """
    T = like.shape[-1]
    if preference and len(preference) != T:
        raise ConfigError(
            f"config.optim.aggregator.preference={tuple(preference)} has {len(preference)} "
            f"numbers, but there are {T} tasks: give one for each, in their order, or ()."
        )
    return jnp.array(preference, like.dtype) if preference else jnp.full(T, default, like.dtype)


def _ones(gram, *, losses, key):
    del gram, key
    return jnp.ones(losses.shape, jnp.promote_types(losses.dtype, jnp.float32))


TOTAL = stateless(_ones, needs="losses")


def total() -> Weighting:
    """The gradient of the sum of the losses: ``w = 1``. Always the same object."""
    return TOTAL


def mean(*, preference: tuple[float, ...] = ()) -> Weighting:
    """Fixed weights: ``w = 1 / T``, or the preference.

    Args:
      preference: the weights ``[T]``; ``()`` for the mean.

    Raises:
      ConfigError: a preference that has not T numbers (when the method first meets T losses).
    """

    def weights(gram, *, losses, key):
        del gram, key
        losses = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))
        return preferred(preference, losses, default=1 / len(losses))

    return stateless(weights, needs="losses")
