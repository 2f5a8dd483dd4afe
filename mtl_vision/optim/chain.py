"""One optax chain: [aggregator] -> clipping -> optimizer -> learning rate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_vision import rules
from mtl_vision.optim.optimizers import clip
from mtl_vision.optim.schedules import Schedule


class RateState(NamedTuple):
    """Updates done and the learning rate of the latest one (of the first, before it)."""

    count: jax.Array
    rate: jax.Array


def descend(schedule: Schedule, lr_scale: rules.Rules[float] = ()) -> optax.GradientTransformation:
    """Multiplies updates by ``-schedule(count) * factor``.

    Args:
      schedule: from the number of updates done to the learning rate.
      lr_scale: (path regex, factor on the rate) rules; ``()`` is 1 for all. The factor holds for
        the weight decay too, as in a PyTorch parameter group.
    """

    def factors(params: Any) -> Any:
        if lr_scale:
            return rules.resolve_tree(lr_scale, params, "optim.lr_scale")
        return jax.tree.map(lambda _: 1.0, params)

    def init(params):
        factors(params)  # a wrong rule is reported before the first step
        return RateState(jnp.zeros((), jnp.int32), jnp.asarray(schedule(0), float))

    def update(updates, state, params=None):
        rate = jnp.asarray(schedule(state.count), float)
        updates = jax.tree.map(
            lambda u, f: (-rate * f).astype(u.dtype) * u, updates, factors(params)
        )
        return updates, RateState(state.count + 1, rate)

    return optax.GradientTransformation(init, update)


def chain(
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    first: optax.GradientTransformation | None = None,
    clip_norm: float = 0.0,
    lr_scale: rules.Rules[float] = (),
) -> optax.GradientTransformationExtraArgs:
    """Returns the whole way from gradients to updates.

    Args:
      optimizer: one of `optim.OPTIMIZERS`, called.
      schedule: one of `optim.SCHEDULES`, called.
      first: link that gets the gradients as the step returns them, per-task ones included, and
        hands on leaves of the parameters' shapes.
      clip_norm: largest global norm of what `first` returns; 0 does not clip.
      lr_scale: (path regex, factor on the learning rate) rules, ``()`` for 1.
    """
    links = [first] if first is not None else []
    links += [clip(clip_norm)] if clip_norm else []
    return optax.chain(*links, optimizer, descend(schedule, lr_scale))


def learning_rate(opt: Any) -> jax.Array:
    """Returns the learning rate of the latest update from the state of a `chain`."""
    nodes = jax.tree.leaves(opt, is_leaf=lambda node: isinstance(node, RateState))
    (state,) = (node for node in nodes if isinstance(node, RateState))
    return state.rate
