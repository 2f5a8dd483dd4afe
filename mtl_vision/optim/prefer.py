"""A preference between tasks around an optax chain, and PaLoRA's balance (arXiv 2407.08056)."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_vision.errors import ConfigError
from mtl_vision.optim.rows import NOBODY, Deferred, Owners, scale_rows, shared_part, wide
from mtl_vision.optim.weigh import SCALED

WINDOW = 25  # steps over which losses are balanced


class PreferState(NamedTuple):
    """State of `prefer`: updates done, the losses ``[25, T]`` of the latest, oldest first.

    Both are ``()`` where losses do not matter.
    """

    count: Any
    losses: Any
    chain: Any


def prefer(
    chain: optax.GradientTransformation,
    tasks: Sequence[str],
    owners: Owners = NOBODY,
    *,
    balance: Collection[str] = (),
) -> optax.GradientTransformationExtraArgs:
    """Hands `chain` the gradients of ``lambda_t w_t L_t``, lambda being the preference.

    w is the product of what `balance` names, 1 without: ``losses`` for `by_losses`, ``gradients``
    for `by_gradients`.

    Args:
      chain: takes per-task gradients, see `weigh`.
      tasks: their names, in the order of the losses.
      owners: of the leaves that are not shared.
      balance: of ``losses`` and ``gradients``.

    Returns: a transform whose ``update(updates, state, params, *, preference [T], losses [T],
      **extra)`` takes rows or a `Deferred` without the preference.
    """
    tasks, chain = tuple(tasks), optax.with_extra_args_support(chain)

    def init(params):
        seen = (jnp.zeros((), jnp.int32), jnp.zeros((WINDOW, len(tasks))))
        return PreferState(*(seen if "losses" in balance else ((), ())), chain.init(params))

    def update(updates, state, params=None, *, preference, losses, **extra):
        w, seen = preference, (state.count, state.losses)
        if "losses" in balance:
            seen = state.count + 1, jnp.concatenate([state.losses[1:], losses[None]])
            w = w * jnp.where(seen[0] < WINDOW, 1, by_losses(seen[1]))
        if "gradients" in balance:
            w = w * by_gradients(norms(updates, owners))
        scaled = {
            name: SCALED[name](given, w, owners, tasks) if name in SCALED else given
            for name, given in extra.items()
        }
        updates = scale_rows(updates, w, owners, tasks)
        updates, inner = chain.update(updates, state.chain, params, losses=losses, **scaled)
        return updates, PreferState(*seen, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def by_losses(history: jax.Array) -> jax.Array:
    """Returns ``1 - |m_t| / sum |m|`` with the means m of the losses ``[steps, T]``; ``[T]``."""
    means = jnp.abs(history.mean(0))
    return 1 - means / means.sum()


def by_gradients(norms: jax.Array) -> jax.Array:
    """Returns ``1 / (|g_t| + 1e-3)`` by the norms of the gradients, ``[T]``."""
    return 1 / (norms + 1e-3)


def norms(updates: Any, owners: Owners) -> jax.Array:
    """Returns the norms of the rows over the shared leaves, ``[T]``.

    Raises:
      ConfigError: a `Deferred` without a Gramian.
    """
    if isinstance(updates, Deferred):
        if updates.gram is None:
            raise ConfigError("balancing by gradients needs the gradient of every task.")
        return jnp.sqrt(jnp.diagonal(updates.gram))
    rows = jax.tree.leaves(shared_part(updates, owners))
    return jnp.sqrt(sum(jnp.square(wide(g)).sum(range(1, g.ndim)) for g in rows))
