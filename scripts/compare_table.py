"""The table of `compare.py`: the runs of a study that are finished."""

import pathlib
import re
import statistics
from typing import Any

from mtl_vision.report import runs

SEEDS = range(10)


def folder(out: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Returns the run folder of a row: ``lora``, ``lora.1`` for seed 1."""
    stem = re.sub(r"\W+", "_", name)
    return out / (f"{stem}.{seed}" if seed else stem)


def finished(out: pathlib.Path, name: str) -> dict[int, runs.Run]:
    """Returns the finished runs of a row by seed."""
    places = {seed: folder(out, name, seed) for seed in SEEDS}
    done = {seed: run for seed, run in places.items() if (run / "final_metrics.json").exists()}
    return {seed: runs.read(run) for seed, run in done.items()}


def loss(run: runs.Run) -> float:
    """Returns the weighted sum of the losses, the mean of the last steps that were logged."""
    return run.curves["loss/total"][-1][1]


def costs(cfg) -> list[str]:
    """Returns what trains in the backbone and in the decoders, and millions of multiply-adds."""
    from mtl_vision import build
    from mtl_vision.models import mtl
    from mtl_vision.train import cost, plan

    _, work = cost.costs(cfg, mtl.abstract(build.model(cfg)))
    total = sum(sum(parts.values()) for parts in work.values())
    return [*(f"{n:,}" for n in plan.trained(cfg)), f"{total / 1e6:.0f}"]


def listed(deltas: list[float]) -> str:
    """Returns their mean, and where there are several, each."""
    if not deltas:
        return "-"
    each = f" ({', '.join(f'{d:+.2f}' for d in deltas)})" if len(deltas) > 1 else ""
    return f"{statistics.fmean(deltas):+.2f}{each}"


def verdict(deltas: list[float]) -> str:
    """Returns whether all seeds agree that a row is better, or not."""
    if not deltas:
        return "-"
    return "yes" if min(deltas) > 0 else "no" if max(deltas) <= 0 else "unclear"


def table(rows: dict[str, dict[str, Any]], out: pathlib.Path) -> str:
    """Returns the table of all finished runs as Markdown.

    Args:
      rows: config of every row as plain values; the first is the base.
      out: folder of the runs.
    """
    from mtl_vision.check import check

    done = {name: found for name in rows if (found := finished(out, name))}
    base = next(iter(rows))
    tasks = next((run.tasks for found in done.values() for run in found.values()), ())
    heads = [f"{t.kind} {t.score} {'↑' if t.sign > 0 else '↓'}" for t in tasks]
    head = ["row", "backbone side", "decoders", "M mult-adds", "loss", *heads]
    head += ["Δm", f"beats {base}"]
    lines = [head, ["---", *["---:"] * (len(head) - 2), "---"]]
    against = done.get(base, {})
    for name, found in done.items():
        deltas = [runs.gains(run, against[seed]) for seed, run in found.items() if seed in against]
        means = [statistics.fmean(map(loss, found.values()))]
        means += [statistics.fmean(run.scores[t.name] for run in found.values()) for t in tasks]
        cells = [name, *costs(check(rows[name])), *(f"{x:.2f}" for x in means), listed(deltas)]
        lines.append([*cells, "-" if name == base else verdict(deltas)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
