"""The stream axis of activations ``[S, B, ..., C]``, and the tasks of one dataset.

S is 1 until a layer opens task streams, then `shared` + T: the shared stream first if it is kept,
one stream per task after it.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError, nearest
from mtl_vision.models.layers import Identity, TaskParam

BY_DATASET = "by_dataset"  # in the paths below a `ByDataset`


class SharedOnly(nnx.Module):
    """A hand-over that ends the task streams: the next stage starts from the shared one."""

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        del key
        return x[:1]


class Open(nnx.Module):
    """An entry that opens the task streams, as copies: ``[1, B, ..., C]`` -> ``[S, B, ..., C]``.

    What was the entry before, `entry`, acts on the one stream.
    """

    def __init__(self, entry: nnx.Module, tasks: tuple[str, ...], shared: int):
        self.entry, self.tasks, self.shared = entry, tasks, shared

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        x = self.entry(x, key=key)
        return jnp.broadcast_to(x, (self.shared + len(self.tasks), *x.shape[1:]))

    def select(self, start: int, stop: int) -> None:
        """Narrows the tasks."""
        self.tasks = self.tasks[start:stop]


def dataset_of(task: str) -> str:
    """Returns the dataset of a task's name, ``all`` for a plain one."""
    return task.rpartition("/")[0] or "all"


class ByDataset(nnx.Module):
    """One module per dataset, of which `select` chooses one.

    A `TaskParam` inside has the tasks of its dataset alone. What is not a parameter, such as
    running statistics, could not be in slices.

    Args:
      tasks: names; see `dataset_of`.
      make: ``(dataset, number of its tasks) -> module``.
    """

    def __init__(self, tasks: tuple[str, ...], make: Callable[[str, int], nnx.Module]):
        self.owners = tuple(map(dataset_of, tasks))
        counts = Counter(self.owners)
        self.by_dataset = nnx.Dict({name: make(name, count) for name, count in counts.items()})

    @property
    def chosen(self) -> nnx.Module:
        """That of the dataset whose tasks the backbone serves."""
        (dataset,) = set(self.owners)
        return self.by_dataset[dataset]

    def select(self, start: int, stop: int) -> None:
        """Narrows the tasks."""
        self.owners = self.owners[start:stop]


def task_streams(x: jax.Array, shared: int, count: int) -> jax.Array:
    """Returns the streams of the tasks, ``[T, B, ..., C]``, as copies if none are open yet.

    Args:
      x: ``[S, B, ..., C]`` with S = 1 or `shared` + `count`.
      shared: 0 or 1 leading streams that belong to all tasks.
      count: T.
    """
    if x.shape[0] == shared + count:
        return x[shared:]
    return jnp.broadcast_to(x[:1], (count, *x.shape[1:]))


def open_streams(backbone: Any, *, trunk: bool) -> None:
    """Declares, in place, that task streams run through all of `backbone`.

    Stages hand them over, and layers that would give a task the frozen response of the shared
    stream (those with an attribute `carried`) give it that of its own. A scan needs as many
    streams at its end as at its start, so a scanned backbone opens them at its entry; any other
    does at the first layer that needs them.

    Args:
      backbone: its `tasks` are set.
      trunk: whether to keep the shared stream beside those of the tasks, as `backbone.shared`
        then says. It is kept anyway where an adapter before needs it.

    Raises:
      ConfigError: an adapter before makes streams of its own kind.
    """
    check_handover(backbone)
    holders = [m for _, m in nnx.iter_modules(backbone) if hasattr(m, "carried")]
    backbone.shared = int(trunk or len(holders) > 1)
    backbone.handover = Identity()
    if getattr(backbone, "scan", False):
        opened = [m for _, m in nnx.iter_modules(backbone.entry) if isinstance(m, Open)]
        if opened:
            opened[0].shared = backbone.shared
        else:
            backbone.entry = Open(backbone.entry, backbone.tasks, backbone.shared)
    for module in holders:
        module.carried = True


def end_streams(backbone: Any, adapter: str, remedy: str) -> None:
    """Lets the task streams that open in the last block of a stage end with it, in place.

    Args:
      backbone: Swin or ViT.
      adapter, remedy: what the message calls the adapter, and what it says to do.

    Raises:
      ConfigError: an adapter before has ended the shared stream.
    """
    if not backbone.shared:
        raise ConfigError(
            f"config.adapter: {adapter} needs the shared stream, which an adapter before it has "
            f"ended; {remedy}."
        )
    check_handover(backbone)
    if hasattr(backbone, "detach"):
        backbone.detach()
    if not backbone.carried:
        backbone.handover = SharedOnly()


def check_handover(backbone: Any) -> None:
    """Raises ConfigError if an adapter has put in a hand-over that no other may take out."""
    if not isinstance(backbone.handover, Identity | SharedOnly):
        raise ConfigError(
            "config.adapter: an adapter before opens and ends the streams of tasks itself, as "
            "task_prompter and tadformer do; use it without another that does."
        )


def task_axis(path: str) -> int:
    """Returns which axis of the `TaskParam` at `path` is the tasks: 1 in stacked blocks, else 0."""
    return int("segments" in path.split("/"))


def copy(module: Any, change: Callable[[str, Any], Any] = lambda path, variable: variable) -> Any:
    """Returns a module of the same structure on the same variables, but for those changed.

    Args:
      module: any module.
      change: ``(path, variable) -> variable``.
    """
    graphdef, state = nnx.split(module)
    flat = [(path, change("/".join(map(str, path)), v)) for path, v in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def select(backbone: Any, dataset: str) -> Any:
    """Returns the backbone for the tasks of one dataset.

    It is a copy that shares all variables with `backbone`, but for a slice of every `TaskParam`
    outside of a `ByDataset`. A module that knows its tasks otherwise has a method
    ``select(start, stop)``, called on its copy.

    Args:
      backbone: one whose `tasks` are names ``dataset/kind``, in the order of the task axis, or
        plain names, which belong to any dataset.
      dataset: its name.

    Raises:
      ConfigError: no task belongs to `dataset`.
    """
    owners = [name.rpartition("/")[0] for name in backbone.tasks]
    if set(owners) <= {"", dataset}:
        return backbone
    if dataset not in owners:
        raise ConfigError(
            f"dataset {dataset!r} has no task in the adapters, which were built for "
            f"{', '.join(backbone.tasks)}.{nearest(dataset, owners)}"
        )
    start = owners.index(dataset)
    return _sliced(backbone, start, start + owners.count(dataset))


def _sliced(backbone: Any, start: int, stop: int) -> Any:
    def narrow(path, variable):
        if not isinstance(variable, TaskParam) or BY_DATASET in path.split("/"):
            return variable
        value = jax.lax.slice_in_dim(variable[...], start, stop, axis=task_axis(path))
        return variable.replace(value)

    made = copy(backbone, narrow)
    for _, module in nnx.iter_modules(made):
        if hasattr(module, "select"):
            module.select(start, stop)
    made.tasks = backbone.tasks[start:stop]
    return made
