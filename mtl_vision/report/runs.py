"""Reading run folders: what a run was asked for, what it logged, what it drew."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mtl_vision.errors import DataError
from mtl_vision.metrics.delta_m import delta_m
from mtl_vision.tasks import KINDS, TASKS, Task

PICTURES = "final_pictures"


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
      name: shown for the run.
      folder: where it is.
      config: as plain nested values.
      environment: versions and commit.
      curves: by name, the points (step, value) that were logged.
      final: what ``final_metrics.json`` holds, None while the run is not finished.
      pictures: by dataset and number of the image, the file of every picture by its name, such as
        ``image``, ``semseg_prediction`` and ``semseg_label``.
      maps: by name, such as ``conflicts``, the drawn maps (step, file) in order.
    """

    name: str
    folder: pathlib.Path
    config: dict[str, Any]
    environment: dict[str, Any]
    curves: dict[str, list[tuple[int, float]]]
    final: dict[str, Any] | None
    pictures: dict[str, dict[str, dict[str, pathlib.Path]]]
    maps: dict[str, list[tuple[int, pathlib.Path]]]

    @property
    def datasets(self) -> tuple[str, ...]:
        return tuple(k for k, v in self.config["data"].items() if isinstance(v, Mapping))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The run's tasks in the project's order; what they compute with is not set up."""
        found = []
        for dataset in self.datasets:
            kinds = self.config["data"][dataset]["tasks"]
            found += [
                _task(dataset, kind, self.config["protocol"]) for kind in KINDS if kind in kinds
            ]
        return tuple(found)

    @property
    def scores(self) -> dict[str, float]:
        """The final score by task; empty while the run is not finished."""
        metrics = self.final["metrics"] if self.final else {}
        names = {task.name: f"{task.name}/{task.score}" for task in self.tasks}
        return {task: metrics[name] for task, name in names.items() if name in metrics}


def _task(dataset: str, kind: str, protocol: str) -> Task:
    return TASKS[kind](dataset, protocol, **({"classes": ("",)} if kind == "semseg" else {}))


def read(folder: pathlib.Path, name: str = "") -> Run:
    """Returns the run in a folder.

    Raises:
      DataError: the folder holds no run, or a file of it cannot be read.
    """
    described = _json(folder / "config.json")
    if described is None:
        raise DataError(f"{folder} is no run folder: it has no config.json.")
    try:
        return Run(
            name=name or folder.name,
            folder=folder,
            config=described["config"],
            environment=described["environment"],
            curves=_curves(folder / "metrics.jsonl"),
            final=_json(folder / "final_metrics.json"),
            pictures=_pictures(folder / PICTURES),
            maps=_maps(folder / "panels", described["config"]["data"]),
        )
    except (KeyError, TypeError, AttributeError) as e:
        raise DataError(f"{folder / 'config.json'} is not that of a run: {e!r}.") from e


def merged(parts: Sequence[Run]) -> Run:
    """Returns finished runs with tasks of their own as if they were one that trained all of them.

    Raises:
      DataError: a task is in two of them, or they have different protocols.
    """
    if len(parts) == 1:
        return parts[0]
    data: dict[str, Any] = {}
    for run in parts:
        for dataset in run.datasets:
            own = run.config["data"][dataset]
            before = data.setdefault(dataset, own | {"tasks": []})["tasks"]
            if twice := set(before) & set(own["tasks"]):
                raise DataError(f"{run.folder} has {min(twice)} of {dataset}, as another run has.")
            data[dataset] = own | {"tasks": [*before, *own["tasks"]]}
    if len({run.config["protocol"] for run in parts}) > 1:
        raise DataError(f"{parts[0].folder} and others have different protocols.")
    finals = [run.final for run in parts]
    trained = {side: sum(f["trained"][side] for f in finals) for side in finals[0]["trained"]}
    metrics = {
        name: value
        for run in parts
        for name, value in run.final["metrics"].items()
        if name.rpartition("/")[0] in {task.name for task in run.tasks}
    }
    return replace(
        parts[0],
        config=parts[0].config | {"data": data},
        final=finals[0] | {"trained": trained, "metrics": metrics},
    )


def read_all(folders: Sequence[pathlib.Path]) -> list[Run]:
    """Returns the runs of several folders, named by what tells their paths apart."""
    absolute = [folder.resolve() for folder in folders]
    if len(set(absolute)) < len(absolute):
        raise DataError("the same run folder is given twice.")
    shared = _shared_parent(absolute)
    return [read(f, str(a.relative_to(shared))) for f, a in zip(folders, absolute, strict=True)]


def _shared_parent(folders: Sequence[pathlib.Path]) -> pathlib.Path:
    parents = [{*folder.parents} for folder in folders]
    return max(set.intersection(*parents), key=lambda p: len(p.parts))


def _json(file: pathlib.Path) -> Any:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise DataError(f"{file} cannot be read: {e}.") from e


def _curves(file: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    if not file.exists():
        return found
    for line in file.read_text().splitlines():
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # the last line of a run that goes on
        for name, value in values.items():
            if isinstance(value, int | float):
                found.setdefault(name, []).append((step, float(value)))
    return found


def _pictures(folder: pathlib.Path) -> dict[str, dict[str, dict[str, pathlib.Path]]]:
    found: dict[str, dict[str, dict[str, pathlib.Path]]] = {}
    for file in sorted(folder.glob("*/*_*.png")):
        number, _, what = file.stem.partition("_")
        found.setdefault(file.parent.name, {}).setdefault(number, {})[what] = file
    return found


def _maps(folder: pathlib.Path, datasets: Mapping) -> dict[str, list[tuple[int, pathlib.Path]]]:
    """Returns the drawn maps; sheets of predictions, named by their dataset, are none."""
    found: dict[str, list[tuple[int, pathlib.Path]]] = {}
    for file in sorted(folder.glob("*_*.png")):
        name, _, step = file.stem.rpartition("_")
        if name not in datasets and step.isdigit():
            found.setdefault(name, []).append((int(step), file))
    return found


def gains(run: Run, base: Run) -> float | None:
    """Returns Delta_m of a run against another in percent, None unless both have the same tasks."""
    if run.config["protocol"] != base.config["protocol"]:
        return None
    signs = {task.name: task.sign for task in run.tasks}
    if not signs or run.scores.keys() != signs.keys() or base.scores.keys() != signs.keys():
        return None
    if not all(base.scores.values()):
        return None
    return delta_m(run.scores, base.scores, signs)
