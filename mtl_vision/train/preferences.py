"""Preferences between tasks in a step: what PaLoRA's layers and the losses are weighted by."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtl_vision import rules
from mtl_vision.errors import ConfigError
from mtl_vision.tasks import Task

Tree = Any
STREAM = 0x5EED  # sets the draw of a step's preference apart from the step's other randomness


def drawn(key: jax.Array) -> jax.Array:
    """Returns the key of the preference of the step with this key."""
    return jax.random.fold_in(key, STREAM)


def placed(stats: Tree, preference: jax.Array | None = None) -> Tree:
    """Returns the statistics with a preference ``[T]`` where the model reads it.

    Args:
      stats: of a model, with or without such a place.
      preference: on the simplex; the centre for None.

    Raises:
      ConfigError: the model reads a preference for another number of tasks.
    """

    def place(path: str, old: jax.Array) -> jax.Array:
        if not is_preference(path):
            return old
        if preference is None:
            return jnp.full_like(old, 1 / old.size)
        if old.shape != preference.shape:
            raise ConfigError(
                f"a preference of shape {preference.shape} does not fit the {old.size} tasks of "
                "the model."
            )
        return preference.astype(old.dtype)

    return rules.map_with_path(place, stats)


def is_preference(path: str) -> bool:
    """Says whether a statistic is the preference that the model reads."""
    return path.rpartition("/")[2] == "preference"


def preferred(
    groups: Mapping[str, Sequence[Task]], preference: jax.Array
) -> dict[str, tuple[Task, ...]]:
    """Returns the tasks with ``lambda_t`` on their loss weights; `preference` is in their order."""
    parts = iter(preference)
    return {
        name: tuple(dataclasses.replace(t, weight=t.weight * next(parts)) for t in group)
        for name, group in groups.items()
    }
