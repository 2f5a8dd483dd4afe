"""Weights that are made once per forward pass and written into many layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.adapters.streams import copy
from mtl_vision.models.layers import Identity

Write = Callable[[Any, tuple[int, ...]], dict[str, jax.Array]]


def put_in_slot(backbone: Any, generate: nnx.Module) -> None:
    """Sets ``backbone.generate``, in place.

    Raises:
      ConfigError: another adapter uses it.
    """
    if not isinstance(backbone.generate, Identity):
        raise ConfigError(
            "config.adapter: two adapters make weights for the whole backbone (hypernetworks, phm "
            "and compacter do); use one of them."
        )
    backbone.generate = generate


def written(backbone: Any, kind: type[nnx.Module], write: Write) -> Any:
    """Returns a copy of `backbone` with attributes set in all modules of a kind.

    Args:
      backbone: Swin or ViT.
      kind: class of the modules.
      write: ``(module, lead) -> {attribute: array}``, where `lead` is (L,) for a stack of L
        modules and () for one; the arrays need these leading axes.
    """
    made = copy(backbone)
    for path, module in list(nnx.iter_modules(made)):
        if isinstance(module, kind):
            lead = ()
            if path[0] == "segments":
                lead = jax.tree.leaves(made.segments[path[1]])[0].shape[:1]
            for name, value in write(module, lead).items():
                setattr(module, name, value)
    return made


def repeat(x: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    """Returns the same for each of a stack: ``[*lead, *x.shape]``."""
    return jnp.broadcast_to(jnp.expand_dims(x, range(len(lead))), (*lead, *x.shape))
