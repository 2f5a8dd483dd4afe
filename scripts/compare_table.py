"""The table of `compare.py`: the runs of a study that are finished."""

import json
import pathlib
import re
import statistics
from typing import Any

SEEDS = range(10)


def folder(out: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Returns the run folder of a row: ``lora``, ``lora.1`` for seed 1."""
    stem = re.sub(r"\W+", "_", name)
    return out / (f"{stem}.{seed}" if seed else stem)


def finished(out: pathlib.Path, name: str) -> dict[int, pathlib.Path]:
    """Returns the finished runs of a row by seed."""
    runs = {seed: folder(out, name, seed) for seed in SEEDS}
    return {seed: run for seed, run in runs.items() if (run / "final_metrics.json").exists()}


def scores(tasks, workdir: pathlib.Path) -> dict[str, float]:
    """Returns the score of every task of a finished run."""
    found = json.loads((workdir / "final_metrics.json").read_text())["metrics"]
    return {task.name: found[f"{task.name}/{task.score}"] for task in tasks}


def loss(workdir: pathlib.Path) -> float:
    """Returns the weighted sum of the losses, the mean of the last steps that were logged."""
    last = (workdir / "metrics.jsonl").read_text().splitlines()[-1]
    return json.loads(last)["loss/total"]


def costs(cfg) -> list[str]:
    """Returns what trains in the backbone and in the decoders, and millions of multiply-adds."""
    from mtl_vision import build
    from mtl_vision.models import mtl
    from mtl_vision.train import cost, plan

    _, work = cost.costs(cfg, mtl.abstract(build.model(cfg)))
    total = sum(sum(parts.values()) for parts in work.values())
    return [*(f"{n:,}" for n in plan.trained(cfg)), f"{total / 1e6:.0f}"]


def changes(found: dict[int, dict], base: dict[int, dict], tasks) -> list[float]:
    """Returns Δm against the base of the same seed, for every seed that both have."""
    from mtl_vision.metrics.delta_m import delta_m

    signs = {t.name: t.sign for t in tasks}
    return [delta_m(found[seed], base[seed], signs) for seed in found if seed in base]


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
    from mtl_vision import build
    from mtl_vision.check import check

    base, *_ = rows
    tasks = [t for group in build.groups(check(rows[base])).values() for t in group]
    heads = [f"{t.name.rpartition('/')[2]} {t.score} {'↑' if t.sign > 0 else '↓'}" for t in tasks]
    head = ["row", "backbone side", "decoders", "M mult-adds", "loss", *heads]
    head += ["Δm", f"beats {base}"]
    lines = [head, ["---", *["---:"] * (len(head) - 2), "---"]]
    against = {seed: scores(tasks, run) for seed, run in finished(out, base).items()}
    for name, values in rows.items():
        if runs := finished(out, name):
            found = {seed: scores(tasks, run) for seed, run in runs.items()}
            deltas = changes(found, against, tasks)
            means = [statistics.fmean(map(loss, runs.values()))]
            means += [statistics.fmean(s[t.name] for s in found.values()) for t in tasks]
            cells = [name, *costs(check(values)), *(f"{x:.2f}" for x in means), listed(deltas)]
            lines.append([*cells, "-" if name == base else verdict(deltas)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
