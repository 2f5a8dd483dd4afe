"""Parameters at the edge of a ball around the current ones."""

from collections.abc import Sequence
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


def task_part(grads: Leaves, owners: Owners, tasks: Sequence[str], t: int | jax.Array) -> Leaves:
    """Returns the gradients of task number t: its rows, its leaves, its slices in zeros."""
    own = {path: g for path, g in grads.items() if path in owners}
    mine = jnp.arange(len(tasks)) == t
    return {p: g[t] for p, g in grads.items() if p not in owners} | R.scale_own(
        own, owners, mine.astype(jnp.float32), tasks
    )


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
