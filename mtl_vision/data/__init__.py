"""Datasets: what they label, the tasks that makes, and where their examples come from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtl_vision.data import real
from mtl_vision.data.synthetic import dataset as synthetic

Source = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Dataset:
    """One dataset.

    Attributes:
      name: folder of the prepared data under the root.
      kinds: what it labels, in the order of `tasks.KINDS`.
      tasks: ``tasks(protocol) -> {kind: Task}``.
      source: ``source(root, config, split, kinds)`` -> prepared examples.
      check: ``check(root, config, split, kinds)`` raises DataError, with the command that
        prepares the dataset, if it is absent.
      memory: ``memory(config, split, kinds, seed=0)`` -> examples rendered into memory; None for
        datasets that are not synthetic.
      split: what the papers report.
    """

    name: str
    kinds: tuple[str, ...]
    tasks: Callable[[str], Mapping[str, Any]]
    source: Callable[..., Source]
    check: Callable[..., None]
    memory: Callable[..., Source] | None = None
    split: str = "test"


SYNTHETIC = {
    name: Dataset(
        name,
        kinds=synthetic.KINDS[name],
        tasks=synthetic.tasks(name),
        source=synthetic.prepared(name),
        check=synthetic.checker(name),
        memory=synthetic.memory(name),
    )
    for name in synthetic.DOMAINS
}
REAL = {
    name: Dataset(
        name,
        kinds=module.KINDS,
        tasks=real.tasks(name),
        source=real.prepared(name),
        check=real.checker(name),
        split=module.SPLIT,
    )
    for name, module in real.MODULES.items()
}
DATASETS: dict[str, Dataset] = SYNTHETIC | REAL
