"""Parameters at the edge of a ball around the current ones, and the gradients of tasks there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from mtl_vision import rules
from mtl_vision.errors import ConfigError
from mtl_vision.optim import rows as R
from mtl_vision.optim.contracts import Tree
from mtl_vision.optim.optimizers import norm
from mtl_vision.optim.rows import Deferred, Owners, wide

Leaves = dict[str, jax.Array]  # by path


@dataclass(frozen=True)
class Ball:
    """Where the perturbed parameters lie.

    shared, own: radii over the shared leaves and over one task's own.
    adaptive: measures a step relative to the size of each parameter (arXiv 2102.11600).
    joint: one norm over both kinds of leaves.
    eps: added to norms.
    """

    shared: float
    own: float
    adaptive: bool
    joint: bool
    eps: float


def ascend(ball: Ball, params: Tree, grads: Leaves, owners: Owners) -> Tree:
    """Returns the parameters at the edge of the ball, along the gradient.

    ``p + rho g / (|g| + eps)``, or if adaptive ``p + rho p^2 g / (| |p| g | + eps)``.

    Args:
      ball: its size and form.
      params: the centre.
      grads: gradients by path; parameters without one stay.
      owners: of the leaves that are not shared.
    """
    flat = rules.flatten(params)
    steps = {path: wide(g) for path, g in grads.items()}
    if ball.adaptive:
        steps = {path: jnp.abs(flat[path]) * g for path, g in steps.items()}
    kinds = {path: path in owners for path in steps}
    sizes = {kind: norm([steps[p] for p in steps if kinds[p] == kind]) for kind in (False, True)}
    if ball.joint:
        sizes = dict.fromkeys(sizes, norm(steps))
    radii = {False: ball.shared, True: ball.own}
    factors = {kind: radii[kind] / (size + ball.eps) for kind, size in sizes.items()}

    def move(path: str, p: jax.Array) -> jax.Array:
        if path not in steps:
            return p
        step = factors[kinds[path]] * steps[path]
        return p + (jnp.abs(p) * step if ball.adaptive else step).astype(p.dtype)

    return rules.map_with_path(move, params)


def task_part(grads: Leaves, owners: Owners, tasks: Sequence[str], t: int) -> Leaves:
    """Returns the gradients of task number t: its rows, its leaves, its slices in zeros."""
    found = {}
    for path, g in grads.items():
        if path not in owners:
            found[path] = g[t]
            continue
        names, axis = owners[path]
        if tasks[t] in names and axis is None:
            found[path] = g
        elif tasks[t] in names:
            index = jax.lax.broadcasted_iota(jnp.int32, g.shape, axis)
            found[path] = jnp.where(index == names.index(tasks[t]), g, jnp.zeros((), g.dtype))
    return found


def perturbed_rows(
    ball: Ball,
    params: Tree,
    directions: Sequence[Leaves],
    owners: Owners,
    tasks: Sequence[str],
    task_grad_fn: Callable[[int, Tree], Tree],
) -> Tree:
    """Returns the rows and own gradients of all tasks, each at its own perturbed parameters.

    Args:
      ball: of the perturbation.
      params: its centre.
      directions: one per task, see `ascend`.
      owners: of the leaves that are not shared.
      tasks: their names.
      task_grad_fn: ``(t, params) -> plain gradient of task t``.
    """
    calls = [
        rules.flatten(task_grad_fn(t, ascend(ball, params, direction, owners)))
        for t, direction in enumerate(directions)
    ]

    def collect(path: str, _: jax.Array) -> jax.Array:
        if path not in owners:
            return jnp.stack([call[path] for call in calls])
        names, axis = owners[path]
        # The gradient of any task by what belongs to one of another dataset is zero.
        own = [calls[tasks.index(name) if name in tasks else 0][path] for name in names]
        if axis is None:
            return own[0]
        slices = [jax.lax.index_in_dim(g, i, axis, keepdims=False) for i, g in enumerate(own)]
        return jnp.stack(slices, axis)

    return rules.map_with_path(collect, params)


def joint_gradient(
    method: str, updates: Any, params: Tree, owners: Owners, tasks: Sequence[str]
) -> Tree:
    """Returns the gradient of the summed loss from plain gradients, rows or a `Deferred`."""
    if isinstance(updates, Deferred):
        if not tasks:
            raise ConfigError(f"{method}(inner, tasks=...) needs the tasks of deferred gradients.")
        return R.summed(updates, owners, len(tasks))
    same = jax.tree.map(lambda g, p: g.shape == p.shape, updates, params)
    return updates if all(jax.tree.leaves(same)) else R.summed(updates, owners, len(tasks))


def names_of(tasks: Sequence[str] | int) -> tuple[str, ...]:
    """Returns the names of tasks, which are their numbers if only those are told."""
    return tuple(map(str, range(tasks))) if isinstance(tasks, int) else tuple(tasks)


def check_rows(
    method: str, updates: Any, params: Tree, owners: Owners, tasks: Sequence[str]
) -> None:
    """Raises ConfigError unless there is a row for every task."""
    if isinstance(updates, Deferred):
        raise ConfigError(
            f"{method} needs the gradient of every task, and these are never held: choose "
            f"config.optim.per_task='vmap', 'scan' or 'passes'."
        )
    count = R.count_rows(updates, params, owners)
    if count != len(tasks):
        raise ConfigError(
            f"{method}: the gradients have {count} rows, but there are {len(tasks)} tasks: "
            f"{', '.join(tasks)}."
        )


def check_radii(method: str, **radii: float) -> None:
    """Raises ConfigError for a negative radius."""
    for name, value in radii.items():
        if not value >= 0:
            raise ConfigError(f"{method}: {name}={value!r} is a radius; use 0 or more.")


def check_given(method: str, **given: Any) -> None:
    """Raises ConfigError for an argument that is None."""
    for name, value in given.items():
        if value is None:
            raise ConfigError(f"{method} needs {name}= as an argument of update.")
