"""From entries of a table to runs: which there are, in which folders, what is finished.

An entry, such as ``mini:swin.mtlora_r16`` or ``mini:swin.full@semseg``, is a config and its row,
see `tables.entries.load`. Its runs are ``<out>/<entry, dots for / and :>/seed<seed>``, so that
tables share them.
"""

import pathlib
from collections.abc import Iterable, Sequence

from mtl_vision.report import runs
from mtl_vision.report.runs import Run
from mtl_vision.study.jobs import Job, values
from mtl_vision.tables.entries import load

MINI = "runs/mini/"  # where configs of the small problem look for their backbone


def place(entry: str, seed: int) -> str:
    """Returns the folder of a run below that of all."""
    return f"{entry.replace('/', '.').replace(':', '.', 1)}/seed{seed}"


def plan(
    entries: Iterable[str], seeds: Sequence[int], out: pathlib.Path, more: Sequence[str] = ()
) -> list[list[Job]]:
    """Returns the runs of entries in two stages, the backbones that others start from first.

    Args:
      entries: any number of times each.
      seeds: every entry is run with each; a backbone with the first of all, 0.
      out: folder of all runs.
      more: overrides ``field=value`` of every run.
    """
    first: dict[str, Job] = {}
    then: dict[str, Job] = {}
    for entry in dict.fromkeys(entries):
        for seed in seeds:
            job = of(entry, seed, more)
            start = values(job)["init_from"]
            if start.startswith(MINI):
                name = start.removeprefix(MINI).split("/")[0]
                first[name] = of(name.replace(".", ":", 1), 0, more)
                own = f"init_from={out / first[name].name}"
                job = job._replace(overrides=(*job.overrides, own))
            then[job.name] = job
    return [list(first.values()), list(then.values())]


def of(entry: str, seed: int, more: Sequence[str]) -> Job:
    """Returns the run of an entry with a seed."""
    config, overrides = load(entry)
    return Job(place(entry, seed), config, (*overrides, *more, f"seed={seed}"))


def finished(entries: Sequence[str], seeds: Sequence[int], out: pathlib.Path) -> list[Run]:
    """Returns, for every seed with which all entries of a row are finished, them as one run."""
    found = []
    for seed in seeds:
        folders = [out / place(entry, seed) for entry in entries]
        if folders and all((f / "final_metrics.json").exists() for f in folders):
            found.append(runs.merged([runs.read(f) for f in folders]))
    return found
