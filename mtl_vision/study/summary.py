"""What the runs of a study found: means over seeds, spread, and what is more than chance."""

import pathlib
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy import stats

from mtl_vision.errors import DataError
from mtl_vision.metrics.delta_m import delta_m
from mtl_vision.report import runs
from mtl_vision.report.runs import Run
from mtl_vision.study.axes import Setting
from mtl_vision.tasks import Task

ALPHA = 0.05


class Cell(NamedTuple):
    """A figure over seeds: the mean, and the standard deviation, None for one seed."""

    mean: float
    spread: float | None


class Line(NamedTuple):
    """A setting's figures.

    seeds: that are finished; without any the rest is empty or None.
    trained: parameters in encoder and decoders.
    scores: by task.
    gain: Delta_m in percent against the mean of the base setting.
    p: of Welch's two-sided test of the gain against the base's, after Holm's correction for the
      number of settings; None where a side has one seed or nothing varies.
    """

    setting: Setting
    seeds: int
    trained: tuple[int, int] | None
    scores: dict[str, Cell]
    gain: Cell | None
    p: float | None

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < ALPHA


class Study(NamedTuple):
    """The tasks, the name of the base setting, and a line per setting."""

    tasks: tuple[Task, ...]
    base: str
    lines: list[Line]


def collect(
    out: pathlib.Path, settings: Sequence[Setting], seeds: Sequence[int], base: str
) -> Study:
    """Reads the runs ``<out>/<setting>/seed<seed>``.

    Args:
      out: folder of the study.
      settings: in order.
      seeds: that the study has.
      base: name of the setting that the others are compared with.

    Raises:
      DataError: no run is finished, or the runs have different tasks or protocols.
    """
    found = {s.name: finished(out / s.name, seeds) for s in settings}
    if not any(found.values()):
        raise DataError(f"{out}: no run of the study is finished.")
    return study(settings, found, base)


def finished(folder: pathlib.Path, seeds: Sequence[int]) -> list[Run]:
    """Returns the finished runs ``<folder>/seed<seed>``."""
    workdirs = [folder / f"seed{seed}" for seed in seeds]
    return [runs.read(w) for w in workdirs if (w / "final_metrics.json").exists()]


def study(settings: Sequence[Setting], found: Mapping[str, Sequence[Run]], base: str) -> Study:
    """Summarises runs.

    Args:
      settings: in order.
      found: by the setting's name its runs, one per seed; none where nothing is finished.
      base: as for `collect`.

    Raises:
      DataError: the runs have different tasks or protocols.
    """
    tasks = same_tasks([run for of_setting in found.values() for run in of_setting])
    lines = [_line(s, found[s.name], tasks, found[base]) for s in settings]
    corrected = holm([line.p for line in lines])
    lines = [line._replace(p=p) for line, p in zip(lines, corrected, strict=True)]
    return Study(tasks, base, lines)


def same_tasks(found: Sequence[Run]) -> tuple[Task, ...]:
    """Returns the tasks of runs that can be compared, none if there are no runs.

    Raises:
      DataError: they have different tasks or protocols.
    """
    if not found:
        return ()
    first, tasks = found[0], found[0].tasks
    for run in found:
        if {t.name for t in run.tasks} != {t.name for t in tasks}:
            raise DataError(f"{run.folder} has other tasks than {first.folder}.")
        if run.config["protocol"] != first.config["protocol"]:
            raise DataError(f"{run.folder} has another protocol than {first.folder}.")
    return tasks


def _line(setting: Setting, own: Sequence[Run], tasks: Sequence[Task], base: Sequence[Run]) -> Line:
    if not own:
        return Line(setting, 0, None, {}, None, None)
    scores = {t.name: cell([run.scores[t.name] for run in own]) for t in tasks}
    trained = tuple(own[0].final["trained"].values())
    ours, theirs = (gains_of(group, base, tasks) for group in (own, base))
    if not ours:
        return Line(setting, len(own), trained, scores, None, None)
    p = welch(ours, theirs) if own is not base else None
    return Line(setting, len(own), trained, scores, cell(ours), p)


def gains_of(group: Sequence[Run], base: Sequence[Run], tasks: Sequence[Task]) -> list[float]:
    """Returns Delta_m of every run against the mean of `base`; empty if that has no meaning."""
    if not base:
        return []
    mean = {t.name: fmean(run.scores[t.name] for run in base) for t in tasks}
    if not all(mean.values()):
        return []
    return [delta_m(run.scores, mean, {t.name: t.sign for t in tasks}) for run in group]


def cell(values: Sequence[float]) -> Cell:
    """Returns mean and spread of at least one value."""
    return Cell(fmean(values), stdev(values) if len(values) > 1 else None)


def welch(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Returns p of Welch's two-sided test, None where a side has one value or nothing varies."""
    if min(len(ours), len(theirs)) < 2 or not (stdev(ours) or stdev(theirs)):
        return None
    return float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)


def holm(found: Sequence[float | None]) -> list[float | None]:
    """Returns Holm's adjusted p values (Scand. J. Statist. 6, 1979); None stays None."""
    order = sorted((p, i) for i, p in enumerate(found) if p is not None)
    adjusted, most = list(found), 0.0
    for rank, (p, i) in enumerate(order):
        most = max(most, min(1.0, (len(order) - rank) * p))
        adjusted[i] = most
    return adjusted


def front(study: Study) -> list[Line]:
    """Returns the lines that no other beats in gain with as few trained parameters, by size."""
    placed = [line for line in study.lines if line.gain and line.trained]
    best, kept = float("-inf"), []
    for line in sorted(placed, key=lambda x: (sum(x.trained), -x.gain.mean)):
        if line.gain.mean > best:
            best = line.gain.mean
            kept.append(line)
    return kept


def effects(study: Study) -> dict[str, dict[str, Cell]]:
    """Returns for every axis and value the gain over all settings with that value."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in study.lines:
        for axis, value in line.setting.at.items() if line.gain else ():
            found.setdefault(axis, {}).setdefault(value, []).append(line.gain.mean)
    return {
        axis: {value: cell(gains) for value, gains in of_axis.items()}
        for axis, of_axis in found.items()
    }
