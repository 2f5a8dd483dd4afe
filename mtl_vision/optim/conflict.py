"""What an update says of its tasks: weights, gradient norms, cosines, conflicts."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import jax
import numpy as np

from mtl_vision.optim.aggregate import AggregateState
from mtl_vision.optim.chain import find
from mtl_vision.optim.turns import Turn, TurnState
from mtl_vision.optim.weigh import WeighState


def conflict(opt: Any, turn: Turn | None = None) -> dict[str, jax.Array]:
    """Returns what the latest update left in the state of a chain.

    Args:
      opt: the state.
      turn: whose it was; T then counts the tasks of that dataset.

    Returns: ``tasks/gram`` ``[T, T]`` and ``tasks/weight`` ``[T]`` of an `aggregate` that knows its
      tasks, ``tasks/loss_weight`` ``[T]`` of a `weigh`; without either nothing.
    """
    found, loss = {}, find(opt, WeighState)
    merge = find(opt if turn is None else _own(opt, turn), AggregateState)
    if merge is not None and not isinstance(merge.gram, tuple):
        found |= {"tasks/gram": merge.gram, "tasks/weight": merge.weights}
    if loss is not None:
        found["tasks/loss_weight"] = loss.weights[turn.places] if turn else loss.weights
    return found


def _own(opt: Any, turn: Turn) -> Any:
    states = find(opt, TurnState)
    return states.states[turn.dataset] if states else ()


def cosines(gram: np.ndarray) -> np.ndarray:
    """Returns ``G_ij / (n_i n_j)``, 0 where a gradient is zero; ``[T, T]`` float64."""
    gram = np.asarray(gram, np.float64)
    norms = np.sqrt(np.maximum(np.diag(gram), 0))
    scale = np.outer(norms, norms)
    return np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0)


def figures(found: Mapping[str, np.ndarray], tasks: Sequence[str]) -> dict[str, float]:
    """Returns the scalars for the log.

    Args:
      found: what `conflict` gave, on the host.
      tasks: names of the tasks, T of them.

    Returns: ``tasks/weight/<task>``, ``tasks/loss_weight/<task>``, ``tasks/norm/<task>`` of the
      gradient by the shared parameters, ``tasks/cosine/<task>,<task>`` of every pair,
      ``tasks/mean_cosine``, and ``tasks/conflicts``, the share of pairs with a negative cosine.
    """
    values = {}
    for name in ("tasks/weight", "tasks/loss_weight"):
        for task, w in zip(tasks, found.get(name, ()), strict=False):
            values[f"{name}/{task}"] = float(w)
    if "tasks/gram" not in found:
        return values
    gram, angles = np.asarray(found["tasks/gram"], np.float64), cosines(found["tasks/gram"])
    for task, square in zip(tasks, np.diag(gram), strict=True):
        values[f"tasks/norm/{task}"] = float(np.sqrt(np.maximum(square, 0)))
    pairs = list(combinations(range(len(tasks)), 2))
    for i, j in pairs:
        values[f"tasks/cosine/{tasks[i]},{tasks[j]}"] = float(angles[i, j])
    if pairs:
        of_pairs = np.array([angles[pair] for pair in pairs])
        values["tasks/mean_cosine"] = float(of_pairs.mean())
        values["tasks/conflicts"] = float((of_pairs < 0).mean())
    return values


def broken(found: Mapping[str, np.ndarray], tasks: Sequence[str]) -> list[str]:
    """Returns the tasks whose gradient is not finite."""
    if "tasks/gram" not in found:
        return []
    return [
        t for t, g in zip(tasks, np.diag(found["tasks/gram"]), strict=True) if not np.isfinite(g)
    ]
