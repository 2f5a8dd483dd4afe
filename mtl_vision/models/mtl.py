"""Backbone and decoder as one model; the model as plain trees."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from mtl_vision import rules
from mtl_vision.errors import ConfigError
from mtl_vision.models.adapters.streams import select, task_axis, task_streams
from mtl_vision.models.layers import TaskParam, widen
from mtl_vision.models.layers import split as split_key
from mtl_vision.models.resize import resize

Tree = dict[str, Any]


class MultiTask(nnx.Module):
    """Image ``[B, H, W, 3]`` -> ``{kind: [B, H, W, K]}`` float32, raw values and logits.

    In training the entry of a kind may be a tuple of the final and of intermediate predictions.

    Args:
      backbone: ``image -> [[S, B, h, w, C], ...]``; its first `shared` streams (0 or 1) are the
        trunk, the others belong to the tasks of the dataset, in their order.
      decoder: ``(trunk, streams, dataset=..., key=...) -> {kind: [B, h', w', K]}``, tuples of
        them where a key is given and there are intermediate predictions. These have a weight in
        the loss of their task, the attribute `intermediate_weight`, 1.0 without it.
    """

    def __init__(self, backbone: nnx.Module, decoder: nnx.Module):
        self.backbone, self.decoder = backbone, decoder

    def __call__(
        self, image: jax.Array, *, dataset: str, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        keys = split_key(key, 2)
        features = self.encode(image, dataset=dataset, key=keys[0])
        return self.decode(features, image.shape[1:3], dataset=dataset, key=keys[1])

    def encode(
        self, image: jax.Array, *, dataset: str, key: jax.Array | None = None
    ) -> list[jax.Array]:
        """The backbone: ``[B, H, W, 3]`` -> ``[[S, B, h, w, C], ...]``, finest first."""
        return select(self.backbone, dataset)(image, key=key)

    def decode(
        self,
        features: Sequence[jax.Array],
        size: tuple[int, int],
        *,
        dataset: str,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """The decoder: what `encode` gave, to ``(H, W)`` = `size`: ``{kind: [B, H, W, K]}``."""
        shared = self.backbone.shared
        trunk = [x[0] for x in features] if shared else None
        count = max(x.shape[0] for x in features) - shared
        streams = [task_streams(x, shared, count) for x in features] if count else None
        out = self.decoder(trunk, streams, dataset=dataset, key=key)
        # The grid covers the image filled up to a multiple of the stride.
        (height, width), stride = features[0].shape[2:4], self.backbone.strides[0]
        covered = height * stride, width * stride
        height, width = size
        # In float32: bfloat16 would show as steps in depth and normals.
        return jax.tree.map(lambda y: resize(widen(y), covered)[:, :height, :width], out)


def parameters(model: nnx.Module) -> dict[str, Any]:
    """Returns ``{path: array}`` of all parameters, abstract ones for an abstract model."""
    return rules.flatten(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def owners(
    model: nnx.Module, kinds: Mapping[str, Sequence[str]]
) -> dict[str, tuple[tuple[str, ...], int | None]]:
    """Says which parameters one task alone owns, or one task per slice.

    A parameter below ``<dataset>/.../<kind>`` is that task's. A `TaskParam` has a slice per task
    on its `task_axis`: the tasks of the dataset it is below, or of all datasets. All others are
    shared, by the tasks of one dataset at least.

    Args:
      model: any module, abstract or not.
      kinds: task kinds by dataset, in the order of the slices.

    Returns: ``{path: (names of the tasks, their axis or None)}`` without the shared parameters.
    """
    found = {}
    for keys, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        path = [str(key) for key in keys]
        dataset = next((name for name in kinds if name in path), None)
        below = path[path.index(dataset) + 1 :] if dataset else []
        kind = next((kind for kind in kinds.get(dataset, ()) if kind in below), None)
        names = [f"{d}/{k}" for d, ks in kinds.items() for k in ks if dataset in (None, d)]
        if kind:
            found["/".join(path)] = (f"{dataset}/{kind}",), None
        elif isinstance(variable, TaskParam):
            found["/".join(path)] = tuple(names), task_axis("/".join(path))
    return found


def split(model: nnx.Module, trainable: Mapping[str, bool]) -> tuple[Any, Tree, Tree, Tree]:
    """Takes a model apart into what a pure step needs.

    Args:
      model: any module.
      trainable: for every parameter path whether it trains.

    Returns: ``(graphdef, trainable, frozen, stats)``: the structure, and nested plain dicts of
      the parameters that train, those that do not, and all other variables.

    Raises:
      ConfigError: a parameter that `trainable` does not decide.
    """
    undecided = [path for path in parameters(model) if path not in trainable]
    if undecided:
        raise ConfigError(f"It is not said whether {undecided[0]!r} trains; add a rule for it.")

    def trains(path, variable):
        return isinstance(variable, nnx.Param) and trainable["/".join(map(str, path))]

    graphdef, *states = nnx.split(model, trains, nnx.Param, ...)
    return graphdef, *(nnx.to_pure_dict(state) for state in states)


def merge(graphdef: Any, trainable: Tree, frozen: Tree, stats: Tree) -> Any:
    """Puts together what `split` took apart; the arrays may be traced."""
    return nnx.merge(graphdef, trainable, frozen, stats)


def statistics(model: nnx.Module) -> Tree:
    """Returns all variables but the parameters: the `stats` of `split`, after a call."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))


def abstract(build: Any) -> Any:
    """Runs ``build() -> module`` without making an array; its leaves are shapes and dtypes."""
    return nnx.eval_shape(build)


def sizes(model: nnx.Module) -> dict[str, int]:
    """Returns how many numbers every parameter has, by path; padding of `TaskParam` left out."""

    def size(variable):
        return int(variable.get_value().size * variable.get_metadata("used", 1))

    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {"/".join(map(str, path)): size(variable) for path, variable in flat}


def parameter_table(model: nnx.Module, *, depth: int = 2) -> list[tuple[str, int]]:
    """Counts parameters by component.

    Args:
      model: any module, abstract or not.
      depth: how many keys of a path name a component.

    Returns: ``(path prefix, count)`` rows in tree order, and ``("total", count)`` at the end.
    """
    counts: dict[str, int] = {}
    for path, size in sizes(model).items():
        component = "/".join(path.split("/")[:depth])
        counts[component] = counts.get(component, 0) + size
    return [*counts.items(), ("total", sum(counts.values()))]
