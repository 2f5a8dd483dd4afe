"""Loss weightings around an optax chain: the chain sees the gradients of the weighted losses."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_vision.errors import ConfigError
from mtl_vision.optim.contracts import LossWeighting, strong
from mtl_vision.optim.rows import NOBODY, Owners, scale_rows
from mtl_vision.optim.turns import Turn


def _scaled(fn, w, owners, tasks):
    return lambda at: scale_rows(fn(at), w, owners, tasks)


# What is around the gradients, for the weighted losses.
SCALED = {
    "grad_fn": _scaled,
    "loss_fn": lambda fn, w, owners, tasks: lambda p: w * fn(p),
    "task_grads_fn": _scaled,
}


class WeighState(NamedTuple):
    """State of `weigh`.

    count: updates done.
    method: state of the weighting.
    weights: ``[T]``, of the latest update.
    chain: state of what the weighting is around.
    """

    count: jax.Array
    method: Any
    weights: jax.Array
    chain: Any


def weigh(
    weighting: LossWeighting,
    chain: optax.GradientTransformation,
    tasks: Sequence[str],
    owners: Owners = NOBODY,
    *,
    seed: int = 0,
    turn: Turn | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Hands `chain` the per-task gradients of ``w_t L_t``, all of them, own leaves too.

    No per-task gradients are needed for it: with the joint gradient, a `Deferred` without a
    Gramian, the weights enter before its one backward pass. It stands around the whole chain and
    not in front because some methods look at the losses after the update (FAMO).

    Args:
      weighting: made by an entry of `LOSS_WEIGHTINGS`.
      chain: takes per-task gradients, so it begins with `aggregate`, or `sam` or `task_sam` around
        it; ends with the update of the parameters.
      tasks: their names, in the order of the losses.
      owners: of the leaves that are not shared.
      seed: of weightings that draw random numbers; the number of the update is folded in.
      turn: whose tasks these are, where they are not all of the run.

    Returns: a transform whose ``update(updates, state, params, *, losses [T], **extra)`` takes
      rows or a `Deferred`. `grad_fn`, `task_grads_fn` and `loss_fn` (``params -> [T]``) among the
      extra arguments reach the chain scaled alike; a weighting that looks back needs `loss_fn`.

    Raises:
      ConfigError: `losses` or, where it is needed, `loss_fn` is missing.
    """
    tasks, chain = tuple(tasks), optax.with_extra_args_support(chain)

    def init(params):
        T = turn.total if turn else len(tasks)
        method = strong(weighting.init(T))
        return WeighState(jnp.zeros((), jnp.int32), method, jnp.ones(T), chain.init(params))

    def update(updates, state, params=None, *, losses=None, **extra):
        for name in ("losses", "loss_fn")[: 1 + bool(weighting.after)]:
            if {"losses": losses, **extra}.get(name) is None:
                raise ConfigError(f"a loss weighting needs {name}= as an extra argument of update.")
        key = jax.random.fold_in(jax.random.key(seed), state.count)
        w, method = weighting.update(losses, state.method, key=key)
        scaled = {
            name: SCALED[name](given, w, owners, tasks) if name in SCALED else given
            for name, given in extra.items()
        }
        updates = scale_rows(updates, w, owners, tasks)
        updates, inner = chain.update(updates, state.chain, params, losses=losses, **scaled)
        if weighting.after:
            after = extra["loss_fn"](optax.apply_updates(params, updates))
            method = weighting.after(losses, after, method)
        w = state.weights.at[turn.places].set(w) if turn else w
        return updates, WeighState(state.count + 1, method, w, inner)

    return optax.GradientTransformationExtraArgs(init, update)
