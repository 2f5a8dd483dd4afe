"""Links of an optax chain for steps of which each sees the tasks of one dataset only.

Every dataset has a program, and all programs share one state. What belongs to the datasets whose
turn it is not stays as it is, moments and their counts included, as in PyTorch, whose optimizers
skip parameters without a gradient.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_vision import rules
from mtl_vision.optim.contracts import LossWeighting

Tree = Any
SHARED = ""  # label of what belongs to no dataset


class Turn(NamedTuple):
    """Whose turn it is in a program.

    dataset: its name.
    places: of its tasks among those of all datasets.
    total: number of all tasks.
    """

    dataset: str
    places: slice
    total: int


class Home(NamedTuple):
    """Which datasets a parameter belongs to.

    parts: ``(dataset, start, stop)`` of its slices along `axis`, which they fill in order; one
      entry for a parameter that belongs to one dataset as a whole.
    axis: of the slices; None for a parameter as a whole.
    """

    parts: tuple[tuple[str, int, int], ...]
    axis: int | None = None


Homes = Mapping[str, Home]  # by path; a parameter that is not here is shared by all datasets


class TurnState(NamedTuple):
    """One state for every dataset, by name."""

    states: dict[str, Any]


def in_turn(
    links: Mapping[str, optax.GradientTransformation], turn: Turn
) -> optax.GradientTransformationExtraArgs:
    """Returns the link of the dataset whose turn it is; the states of the others stay."""
    link = optax.with_extra_args_support(links[turn.dataset])

    def init(params):
        return TurnState({name: link.init(params) for name, link in links.items()})

    def update(updates, state, params=None, **extra):
        updates, own = link.update(updates, state.states[turn.dataset], params, **extra)
        return updates, TurnState({**state.states, turn.dataset: own})

    return optax.GradientTransformationExtraArgs(init, update)


def weighting_in_turn(
    weighting: LossWeighting, tasks: Mapping[str, int], turn: Turn
) -> LossWeighting:
    """Returns the weighting of the losses of one dataset at a time.

    Args:
      weighting: made by an entry of `LOSS_WEIGHTINGS`.
      tasks: their number by dataset.
      turn: whose it is.
    """

    def update(losses, state, *, key):
        w, own = weighting.update(losses, state[turn.dataset], key=key)
        return w, {**state, turn.dataset: own}

    def after(losses, later, state):
        own = weighting.after(losses, later, state[turn.dataset])
        return {**state, turn.dataset: own}

    return LossWeighting(
        lambda _: {name: weighting.init(T) for name, T in tasks.items()},
        update,
        after if weighting.after else None,
    )


def apart(
    make: Callable[[rules.Rules[float]], optax.GradientTransformation],
    decay: rules.Rules[float],
    homes: Homes,
    turn: Turn,
) -> optax.GradientTransformation:
    """Returns an optimizer with a state of its own for every dataset's parameters.

    Args:
      make: from rules of the weight decay to the optimizer.
      decay: (path regex, factor) rules for all parameters.
      homes: of the parameters that belong to datasets.
      turn: whose it is: the updates of other datasets' parameters are zero.
    """
    datasets = sorted({name for home in homes.values() for name, *_ in home.parts})
    labels = (SHARED, *datasets)

    def optimizers(params: Tree) -> dict[str, optax.GradientTransformation]:
        factors = rules.resolve(decay, rules.flatten(params), "optim.decay") if decay else {}

        def own(label: str) -> rules.Rules[float]:
            paths = rules.flatten(part(params, homes, label))
            return tuple((re.escape(p), factors[p]) for p in paths if factors)

        return {label: make(own(label)) for label in labels}

    def init(params):
        made = optimizers(params)
        return TurnState({x: made[x].init(part(params, homes, x)) for x in labels})

    def update(updates, state, params=None):
        made, parts, states = optimizers(params), {}, dict(state.states)
        for label in labels:
            parts[label] = part(updates, homes, label)
            if label in (SHARED, turn.dataset):
                now = part(params, homes, label)
                parts[label], states[label] = made[label].update(parts[label], states[label], now)
            else:
                parts[label] = jax.tree.map(jnp.zeros_like, parts[label])
        return whole(parts, updates, homes), TurnState(states)

    return optax.GradientTransformation(init, update)


def part(tree: Tree, homes: Homes, label: str) -> Tree:
    """Returns what belongs to one dataset, or to `SHARED`; None for every other leaf."""

    def take(path: str, x: jax.Array) -> jax.Array | None:
        if path not in homes:
            return x if label == SHARED else None
        parts, axis = homes[path]
        for name, start, stop in parts:
            if name == label:
                return x if axis is None else jax.lax.slice_in_dim(x, start, stop, axis=axis)
        return None

    return rules.map_with_path(take, tree)


def whole(parts: Mapping[str, Tree], like: Tree, homes: Homes) -> Tree:
    """Puts together, in the structure of `like`, what `part` took apart."""
    leaves = {label: rules.flatten(tree) for label, tree in parts.items()}

    def put(path: str, _: jax.Array) -> jax.Array:
        if path not in homes:
            return leaves[SHARED][path]
        found = [leaves[name][path] for name, *_ in homes[path].parts]
        return found[0] if homes[path].axis is None else jnp.concatenate(found, homes[path].axis)

    return rules.map_with_path(put, like)


def optimizer_in_turn(
    optimizer: Callable[..., optax.GradientTransformation],
    decay: rules.Rules[float],
    options: Mapping[str, Any],
    *,
    homes: Homes,
    turn: Turn | None,
) -> optax.GradientTransformation:
    """Returns the optimizer of a program: `apart` where there are turns."""
    make = partial(optimizer, **options)
    return make(decay) if turn is None else apart(make, decay, homes, turn)
