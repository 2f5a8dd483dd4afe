"""Weightings that leave out outliers; for ablations."""

import jax.numpy as jnp

from mtl_vision.errors import ConfigError
from mtl_vision.optim.contracts import Weighting, check_parity, stateless
from mtl_vision.optim.weightings.balance import surface


def krum(*, byzantine: int = 0, selected: int = 1, parity: str = "") -> Weighting:
    """Multi-Krum (arXiv 1703.02757): the mean of the gradients that are nearest to the others.

    A task's score is the sum of its distances (not squared) to its ``T - byzantine - 2`` nearest
    others; the `selected` tasks of lowest score have weight ``1 / selected``. Tasks without a
    gradient are left out.

    Args:
      byzantine: how many gradients may be arbitrary, 0 or more.
      selected: how many are averaged, 1 or more.
      parity: ``torchjd`` counts a zero gradient as one more gradient.

    Raises:
      ConfigError: an unknown parity, a number out of range, or too few tasks (at the first
        update).
    """
    check_parity(parity, ("torchjd",), "krum")
    if byzantine < 0 or selected < 1:
        raise ConfigError(
            f"krum: byzantine={byzantine} and selected={selected}; at least 0 and 1 are expected."
        )

    def weights(gram, *, losses, key):
        del losses, key
        T = len(gram)
        if T < selected or (byzantine and T < byzantine + 3):
            raise ConfigError(
                f"krum: {T} tasks are too few for byzantine={byzantine}, selected={selected}: "
                f"lower them to T - 3 and T at most."
            )
        squared = jnp.diagonal(gram)
        present = jnp.ones(T, bool) if parity else squared != 0
        squares = squared[:, None] + squared[None] - 2 * gram
        others = present[None] & ~jnp.eye(T, dtype=bool)
        distances = jnp.where(others, jnp.sqrt(jnp.maximum(squares, 0)), jnp.inf)
        some = jnp.minimum(present.sum() - 1, 1)  # at least one neighbour, if there is one
        count = jnp.maximum(present.sum() - byzantine - 2, some)
        near = jnp.where(jnp.arange(T)[None] < count, jnp.sort(distances, axis=1), 0)
        scores = jnp.where(present, near.sum(1), jnp.inf)
        w = jnp.zeros_like(squared).at[jnp.argsort(scores)[:selected]].set(1) * present
        return surface(w / jnp.maximum(w.sum(), 1), gram)

    return stateless(weights)
