"""Rows of `compare_adapters.py`, and the table of those that are finished."""

import json
import pathlib

HEADS = (("backbone/.*", False), (".*", True))
# Rows that are no adapter: the rules of what trains.
PLAIN = {"decoders": HEADS, "full": ()}
# Fields that the defaults of the adapters, made for Swin-T, leave to a backbone this small.
SMALL = {
    "mtlora": dict(rank=16),
    "dora": dict(rank=16, task_rank=4),
    "tadformer": dict(rank=16),
    "vpt": dict(prompts=8, deep=True),
    "hyperformer": dict(embed=32),
    "mhr": dict(rank=4),
}


def rows() -> list[str]:
    """Returns the names of all rows."""
    from mtl_vision.models.adapters import ADAPTERS

    return [*PLAIN, *ADAPTERS]


def config(values: dict, name: str) -> dict:
    """Returns the config of one row."""
    if name in PLAIN:
        return values | {"adapter": dict(name="none"), "trainable": PLAIN[name]}
    return values | {"adapter": dict(name=name, **SMALL.get(name, {})), "trainable": ()}


def scores(cfg, workdir: pathlib.Path) -> dict[str, float]:
    """Returns the score of every task of a finished run."""
    from mtl_vision import build

    found = json.loads((workdir / "final_metrics.json").read_text())["metrics"]
    tasks = [task for group in build.groups(cfg).values() for task in group]
    return {task.name: found[f"{task.name}/{task.score}"] for task in tasks}


def loss(workdir: pathlib.Path) -> float:
    """Returns the weighted sum of the losses, the mean of the last steps that were logged."""
    last = (workdir / "metrics.jsonl").read_text().splitlines()[-1]
    return json.loads(last)["loss/total"]


def table(values: dict, out: pathlib.Path) -> str:
    """Returns the table of all finished runs as Markdown."""
    from mtl_vision import build
    from mtl_vision.check import check
    from mtl_vision.metrics.delta_m import delta_m
    from mtl_vision.train import plan

    tasks = [t for group in build.groups(check(values)).values() for t in group]
    heads = [f"{t.name.rpartition('/')[2]} {t.score} {'↑' if t.sign > 0 else '↓'}" for t in tasks]
    columns = ["adapter", "backbone side", "decoders", "loss", *heads, "Δm", "beats decoders"]
    lines = [columns, ["---", *["---:"] * (len(columns) - 2), "---"]]
    done = [n for n in rows() if (out / n / "final_metrics.json").exists()]
    base = scores(check(values), out / "decoders") if "decoders" in done else None
    for name in done:
        cfg = check(config(values, name))
        found, sides = scores(cfg, out / name), plan.trained(cfg)
        cells = [name, *(f"{n:,}" for n in sides), f"{loss(out / name):.2f}"]
        cells += [f"{found[t.name]:.2f}" for t in tasks]
        if base:
            change = delta_m(found, base, {t.name: t.sign for t in tasks})
            cells += [
                f"{change:+.2f}",
                "-" if name == "decoders" else "yes" if change > 0 else "no",
            ]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
