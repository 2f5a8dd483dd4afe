"""The first link of an optax chain: per-task gradients in, one gradient out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_vision import rules
from mtl_vision.errors import ConfigError, nearest
from mtl_vision.optim import rows as R
from mtl_vision.optim.contracts import Aggregator, Tree, Weighting, strong
from mtl_vision.optim.optimizers import clipped
from mtl_vision.optim.rows import NOBODY, Deferred, Owners

TINY = 1e-24  # a task whose squared norm is at most this share of the trace has no gradient
CHOICES = {
    "task_weighting": ("unit", "weighted"),
    "output_scale": ("native", "times_k"),
    "nonfinite": ("error", "skip"),
}


class AggregateState(NamedTuple):
    """State of `aggregate`.

    count: updates done.
    method: state of the weighting, with a leading axis of groups, or of the aggregator.
    weights: ``[T]`` of the latest update, the mean over groups; zeros for an `Aggregator`.
    gram: ``[T, T]`` of the latest update that took one. Both are ``()`` where T is not told.
    """

    count: jax.Array
    method: Any
    weights: Any
    gram: Any


@dataclass(frozen=True)
class _Merge:
    """The arguments of `aggregate`."""

    method: Weighting | Aggregator
    tasks: tuple[str, ...]
    owners: Owners
    task_weighting: str
    output_scale: str
    max_norm: float
    groups: str
    nonfinite: str
    watch: int
    seed: int

    @property
    def by_weights(self) -> bool:
        return isinstance(self.method, Weighting)

    @property
    def sees_gram(self) -> bool:
        return self.by_weights and self.method.needs != "losses"

    @property
    def skips(self) -> bool:
        return self.nonfinite == "skip"


def aggregate(
    method: Weighting | Aggregator,
    tasks: Sequence[str] | int = (),
    owners: Owners = NOBODY,
    *,
    task_weighting: str = "unit",
    output_scale: str = "native",
    max_norm: float = 0.0,
    groups: str = "",
    nonfinite: str = "error",
    watch: int = 0,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Per-task gradients in, one gradient out: ``d = sum_t w_t g_t``, or an `Aggregator`'s own d.

    The method sees the shared leaves only. A task without a gradient (squared norm at most 1e-24
    of the trace: a batch without any of its labels) counts as exactly zero and gets weight 0.

    Args:
      method: made by an entry of `AGGREGATORS`.
      tasks: their names in the order of the rows, or their number; may be left out where the
        method has no state and no leaf has an owner.
      owners: of the leaves that are not shared.
      task_weighting: ``unit`` leaves a task's own leaves their plain gradient; ``weighted``
        multiplies it by the task's weight, as code does that back-propagates ``sum_t w_t L_t``
        through everything (Nash-MTL, MGDA and IMTL-G in nash-mtl, FairGrad in LibMTL).
      output_scale: ``times_k`` multiplies d by T (nash-mtl and FairGrad do for CAGrad, GradDrop
        and MGDA, to match the scale of the sum); ``native`` does not.
      max_norm: largest norm of d, 0 for any. FAMO's and FairGrad's code use 1.0 for every method.
      groups: regex; shared leaves whose paths have the same first match share a Gramian and
        weights, all others are one more group. ``""`` is one group, ``.*`` every array by itself,
        ``blocks/\\d+`` every block.
      nonfinite: ``error`` lets NaN and infinities through, so that the step is refused; ``skip``
        treats a task with them as one without a gradient.
      watch: updates between two Gramians of a method that needs none, for diagnostics; 0: never.
      seed: of methods that draw random numbers; the number of the update is folded in.

    Returns: a transform whose ``update(updates, state, params, *, losses=None)`` takes rows or a
      `Deferred`; `losses` ``[T]`` are those of the rows.

    Raises:
      ConfigError: an unknown choice; a method with state without `tasks`; a leaf without the task
        axis (while tracing).
    """
    made = _Merge(
        method,
        tuple(map(str, range(tasks))) if isinstance(tasks, int) else tuple(tasks),
        owners,
        task_weighting,
        output_scale,
        max_norm,
        groups,
        nonfinite,
        watch,
        seed,
    )
    for field, choices in CHOICES.items():
        if (value := getattr(made, field)) not in choices:
            raise ConfigError(
                f"config.optim.aggregator.{field}={value!r} is not one of {', '.join(choices)}."
                f"{nearest(str(value), choices)}"
            )
    if task_weighting == "weighted" and not made.by_weights:
        raise ConfigError(
            "config.optim.aggregator.task_weighting='weighted' needs a method with weights; this "
            "one merges coordinate by coordinate. Use 'unit'."
        )
    return optax.GradientTransformationExtraArgs(partial(_init, made), partial(_update, made))


def _init(made: _Merge, params: Tree) -> AggregateState:
    method, T, shared = made.method, len(made.tasks), R.shared_part(params, made.owners)
    if not T and (not made.by_weights or jax.tree.leaves(method.init(1))):
        raise ConfigError(
            "this method remembers something for every task: say how many tasks there are, or "
            "what they are called, with aggregate(method, tasks=...)."
        )
    if made.by_weights:
        count = max(_members(made, shared).values(), default=0) + 1
        state = jax.tree.map(lambda x: jnp.stack([x] * count), strong(method.init(T)))
    else:
        state = strong(method.init(shared, T))
    seen = (jnp.zeros(T), jnp.zeros((T, T))) if T else ((), ())
    return AggregateState(jnp.zeros((), jnp.int32), state, *seen)


def _update(made, updates, state, params=None, *, losses=None, **extra):
    del extra
    key = jax.random.fold_in(jax.random.key(made.seed), state.count)
    if isinstance(updates, Deferred):
        merged, inner, weights, gram = _from_deferred(made, updates, state, losses, key)
    else:
        T = R.count_rows(updates, params, made.owners)
        if not T:
            raise ConfigError(
                "no parameter that trains is shared by the tasks, so there is nothing to merge: "
                "choose config.optim.aggregator.name='sum', or train more of the backbone."
            )
        if made.tasks and T != len(made.tasks):
            raise ConfigError(
                f"the gradients have {T} rows, but there are {len(made.tasks)} tasks: "
                f"{', '.join(made.tasks)}."
            )
        merged, inner, weights, gram = _from_rows(made, updates, T, state, losses, key)
    if made.max_norm:
        shared = clipped(R.shared_part(merged, made.owners), made.max_norm)
        merged = R.either(shared, merged)
    gram = state.gram if gram is None else gram
    seen = (weights, gram) if made.tasks else ((), ())
    return merged, AggregateState(state.count + 1, inner, *seen)


def _from_deferred(made, updates, state, losses, key):
    if not made.by_weights or made.groups or made.skips:
        raise ConfigError(
            "per-task gradients that are never held cannot be merged by coordinates, by groups or "
            "with nonfinite='skip': choose config.optim.per_task='vmap', 'scan' or 'passes'."
        )
    if not made.tasks:
        raise ConfigError("aggregate(method, tasks=...) needs the tasks of deferred gradients.")
    grams = None if updates.gram is None else updates.gram[None]
    (w,), inner = _weights(made, grams, state.method, losses, key, len(made.tasks))
    own = w if made.task_weighting == "weighted" else jnp.ones_like(w)
    return updates.combine(w, own), inner, w, updates.gram


def _from_rows(made, updates, T, state, losses, key):
    method, rows = made.method, R.shared_part(updates, made.owners)
    members = _members(made, rows)
    grams = _grams(rows, members) if made.sees_gram or made.skips else None
    own = jnp.ones(T)
    if made.skips:
        good = jnp.isfinite(jnp.diagonal(grams, axis1=1, axis2=2)).all(0)
        rows, grams = R.keep_rows(good, rows), jnp.where(good[:, None] & good[None], grams, 0)
        own = good.astype(grams.dtype)
    if made.by_weights:
        w, inner = _weights(made, grams, state.method, losses, key, T)
        shared = rules.map_with_path(lambda path, g: R.weighted_sum(w[members[path]], g), rows)
        w = w.mean(0)
        own = own * w if made.task_weighting == "weighted" else own
    else:
        shared, inner = method.update(rows, state.method, losses=losses, key=key)
        if made.output_scale == "times_k":
            shared = jax.tree.map(lambda d: d * T, shared)
        w = jnp.zeros(T)
    if made.task_weighting == "weighted" or made.skips:
        updates = R.scale_own(updates, made.owners, own, made.tasks)
    gram = None if grams is None else grams.sum(0)
    if gram is None and made.watch and made.tasks:
        due = state.count % made.watch == 0
        gram = jax.lax.cond(due, lambda: R.gramian(rows), lambda: state.gram)
    return R.either(shared, updates), inner, w, gram


def _members(made: _Merge, shared: Tree) -> dict[str, int]:
    """Returns the number of every leaf's group."""
    found: dict[str, int] = {}
    members = {}
    for path in rules.flatten(shared):
        match = re.search(made.groups, path) if made.groups and made.sees_gram else None
        members[path] = found.setdefault(match.group() if match else "", len(found))
    return members


def _grams(rows: Tree, members: dict[str, int]) -> jax.Array:
    """Returns the Gramian of every group, ``[G, T, T]``."""
    leaves = rules.flatten(rows)
    groups: dict[int, list[jax.Array]] = {}
    for path, member in members.items():
        groups.setdefault(member, []).append(leaves[path])
    return jnp.stack([R.gramian(group) for group in groups.values()])


def _weights(made, grams, states, losses, key, T):
    """Returns the weights ``[G, T]`` of all groups and the new states."""
    method = made.method
    if not made.sees_gram:
        losses = jnp.ones(T) if losses is None else losses
        grams = None

    def one(gram, state, key):
        silent = jnp.zeros(T, bool)
        if made.sees_gram and method.needs != "cross":
            squared = jnp.diagonal(gram)
            silent = squared <= TINY * squared.sum()  # False for NaN, which must show
            gram = jnp.where(silent[:, None] | silent[None], 0, gram)
        w, state = method.update(gram, state, losses=losses, key=key)
        return jnp.where(silent, 0, w), state

    count = 1 if grams is None else len(grams)
    w, states = jax.vmap(one, axis_size=count)(grams, states, jax.random.split(key, count))
    return (w * T if made.output_scale == "times_k" else w), states
