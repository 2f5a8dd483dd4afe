"""One optax chain: [aggregator -> losses of no task] -> clipping -> optimizer -> learning rate."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from mtl_vision import rules
from mtl_vision.optim.contracts import LossWeighting
from mtl_vision.optim.optimizers import NormState, clip
from mtl_vision.optim.prefer import prefer
from mtl_vision.optim.rows import NOBODY, Owners
from mtl_vision.optim.schedules import Schedule
from mtl_vision.optim.turns import Turn
from mtl_vision.optim.weigh import weigh

T = TypeVar("T")


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


def add_penalty() -> optax.GradientTransformationExtraArgs:
    """Adds the extra argument `penalty`, a gradient of losses that belong to no task, if any."""

    def update(updates, state, params=None, *, penalty=None, **extra):
        del params, extra
        return updates if penalty is None else jax.tree.map(jnp.add, updates, penalty), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def chain(
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    first: optax.GradientTransformation | None = None,
    weighting: LossWeighting | None = None,
    balance: Collection[str] | None = None,
    tasks: Sequence[str] = (),
    owners: Owners = NOBODY,
    clip_norm: float = 0.0,
    lr_scale: rules.Rules[float] = (),
    turn: Turn | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns the whole way from gradients to updates.

    Args:
      optimizer: one of `optim.OPTIMIZERS`, called.
      schedule: one of `optim.SCHEDULES`, called.
      first: link that gets the gradients as the step returns them, per-task ones included, and
        hands on leaves of the parameters' shapes: `aggregate`, or `sam` or `task_sam` around it.
      weighting: one of `optim.LOSS_WEIGHTINGS`, called; it scales what `first` gets, so it needs
        one.
      balance: how tasks are balanced under a preference, see `prefer`; None without preferences.
      tasks: names of the tasks, for the weighting and the preference.
      owners: of the leaves that are not shared, for both.
      clip_norm: largest global norm of what `first` returns; 0 does not clip.
      lr_scale: (path regex, factor on the learning rate) rules, ``()`` for 1.
      turn: whose tasks `tasks` are, where they are not all of the run.
    """
    links = [] if first is None else [first, add_penalty()]
    links += [clip(clip_norm), optimizer, descend(schedule, lr_scale)]
    whole = optax.chain(*links)
    if balance is not None:
        whole = prefer(whole, tasks, owners, balance=balance)
    return weigh(weighting, whole, tasks, owners, turn=turn) if weighting else whole


def find(opt: Any, kind: type[T]) -> T | None:
    """Returns the one state of `kind` in the state of a `chain`, or None."""
    nodes = jax.tree.leaves(opt, is_leaf=lambda node: isinstance(node, kind))
    found = [node for node in nodes if isinstance(node, kind)]
    return found[0] if found else None


def learning_rate(opt: Any) -> jax.Array:
    """Returns the learning rate of the latest update from the state of a `chain`."""
    return find(opt, RateState).rate


def updates_done(opt: Any) -> jax.Array:
    """Returns the number of updates done from the state of a `chain`."""
    return find(opt, RateState).count


def gradient_norm(opt: Any) -> jax.Array:
    """Returns the norm of the latest merged gradient, before clipping, from that of a `chain`."""
    return find(opt, NormState).norm
