"""PASCAL-Context and NYUD-v2 as entries of `data.DATASETS`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mtl_vision.data import nyud_v2, pascal_context, records
from mtl_vision.data.records import TfdsSource
from mtl_vision.data.synthetic.labels import HUMAN_PARTS
from mtl_vision.errors import DataError

MODULES = {"pascal_context": pascal_context, "nyud_v2": nyud_v2}
CONFIGS = ("full", "partial")


@dataclass(frozen=True)
class Chosen:
    """Some examples of a source."""

    source: TfdsSource
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.source[self.indices[index]]


def tasks(name: str) -> Callable[[str], dict[str, Any]]:
    """Returns ``protocol -> {kind: Task}``."""
    return partial(_tasks, name)


def _tasks(name: str, protocol: str) -> dict[str, Any]:
    # jax is not needed to prepare, and worker processes start without it.
    from mtl_vision.tasks import TASKS

    module = MODULES[name]
    options = {
        "semseg": {"classes": module.CLASSES},
        "human_parts": {"classes": HUMAN_PARTS},
        "edge": {"max_dist": module.MAX_DIST},
    }
    return {k: TASKS[k](name, protocol, **options.get(k, {})) for k in module.KINDS}


def prepared(name: str) -> Callable[..., Any]:
    """Returns ``(root, config, split, kinds) -> source``.

    If human_parts is the only label, images without people are left out, as in the loaders of
    ASTMT; a slice such as ``train[:10%]`` keeps them.
    """
    return partial(_prepared, name)


def _prepared(name: str, root: str, config: str, split: str, kinds: tuple[str, ...]) -> Any:
    _check(name, root, config, split, kinds)
    source = TfdsSource((root, name, config), split, tuple(kinds))
    if tuple(kinds) != ("human_parts",):
        return source
    about = json.loads((records.folder(root, name, config) / "metadata.json").read_text())
    return Chosen(source, about["people"][split]) if split in about["people"] else source


def checker(name: str) -> Callable[..., None]:
    """Returns ``(root, config, split, kinds)``, which raises DataError if there is no such data."""
    return partial(_check, name)


def _check(name: str, root: str, config: str, split: str, kinds: tuple[str, ...]) -> None:
    if config not in CONFIGS:
        raise DataError(f"{name} has no config {config!r}; use {' or '.join(CONFIGS)}.")
    command = f"python scripts/prepare_data.py --dataset {name} --archive FILE --data_dir {root}"
    command += " --partial" if config == "partial" else ""
    records.check(root, name, config, split.split("[")[0], kinds, command=command)
