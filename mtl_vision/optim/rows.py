"""Per-task gradients: who owns a leaf, rows of gradients, their Gramian and their weighted sums.

Up to the aggregator the gradients of shared parameters are rows, leaves ``[T, *shape]`` with one
row per task; a task's own leaves arrive as plain gradients, because a leaf that only one task
touches has no conflict. Rows that are never held together come as `Deferred`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_vision import rules
from mtl_vision.errors import ConfigError

Tree = Any


class Owner(NamedTuple):
    """Whose a leaf is that is not shared.

    tasks: one name for a leaf of one task, or the names along `axis` of a leaf with a slice per
      task.
    axis: of the tasks; None for a leaf of one task.
    """

    tasks: tuple[str, ...]
    axis: int | None = None


Owners = Mapping[str, Owner]  # by path; a leaf whose path is not here is shared
NOBODY: Owners = MappingProxyType({})


class Deferred(NamedTuple):
    """Per-task gradients that exist only as a Gramian and a way to their weighted sum.

    gram: ``[T, T]`` over the shared leaves, or None where no method will look at it.
    combine: ``(w [T], own [T]) -> tree``: shared leaves ``sum_t w_t g_t``, a task's own leaves
      times its entry of `own`.
    """

    gram: jax.Array | None
    combine: Callable[[jax.Array, jax.Array], Tree]


def wide(x: jax.Array) -> jax.Array:
    """Returns `x` as float32, or wider if it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def gramian(rows: Tree, others: Tree | None = None) -> jax.Array:
    """Returns ``G[i, j] = sum <rows_i, others_j>`` over all leaves.

    Args:
      rows: leaves ``[T, *shape]``. No leaf is reshaped, so a sharded one stays where it is and
        devices exchange T x T numbers only.
      others: a tree like `rows`; `rows` itself by default.

    Returns: ``[T, T]`` in float32 or wider.
    """
    leaves = jax.tree.leaves(rows)
    pairs = zip(leaves, leaves if others is None else jax.tree.leaves(others), strict=True)
    return functools.reduce(jnp.add, (_products(wide(x), wide(y)) for x, y in pairs))


def _products(x, y):  # [T, ...], [T, ...] -> [T, T]
    if jax.default_backend() == "cpu" and x.ndim > 1:
        # XLA's product of two thin matrices runs at a tenth of the memory's speed on a CPU.
        return (x[:, None] * y[None]).sum(tuple(range(2, x.ndim + 1)))
    axes = tuple(range(1, x.ndim))
    return jnp.tensordot(x, y, axes=(axes, axes), precision=jax.lax.Precision.HIGHEST)


def weighted_sum(w: jax.Array, rows: Tree) -> Tree:
    """Returns ``sum_t w_t g_t`` for leaves ``[T, *shape]``, in their own types."""

    def combine(g: jax.Array) -> jax.Array:
        # Written out it is one loop at the speed of the memory. XLA's CPU code takes twice as
        # long for a product with the weights, and fifty times for a sum over a leading axis.
        terms = (w[t] * wide(row) for t, row in enumerate(g))
        return functools.reduce(jnp.add, terms).astype(g.dtype)

    return jax.tree.map(combine, rows)


def scale_own(tree: Tree, owners: Owners, own: jax.Array, tasks: Sequence[str]) -> Tree:
    """Multiplies every task's own leaves by its entry of `own`; other leaves stay.

    Args:
      tree: leaves of the parameters' shapes.
      owners: of the leaves that are not shared.
      own: ``[T]`` factors in the order of `tasks`. A factor 0 gives 0, whatever the gradient.
      tasks: their names. What belongs to a task that is not among them, and so has no gradient in
        this step, stays.
    """
    position = {name: i for i, name in enumerate(tasks)}
    own = jnp.append(own, jnp.ones((), own.dtype))  # for tasks of other datasets

    def scale(path: str, leaf: jax.Array) -> jax.Array:
        if path not in owners:
            return leaf
        names, axis = owners[path]
        factor = own[jnp.array([position.get(name, len(tasks)) for name in names])]
        shape = [1] * leaf.ndim
        if axis is not None:
            shape[axis] = len(names)
        factor = factor.reshape(shape).astype(leaf.dtype)
        return jnp.where(factor == 0, jnp.zeros((), leaf.dtype), factor * leaf)

    return rules.map_with_path(scale, tree)


def shared_part(tree: Tree, owners: Owners) -> Tree:
    """Returns the tree with None for every leaf that one task owns."""
    return rules.map_with_path(lambda path, x: None if path in owners else x, tree)


def own_part(tree: Tree, owners: Owners) -> Tree:
    """Returns the tree with None for every shared leaf."""
    return rules.map_with_path(lambda path, x: x if path in owners else None, tree)


def either(a: Tree, b: Tree) -> Tree:
    """Returns the leaves of `a`, and those of `b` where `a` has None."""
    return jax.tree.map(lambda x, y: y if x is None else x, a, b, is_leaf=lambda x: x is None)


def summed(updates: Any, owners: Owners, tasks: int) -> Tree:
    """Returns the gradient of the sum of all losses from rows, or from a `Deferred`."""
    ones = jnp.ones(tasks)
    if isinstance(updates, Deferred):
        return updates.combine(ones, ones)
    return either(weighted_sum(ones, shared_part(updates, owners)), updates)


def scale_rows(updates: Any, w: jax.Array, owners: Owners, tasks: Sequence[str]) -> Any:
    """Returns the per-task gradients of ``w_t L_t`` from those of ``L_t``, in the same form."""
    if isinstance(updates, Deferred):
        gram = None if updates.gram is None else updates.gram * w[:, None] * w[None]
        return Deferred(gram, lambda v, own: updates.combine(v * w, own * w))

    def scale(g: jax.Array) -> jax.Array:
        return g * w.reshape(-1, *[1] * (g.ndim - 1)).astype(g.dtype)

    rows = jax.tree.map(scale, shared_part(updates, owners))
    return either(rows, scale_own(updates, owners, w, tasks))


def keep_rows(good: jax.Array, rows: Tree) -> Tree:
    """Returns leaves ``[T, *shape]`` with zeros for the rows where `good` ``[T]`` is False."""

    def keep(g: jax.Array) -> jax.Array:
        return jnp.where(good.reshape(-1, *[1] * (g.ndim - 1)), g, jnp.zeros((), g.dtype))

    return jax.tree.map(keep, rows)


def count_rows(updates: Tree, params: Tree | None, owners: Owners) -> int:
    """Returns T, after a look at the shape of every leaf.

    Args:
      updates: rows and plain gradients.
      params: the parameters, or None where nobody knows them.
      owners: of the leaves that are not shared.

    Raises:
      ConfigError: a shared leaf without the task axis, or an own leaf that is not plain.
    """
    shapes = {} if params is None else {k: p.shape for k, p in rules.flatten(params).items()}
    first: tuple[str, int] | None = None
    for path, leaf in rules.flatten(updates).items():
        shape = shapes.get(path)
        if path in owners:
            _check_own(path, leaf, shape, owners[path])
            continue
        if leaf.ndim < 1 or (shape is not None and leaf.shape[1:] != shape):
            expected = "(T, ...)" if shape is None else f"(T, {', '.join(map(str, shape))})"
            raise ConfigError(
                f"the gradient of {path} is {leaf.shape}; an aggregator takes one row per task, "
                f"{expected}. Give it the Jacobian of the losses, and put it first in the chain."
            )
        first = first or (path, leaf.shape[0])
        if leaf.shape[0] != first[1]:
            raise ConfigError(
                f"the gradient of {first[0]} has {first[1]} rows, that of {path} has "
                f"{leaf.shape[0]}; every shared leaf has one row per task."
            )
    return first[1] if first else 0


def _check_own(path: str, leaf: jax.Array, shape: Any, owner: Owner) -> None:
    if shape is not None and leaf.shape != shape:
        raise ConfigError(
            f"the gradient of {path} is {leaf.shape}, but {path} belongs to "
            f"{', '.join(owner.tasks)}: give its plain gradient, {shape}, without an axis of tasks."
        )
