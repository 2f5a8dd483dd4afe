"""One self-contained HTML page about one or many runs."""

import base64
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

from mtl_vision import files
from mtl_vision.report import charts
from mtl_vision.report.runs import Run, gains
from mtl_vision.tasks import KINDS

SECTIONS = (("loss/", "Losses"), ("eval/", "Scores during training"), ("tasks/", "Tasks"))


def write(file: pathlib.Path, runs: Sequence[Run], base: Run | None = None) -> None:
    """Writes the page about `runs`, in this order; Delta_m is counted from `base`."""
    write_whole(file, render(runs, base))


def write_whole(file: pathlib.Path, text: str) -> None:
    """Writes a text file that is either whole or the old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(file) as new:
        new.write_text(text, encoding="utf-8")


def environment() -> jinja2.Environment:
    """Returns what renders the pages: it escapes what it shows and refuses what it lacks."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mtl_vision.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(runs: Sequence[Run], base: Run | None = None) -> str:
    """Returns the page as HTML that fetches nothing and escapes what it shows."""
    colors = {run.name: charts.COLORS[i % len(charts.COLORS)] for i, run in enumerate(runs)}
    return (
        environment()
        .get_template("page.html")
        .render(
            runs=runs,
            colors=colors,
            base=base,
            scores=score_table(runs, base),
            charts=curve_sections(runs, colors),
            differences=differences(runs),
            viewers=viewers(runs),
            maps=maps(runs),
            chart_size=(charts.WIDTH, charts.HEIGHT, charts.LEFT, charts.BOTTOM),
        )
    )


def score_table(runs: Sequence[Run], base: Run | None) -> list[dict[str, Any]]:
    """Returns a row per task, the best cell marked, and Delta_m against `base` as the last row."""
    rows = []
    tasks = {task.name: task for run in runs for task in run.tasks}
    for name, task in tasks.items():
        scores = [run.scores.get(name) for run in runs]
        known = [s * task.sign for s in scores if s is not None]
        best = max(known) if len(known) > 1 else None
        cells = [(_short(s), s is not None and s * task.sign == best) for s in scores]
        arrow = "↑" if task.sign > 0 else "↓"
        rows.append(dict(name=name, metric=f"{task.score} {arrow}", cells=cells))
    if base is not None:
        found = [gains(run, base) for run in runs]
        cells = [("" if g is None else f"{g:+.2f}", False) for g in found]
        rows.append(dict(name="Δm", metric=f"% against {base.name} ↑", cells=cells))
    return rows


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def curve_sections(runs: Sequence[Run], colors: dict[str, str]) -> list[dict[str, Any]]:
    """Returns the charts of what was logged, by section; what is no section's comes last."""
    names = list(dict.fromkeys(name for run in runs for name in run.curves))
    names = [name for name in names if not name.startswith("tasks/cosine/")]
    sections = {title: [] for _, title in SECTIONS} | {"Everything else": []}
    for name in names:
        found = next(((p, t) for p, t in SECTIONS if name.startswith(p)), ("", "Everything else"))
        curves = {run.name: run.curves[name] for run in runs if name in run.curves}
        drawn = charts.chart(name.removeprefix(found[0]), curves, colors)
        if drawn.lines:
            sections[found[1]].append(drawn)
    return [dict(title=title, charts=drawn) for title, drawn in sections.items() if drawn]


def differences(runs: Sequence[Run]) -> dict[str, list[tuple[str, list[str], bool]]]:
    """Returns the fields in which the runs' configs differ, and those in which they agree."""
    flats = [_flat(run.config) for run in runs]
    fields = dict.fromkeys(field for flat in flats for field in flat)
    rows = [(field, [_text(flat.get(field, "(absent)")) for flat in flats]) for field in fields]
    marked = [(field, cells, len(set(cells)) > 1) for field, cells in rows]
    return {
        "differ": [row for row in marked if row[2]],
        "agree": [row for row in marked if not row[2]],
    }


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    found = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else repr(value)


def viewers(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns, by dataset and image, a viewer per task and run."""
    found = []
    datasets = dict.fromkeys(dataset for run in runs for dataset in run.pictures)
    for dataset in datasets:
        numbers = sorted({n for run in runs for n in run.pictures.get(dataset, {})})
        for number in numbers:
            shown = [(run, run.pictures.get(dataset, {}).get(number, {})) for run in runs]
            if shown := [(run, files) for run, files in shown if "image" in files]:
                found.append(_viewer(dataset, number, shown))
    return found


def _viewer(dataset: str, number: str, shown: Sequence[tuple[Run, Any]]) -> dict[str, Any]:
    """Image and labels are those of the first run that has them: they are the same for all."""

    def pictures(what: str) -> list[tuple[str, str]]:
        return [(r.name, data_uri(f[what].read_bytes())) for r, f in shown if what in f]

    kinds = [
        (kind, labels[0][1], pictures(f"{kind}_prediction"))
        for kind in KINDS
        if (labels := pictures(f"{kind}_label"))
    ]
    image = pictures("image")[0][1]
    return dict(dataset=dataset, number=int(number) + 1, image=image, kinds=kinds)


def maps(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns the last drawn map of every name and run."""
    return [
        dict(run=run.name, name=name, step=drawn[-1][0], uri=data_uri(drawn[-1][1].read_bytes()))
        for run in runs
        for name, drawn in run.maps.items()
    ]


def data_uri(data: bytes, kind: str = "png") -> str:
    """Returns the content of a picture's file as a ``data:`` address."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
