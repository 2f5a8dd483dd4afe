"""From the losses of all tasks to what the first link of an optax chain takes; see `per_task` too.

A model is cut into what all tasks go through (`encode`, the parameters below ``backbone``) and the
rest (`decode`, those below ``decoder``).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_vision.optim import rows as R
from mtl_vision.optim.rows import Deferred, Owners

Tree = Any
Values = dict[str, jax.Array]
Aux = tuple[Values, Tree]  # unweighted losses by task, new statistics


class Part(NamedTuple):
    """One dataset's share of a batch as functions of the trained parameters.

    tasks: names of its tasks.
    encode: ``(parameters below backbone, stats) -> (features, stats)``.
    decode: ``(parameters below decoder, features, stats) -> (weighted losses [t], aux)``.
    """

    tasks: tuple[str, ...]
    encode: Callable[[Tree, Tree], tuple[Tree, Tree]]
    decode: Callable[[Tree, Tree, Tree], tuple[jax.Array, Aux]]


# What the name of a loss that belongs to no task ends with; see `layers.Penalty`.
PENALTY = "/penalty"
Parts = Sequence[Part]
# (params, batch, key) -> the parts of that batch
PartsOf = Callable[[Tree, Any, jax.Array], Parts]
# (parts of, params, stats, batch, key, micro-batches) -> (updates, aux)
Gradients = Callable[[PartsOf, Tree, Tree, Any, jax.Array, int], tuple[Any, Aux]]


def forward(parts: Parts, params: Tree, stats: Tree) -> tuple[jax.Array, Aux]:
    """Returns the weighted losses ``[T]`` of all parts and their aux."""
    trunk, head = halves_of(params)
    losses, values = [], {}
    for part in parts:
        features, stats = part.encode(trunk, stats)
        found, (new, stats) = part.decode(head, features, stats)
        losses.append(found)
        values |= new
    return jnp.concatenate(losses), (values, stats)


def penalty(values: Values) -> jax.Array | float:
    """Returns the sum of the losses that belong to no task."""
    return sum(value for name, value in values.items() if name.endswith(PENALTY))


def halves_of(params: Mapping[str, Tree]) -> tuple[Tree, Tree]:
    """Returns the parameters below ``backbone`` and below ``decoder``; a frozen one is ``{}``."""
    assert params.keys() <= {"backbone", "decoder"}, sorted(params)
    return params.get("backbone", {}), params.get("decoder", {})


def accumulated(
    function: Callable[..., tuple[Tree, Aux]],
    params: Tree,
    stats: Tree,
    batch: Any,
    key: jax.Array,
    parts: int,
) -> tuple[Tree, Aux]:
    """Averages gradients and losses over micro-batches that run one after another.

    Args:
      function: ``(params, stats, batch, key) -> (gradients, (losses, stats))``.
      params: parameters.
      stats: statistics; they pass through the micro-batches.
      batch: arrays ``[B, ...]``. Micro-batch j takes rows j, j + parts, ..., so each device
        keeps its rows.
      key: split over the micro-batches.
      parts: number of micro-batches; it divides B.

    Returns: as `function`. Losses that divide by the number of valid pixels are means over
      micro-batches of their own means.
    """
    if parts == 1:
        return function(params, stats, batch, key)
    batch = cut(batch, parts)
    keys = jax.random.split(key, parts)
    first = jax.tree.map(lambda x: x[0], (batch, keys))
    grads, (values, _) = jax.eval_shape(function, params, stats, *first)

    def add(carry: tuple[Tree, Tree], part: tuple[Any, jax.Array]) -> tuple[Any, None]:
        sums, stats = carry
        grads, (values, stats) = function(params, stats, *part)
        return (jax.tree.map(jnp.add, sums, (grads, values)), stats), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, values))
    (sums, stats), _ = jax.lax.scan(add, (zeros, stats), (batch, keys))
    grads, values = jax.tree.map(lambda x: x / parts, sums)
    return grads, (values, stats)


def cut(batch: Any, parts: int) -> Any:
    """Cuts ``[B, ...]`` into ``[parts, B / parts, ...]``; row i comes to part ``i mod parts``."""
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def additive(strategy: Callable[[Parts, Tree, Tree], tuple[Any, Aux]]) -> Gradients:
    """Runs a strategy whose gradients add up over micro-batches."""

    def gradients(parts_of, params, stats, batch, key, accumulate):
        def micro(params, stats, batch, key):
            return strategy(parts_of(params, batch, key), params, stats)

        return accumulated(micro, params, stats, batch, key, accumulate)

    return gradients


def plain(parts: Parts, params: Tree, stats: Tree) -> tuple[Tree, Aux]:
    """The gradient of the sum of all losses, those of no task included."""

    def total(params: Tree) -> tuple[jax.Array, Aux]:
        losses, (values, new) = forward(parts, params, stats)
        return losses.sum() + penalty(values), (values, new)

    return jax.grad(total, has_aux=True)(params)


def joint(
    parts_of: PartsOf,
    params: Tree,
    stats: Tree,
    batch: Any,
    key: jax.Array,
    accumulate: int,
    *,
    owners: Owners,
    tasks: Sequence[str],
) -> tuple[Deferred, Aux]:
    """One backward pass of the weighted sum, once the weights are known; no Gramian.

    With micro-batches the losses come from a forward pass of their own, because the weights look
    at the whole batch.
    """

    def losses(params, stats, batch, key):
        return forward(parts_of(params, batch, key), params, stats)

    if accumulate == 1:
        _, pull, aux = jax.vjp(lambda p: losses(p, stats, batch, key), params, has_aux=True)

        def whole(w):
            return pull(w)[0]

    else:
        _, aux = accumulated(losses, params, stats, batch, key, accumulate)

        def weighted(params, stats, batch, key, *, w):
            def total(params):
                found, aux = losses(params, stats, batch, key)
                return w @ found, aux

            return jax.grad(total, has_aux=True)(params)

        def whole(w):
            return accumulated(partial(weighted, w=w), params, stats, batch, key, accumulate)[0]

    def combine(w, own):
        ratio = jnp.where(w == 0, 0, own / jnp.where(w == 0, 1, w))
        return R.scale_own(whole(w), owners, ratio, tasks)

    return Deferred(None, combine), aux


def _penalties(parts: Parts, params: Tree, stats: Tree) -> tuple[Tree, Aux]:
    def total(params: Tree) -> tuple[jax.Array, Aux]:
        _, (values, new) = forward(parts, params, stats)
        return penalty(values), (values, new)

    return jax.grad(total, has_aux=True)(params)


PLAIN = additive(plain)
# The gradient of what belongs to no task; only `PLAIN` contains it.
PENALTIES = additive(_penalties)
# The losses alone; the place of the gradients is empty.
LOSSES = additive(lambda parts, params, stats: ({}, forward(parts, params, stats)[1]))
