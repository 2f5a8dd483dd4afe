"""A study as Markdown, CSV and one self-contained HTML page."""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import Any

from mtl_vision.report import charts, page
from mtl_vision.study.summary import ALPHA, Cell, Line, Study, effects, front

NOTE = (
    f"Mean ± standard deviation over seeds. Δm in percent against the mean of {{base}}; "
    f"* where it differs from it with p < {ALPHA} (Welch's test, Holm's correction)."
)


def write(study: Study, out: pathlib.Path, title: str) -> list[pathlib.Path]:
    """Writes ``summary.md``, ``summary.csv`` and ``index.html`` into `out`; returns the files."""
    note = NOTE.format(base=study.base)
    texts = {
        "summary.md": f"# {title}\n\n{note}\n\n{markdown(study)}",
        "summary.csv": to_csv(study),
        "index.html": html(study, title, note),
    }
    files = [out / name for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        page.write_whole(file, text)
    return files


def heads(study: Study) -> list[str]:
    """Returns the names of the columns."""
    return ["setting", "seeds", "encoder (M)", "decoders (M)", *scores(study), "Δm ↑"]


def scores(study: Study) -> list[str]:
    """Returns the names of the tasks' scores, with datasets where there are several."""
    arrows = {1: "↑", -1: "↓"}
    several = len({t.dataset for t in study.tasks}) > 1
    return [f"{t.name if several else t.kind} {t.score} {arrows[t.sign]}" for t in study.tasks]


def cells(study: Study, line: Line) -> list[str]:
    """Returns a line's columns as text."""
    trained = [f"{n / 1e6:.3f}" for n in line.trained] if line.trained else ["–", "–"]
    found = [shown(line.scores.get(t.name), 3 if t.kind == "depth" else 2) for t in study.tasks]
    gain = shown(line.gain, 2, sign=True) + (" *" if line.significant else "")
    return [line.setting.name, str(line.seeds), *trained, *found, gain]


def shown(cell: Cell | None, digits: int, *, sign: bool = False) -> str:
    """Returns ``mean ± spread``."""
    if cell is None:
        return "–"
    mean = round(cell.mean, digits) + 0.0  # no -0
    text = f"{mean:{'+' if sign else ''}.{digits}f}"
    return text if cell.spread is None else f"{text} ± {cell.spread:.{digits}f}"


def markdown(study: Study) -> str:
    """Returns the table as Markdown."""
    rows = [heads(study), ["---", *["---:"] * (len(heads(study)) - 1)]]
    rows += [cells(study, line) for line in study.lines]
    return "".join(f"| {' | '.join(c.replace('|', '/') for c in row)} |\n" for row in rows)


def to_csv(study: Study) -> str:
    """Returns full figures, a column each for mean and spread."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [t.name for t in study.tasks]
    spreads = [column for name in [*names, "delta_m"] for column in (name, f"{name} spread")]
    writer.writerow(["setting", "seeds", "encoder", "decoders", *spreads, "p"])
    for line in study.lines:
        figures = [line.scores.get(name) for name in names] + [line.gain]
        pairs = [x for f in figures for x in (f or ("", ""))]
        row = [line.setting.name, line.seeds, *(line.trained or ("", "")), *pairs, line.p]
        writer.writerow(["" if x is None else x for x in row])
    return text.getvalue()


def html(study: Study, title: str, note: str) -> str:
    """Returns the page: the table, gain against parameters, and the effect of every axis."""
    points = [
        (sum(line.trained) / 1e6, line.gain.mean, line.gain.spread or 0.0, line.setting.name)
        for line in study.lines
        if line.gain and line.trained
    ]
    best = {line.setting.name for line in front(study)}
    return (
        page.environment()
        .get_template("study.html")
        .render(
            title=title,
            note=note,
            heads=heads(study),
            rows=[
                (line.setting.name, cells(study, line), best_of(study, line))
                for line in study.lines
            ],
            scatter=charts.scatter(points, best) if points else None,
            effects=[charts.dots(axis, values) for axis, values in effects(study).items()],
            size=(charts.WIDTH, charts.HEIGHT),
        )
    )


def best_of(study: Study, line: Line) -> Sequence[bool]:
    """Says for every column whether the line's figure is the best of it."""
    marks: list[Any] = [False] * 4
    for task in study.tasks:
        means = {
            x.setting.name: x.scores[task.name].mean * task.sign for x in study.lines if x.scores
        }
        marks.append(bool(line.scores) and means[line.setting.name] == max(means.values()))
    gains = {x.setting.name: x.gain.mean for x in study.lines if x.gain}
    marks.append(line.setting.name in gains and line.gain.mean == max(gains.values()))
    return marks
