"""Every task perturbs for itself: task-wise SAM."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_vision import rules
from mtl_vision.errors import ConfigError, nearest
from mtl_vision.optim import rows as R
from mtl_vision.optim.contracts import Tree
from mtl_vision.optim.rows import NOBODY, Owners
from mtl_vision.optim.sam import perturb
from mtl_vision.optim.sam.perturb import Ball


class TaskSamState(NamedTuple):
    """States of the transforms of `task_sam`; ``()`` for one that its mode does not use.

    loss: of `inner` on the gradients where we are, or on the only ones.
    flat: of the one on the differences.
    pair: of the one on pairs, with a leading axis of tasks in mode ``each``.
    """

    loss: Any
    flat: Any
    pair: Any


@dataclass(frozen=True)
class _TaskSam:
    inner: optax.GradientTransformationExtraArgs
    flat: optax.GradientTransformationExtraArgs
    pair: optax.GradientTransformationExtraArgs | None
    tasks: tuple[str, ...]
    owners: Owners
    ball: Ball
    mode: str


def task_sam(
    inner: optax.GradientTransformation,
    tasks: Sequence[str] | int,
    owners: Owners = NOBODY,
    *,
    rho_shared: float = 0.05,
    rho_task: float = 0.05,
    adaptive: bool = False,
    norm: str = "split",
    mode: str = "separate",
    flat: optax.GradientTransformation | None = None,
    pair: optax.GradientTransformation | None = None,
    eps: float = 1e-12,
) -> optax.GradientTransformationExtraArgs:
    """Task-wise SAM: every task perturbs the shared parameters and its own for itself.

    With g_t the gradient of task t by the shared parameters, ``g_t^SAM`` the one at its perturbed
    parameters, ``g_t^flat = g_t^SAM - g_t`` and A the aggregator `inner`, shared leaves get
    ``A(g) + A(g^flat)``, A having a state of its own for each; a task's own leaves get its plain
    gradient at the perturbed parameters.

    Args:
      inner: `aggregate`. It gets all extra arguments.
      tasks: their names in the order of the rows, or their number.
      owners: of the leaves that are not shared; of a leaf with a slice per task, task t moves
        its slice only.
      rho_shared: radius over the shared leaves, >= 0. With both radii 0, ``separate`` and
        ``direct`` are `inner` alone, without a pass more.
      rho_task: radius over the task's own leaves, >= 0. The authors' code has one rho for both: 2
        with `adaptive` (NYUv2, CityScapes, CelebA), 0.05 without.
      adaptive: see `Ball`.
      norm: ``split``, shared and own leaves by themselves; ``joint``, one norm over both (the
        authors' MultiMNIST code).
      mode: ``separate`` as above; ``direct`` is ``A(g^SAM)``, L-SAM of arXiv 2507.07883;
        ``second`` is ``P(A(g), A(g^flat))``; ``each`` is A of the rows ``P(g_t, g_t^flat)``.
      flat: A for the differences, `inner` by default. A method that draws random numbers should
        be another `aggregate` with another seed here.
      pair: P, an `aggregate` of 2 tasks without owners.
      eps: added to norms.

    Returns: a transform whose ``update(updates, state, params, *, task_grads_fn, **extra)`` takes
      rows, all at `params`; ``task_grads_fn: points -> rows`` gives the rows and own gradients of
      all tasks, that of task number t at the parameters ``points(t)``.

    Raises:
      ConfigError: a bad radius, an unknown choice, no `pair` for a mode that needs it; gradients of
        another form or a missing argument of `update`.

    Source: arXiv 2211.13723; the other modes are the ablations of its Table 5.
    """
    perturb.check_radii("task_sam", rho_shared=rho_shared, rho_task=rho_task)
    for field, value, choices in (("norm", norm, ("split", "joint")), ("mode", mode, tuple(MODES))):
        if value not in choices:
            raise ConfigError(
                f"task_sam: {field}={value!r} is not one of {', '.join(choices)}."
                f"{nearest(str(value), choices)}"
            )
    if mode in ("second", "each") and pair is None:
        raise ConfigError(f"task_sam: mode={mode!r} merges pairs; give pair=aggregate(..., 2).")
    made = _TaskSam(
        optax.with_extra_args_support(inner),
        optax.with_extra_args_support(flat or inner),
        optax.with_extra_args_support(pair) if pair else None,
        perturb.names_of(tasks),
        owners,
        Ball(rho_shared, rho_task, adaptive, norm == "joint", eps),
        mode,
    )
    return optax.GradientTransformationExtraArgs(partial(_init, made), partial(_update, made))


def _init(made: _TaskSam, params: Tree) -> TaskSamState:
    pair, shared = (), R.shared_part(params, made.owners)
    if made.mode == "second":
        pair = made.pair.init(shared)
    if made.mode == "each":
        T = len(made.tasks)
        pair = jax.tree.map(lambda x: jnp.stack([x] * T), made.pair.init(shared))
    flat = made.flat.init(params) if made.mode in ("separate", "second") else ()
    return TaskSamState(made.inner.init(params), flat, pair)


def _update(made, updates, state, params=None, *, task_grads_fn=None, **extra):
    perturb.check_given("task_sam", params=params, task_grads_fn=task_grads_fn)
    perturb.check_rows("task_sam", updates, params, made.owners, made.tasks)
    if made.mode in ("separate", "direct") and not (made.ball.shared or made.ball.own):
        merged, loss = made.inner.update(updates, state.loss, params, **extra)
        return merged, state._replace(loss=loss)
    grads = rules.flatten(updates)

    def point(t: int | jax.Array) -> Tree:
        direction = perturb.task_part(grads, made.owners, made.tasks, t)
        return perturb.ascend(made.ball, params, direction, made.owners)

    return MODES[made.mode](made, updates, task_grads_fn(point), state, params, extra)


def _separate(made, updates, perturbed, state, params, extra):
    at, difference = _parts(made, updates, perturbed)
    merged, loss = made.inner.update(at, state.loss, params, **extra)
    more, flat = made.flat.update(difference, state.flat, params, **extra)
    return jax.tree.map(jnp.add, merged, more), TaskSamState(loss, flat, ())


def _direct(made, updates, perturbed, state, params, extra):
    merged, loss = made.inner.update(perturbed, state.loss, params, **extra)
    return merged, state._replace(loss=loss)


def _second(made, updates, perturbed, state, params, extra):
    at, difference = _parts(made, updates, perturbed)
    merged, loss = made.inner.update(at, state.loss, params, **extra)
    more, flat = made.flat.update(difference, state.flat, params, **extra)
    two = _stack(R.shared_part(merged, made.owners), R.shared_part(more, made.owners))
    shared, pair = made.pair.update(two, state.pair, R.shared_part(params, made.owners))
    return R.either(shared, merged), TaskSamState(loss, flat, pair)


def _each(made, updates, perturbed, state, params, extra):
    at, difference = _parts(made, updates, perturbed)
    two = _stack(R.shared_part(at, made.owners), R.shared_part(difference, made.owners))
    merge = partial(made.pair.update, params=R.shared_part(params, made.owners))
    shared, pair = jax.vmap(merge, in_axes=(1, 0))(two, state.pair)
    merged, loss = made.inner.update(R.either(shared, at), state.loss, params, **extra)
    return merged, TaskSamState(loss, (), pair)


MODES: dict[str, Callable[..., tuple[Tree, TaskSamState]]] = {
    "separate": _separate,
    "direct": _direct,
    "second": _second,
    "each": _each,
}


def _parts(made: _TaskSam, updates: Tree, perturbed: Tree) -> tuple[Tree, Tree]:
    """Returns g and g^flat; own leaves are those of the perturbed pass in one, 0 in the other."""
    owners = made.owners
    at = R.either(R.own_part(perturbed, owners), updates)
    shared = jax.tree.map(jnp.subtract, R.shared_part(perturbed, owners), R.shared_part(at, owners))
    return at, R.either(shared, jax.tree.map(jnp.zeros_like, at))


def _stack(a: Tree, b: Tree) -> Tree:
    return jax.tree.map(lambda x, y: jnp.stack([x, y]), a, b)
