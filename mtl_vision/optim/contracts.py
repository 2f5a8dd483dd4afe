"""What a method of multi-task optimization is: three kinds of records of pure functions.

T is the number of tasks, G the Gramian ``[T, T]`` of their gradients over the shared parameters,
``G[i, j] = <g_i, g_j>``. All functions are jit-, vmap- and scan-safe; a state is a pytree.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_vision.errors import ConfigError

State = Any
Tree = Any

PARITIES = ("", "torchjd", "libmtl", "nash-mtl")


class Weighting(NamedTuple):
    """From the Gramian to task weights; the merged gradient is ``sum_t w_t g_t``.

    init: ``T -> state``, ``()`` for a method without one.
    update: ``(gram [T, T], state, *, losses [T], key) -> (w [T], state)``. The Gramian is float32
      or wider, and so are the weights. A task without a gradient has a row and column of exact
      zeros; its weight does not matter. `losses` may be None for a method that never looks at them.
    needs: ``gram``; ``losses`` where G is not looked at (and is None); ``cross`` where G is
      ``J1 J2^T`` of two independent mini-batches, so not symmetric.
    """

    init: Callable[[int], State]
    update: Callable[..., tuple[jax.Array, State]]
    needs: str = "gram"


class Aggregator(NamedTuple):
    """From per-task gradients to one, coordinate by coordinate or with memory of them.

    init: ``(params, T) -> state``; `params` is the tree of the shared parameters.
    update: ``(rows, state, *, losses [T], key) -> (merged, state)``; leaves of `rows` are
      ``[T, *shape]``, of `merged` ``[*shape]``. No reshape of a leaf: it may be sharded.
    """

    init: Callable[[Tree, int], State]
    update: Callable[..., tuple[Tree, State]]


class LossWeighting(NamedTuple):
    """From the losses to weights of the losses, without per-task gradients.

    init: ``T -> state``.
    update: ``(losses [T], state, *, key) -> (w [T], state)``: the gradient of the method's scalar
      by the losses, so the shared and all own gradients are those of ``sum_t w_t L_t``.
    after: ``(losses, losses after the update, state) -> state``, for methods that look at what
      their step did to the losses of the same batch; None for all others.
    """

    init: Callable[[int], State]
    update: Callable[..., tuple[jax.Array, State]]
    after: Callable[[jax.Array, jax.Array, State], State] | None = None


def stateless(function: Callable[..., jax.Array], needs: str = "gram") -> Weighting:
    """Returns the Weighting of ``(gram, *, losses, key) -> w``."""

    def update(gram, state, *, losses=None, key=None):
        return function(gram, losses=losses, key=key), state

    return Weighting(lambda T: (), update, needs)


def strong(state: State) -> State:
    """Returns the state without weak types, which would compile a step twice."""
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.asarray(x).dtype), state)


def check_parity(parity: str, known: tuple[str, ...], method: str) -> None:
    """Raises ConfigError if `method` has no other behaviour of that name."""
    if parity and parity not in known:
        listed = ", ".join(f"'{name}'" for name in known) or "none"
        raise ConfigError(
            f"{method}: parity={parity!r} is unknown here; this method has {listed}, and '' for "
            f"the default."
        )
