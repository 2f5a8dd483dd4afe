"""A rebuilt table, and answered claims, as Markdown, CSV and self-contained HTML pages."""

import csv
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from mtl_vision.report import charts, page
from mtl_vision.study import pages
from mtl_vision.study.answers import Answer
from mtl_vision.study.summary import Cell, front
from mtl_vision.study.table import Rebuilt
from mtl_vision.tables import Row

UNSURE = " (?)"
INTRODUCTION = """\
Written by `python scripts/reproduce.py --results docs/results.md --seeds {seeds}` from run folders.
No figure here is of the real datasets: every run is of the small problem of `configs/mini.py`,
whose images are rendered, and says how methods compare there. A figure without a spread is of one
seed."""
NOTES = {
    "paper": "ours and the difference to the paper, mean ± standard deviation over seeds",
    "mini": "ours is the small problem of configs/mini.py: other images, another backbone, other "
    "metrics than the paper's, so only the order of rows can be compared",
}


class Column(NamedTuple):
    """What a column is about, and whose figures it has: ``paper``, ``ours`` or ``difference``."""

    about: str
    whose: str


def columns(found: Rebuilt) -> list[Column]:
    """Returns the columns behind the row's name."""
    abouts = [*pages.scores(found.study), "Δm ↑"]
    return [
        *(Column(about, side) for about in abouts for side in sides(found)),
        *(Column(f"{what} (M)", side) for what in counted(found) for side in sides(found)[:2]),
        Column("seeds", "ours"),
    ]


def counted(found: Rebuilt) -> tuple[str, ...]:
    """Returns which parameters are shown: all that train, as papers do, or both parts of them."""
    return ("trained",) if "paper" in sides(found) else ("encoder", "decoders")


def sides(found: Rebuilt) -> tuple[str, ...]:
    """Returns whose figures there are; no paper's where none has published any."""
    if not any(row.values for row in found.rows):
        return ("ours",)
    return ("paper", "ours", "difference") if found.scale == "paper" else ("paper", "ours")


def heads(found: Rebuilt) -> list[str]:
    """Returns the names of the columns in one line, the row's among them."""
    alone = sides(found) == ("ours",)
    return ["row", *(c.about if alone else f"{c.about}, {c.whose}" for c in columns(found))]


def cells(found: Rebuilt, row: Row) -> list[str]:
    """Returns a row's figures as text, in the order of `columns`."""
    line, texts = found.line(row), []
    for task in found.study.tasks:
        key = found.table.scores.get(task.kind)
        texts += compared(found, row, line.scores.get(task.name), key)
    texts += compared(found, row, line.gain, found.table.delta, 1 if better_up(found) else -1)
    if line.gain and line.significant:
        texts[-1 if sides(found)[-1] == "ours" else -2] += " *"
    sizes = line.trained or ()
    if "paper" in sides(found):
        texts.append(published(row, found.table.params, 1))
        sizes = (sum(sizes),) if sizes else ()
    texts += [f"{size / 1e6:.3f}" for size in sizes] or ["–"] * len(counted(found))
    return [*texts, str(line.seeds)]


def compared(
    found: Rebuilt, row: Row, ours: Cell | None, key: str | None, gain: int = 0
) -> list[str]:
    """Returns theirs, ours, and the difference, as far as there are such columns.

    Args:
      found, row, ours: the row and our figure.
      key: of the published figure.
      gain: 1 or -1 for Delta_m, the sign of a gain as published.
    """
    value = row.values.get(key or "")
    known = ours is not None and value is not None
    texts = {
        "paper": published(row, key, gain or 1, signed=bool(gain)),
        "ours": pages.shown(ours, 2, sign=bool(gain)),
        "difference": f"{ours.mean - (gain or 1) * value:+.2f}" if known else "–",
    }
    return [texts[side] for side in sides(found)]


def published(row: Row, key: str | None, factor: int, *, signed: bool = False) -> str:
    """Returns a published figure, marked if no source confirms it."""
    value = row.values.get(key or "")
    if value is None:
        return "–"
    number = factor * value + 0.0  # no -0
    return f"{number:{'+' if signed else ''}.2f}{'' if row.sure else UNSURE}"


def better_up(found: Rebuilt) -> bool:
    return found.table.higher_is_better_delta


def note(found: Rebuilt) -> str:
    """Says what the figures are."""
    of_scale = NOTES["paper" if found.scale == "paper" else "mini"]
    label = next(r.label for r in found.rows if r.id == found.base)
    turned = "" if better_up(found) else ", Δm with its sign changed"
    theirs = f"paper: as published{turned}; (?) not confirmed by any source. {of_scale}. "
    return (
        f"{theirs if 'paper' in sides(found) else ''}Δm in percent against the mean of “{label}”; "
        "* where it differs with p < 0.05 (Welch's test, Holm's correction)."
    )


def write(found: Rebuilt, out: pathlib.Path) -> list[pathlib.Path]:
    """Writes ``<table>.<scale>.md``, ``.csv`` and ``.html`` into `out`; returns the files."""
    texts = {
        "md": f"# {found.table.title}\n\n{note(found)}\n\n{markdown(found)}",
        "csv": to_csv(found),
        "html": html(found),
    }
    files = [out / f"{found.name}.{found.scale}.{end}" for end in texts]
    for file, text in zip(files, texts.values(), strict=True):
        page.write_whole(file, text)
    return files


def markdown(found: Rebuilt) -> str:
    """Returns the table as Markdown."""
    head = heads(found)
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    rows += [[row.label, *cells(found, row)] for row in found.rows]
    return as_markdown(rows)


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(c.replace('|', '/') for c in row)} |\n" for row in rows)


def to_csv(found: Rebuilt) -> str:
    """Returns the same table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads(found))
    writer.writerows([row.label, *cells(found, row)] for row in found.rows)
    return text.getvalue()


def html(found: Rebuilt) -> str:
    """Returns the page: the table, and gain against trained parameters."""
    groups: dict[str, list[str]] = {}
    for column in columns(found):
        groups.setdefault(column.about, []).append(column.whose)
    labels = {row.id: row.label for row in found.rows}
    points = [
        (sum(x.trained) / 1e6, x.gain.mean, x.gain.spread or 0.0, labels[x.setting.name])
        for x in found.study.lines
        if x.gain and x.trained
    ]
    best = {labels[x.setting.name] for x in front(found.study)}
    return rendered(
        "table.html",
        title=found.table.title,
        note=note(found),
        groups=groups,
        alone=sides(found) == ("ours",),
        whose=[c.whose for c in columns(found)],
        rows=[(row, cells(found, row)) for row in found.rows],
        scatter=charts.scatter(points, best) if points else None,
    )


def write_claims(answers: Sequence[Answer], out: pathlib.Path) -> list[pathlib.Path]:
    """Writes ``claims.md`` and ``claims.html`` into `out`; returns the files."""
    files = [out / "claims.md", out / "claims.html"]
    page.write_whole(files[0], f"# Claims on the small problem\n\n{claims_markdown(answers)}")
    tables = [claim_table(a) for a in answers]
    text = rendered("claims.html", answers=list(zip(answers, tables, strict=True)))
    page.write_whole(files[1], text)
    return files


def claims_markdown(answers: Sequence[Answer]) -> str:
    """Returns a section per claim: question, what is published, the answer, the table."""
    parts = []
    for found in answers:
        first, *rest = found.sentences
        lines = [f"## {found.claim.question}", "", f"Published: {found.claim.published}", ""]
        lines += [f"**Here: {found.verdict}.** {first}", "", *(f"- {text}" for text in rest), ""]
        head, *rows = claim_table(found) or [[]]
        if rows:
            lines.append(as_markdown([head, ["---", *["---:"] * (len(head) - 1)], *rows]))
        parts.append("\n".join(lines))
    return "\n".join(parts)


def results(tables: Sequence[Rebuilt], answers: Sequence[Answer], seeds: int) -> str:
    """Returns a document of all answers, and of the rows of all tables that were run."""
    introduction = INTRODUCTION.format(seeds=seeds)
    parts = ["# Results", introduction, "# Claims", claims_markdown(answers)]
    for found in tables:
        done = [row for row in found.rows if found.line(row).seeds]
        left = len(found.rows) - len(done)
        rest = f" {left} more rows were not run." if left else ""
        if done:
            options = f"--table {found.name} --scale {found.scale} --seeds {seeds}"
            command = f"python scripts/reproduce.py {options}"
            shown = markdown(found._replace(rows=done))
            parts += [f"# {found.table.title}", f"`{command}`", shown, note(found) + rest]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def claim_table(found: Answer) -> list[list[str]]:
    """Returns head and rows of the study behind an answer, without any if nothing was run."""
    if found.study is None:
        return []
    lines = [line for line in found.study.lines if line.seeds]
    return [pages.heads(found.study), *(pages.cells(found.study, line) for line in lines)]


def rendered(template: str, **values) -> str:
    """Returns a page."""
    size = (charts.WIDTH, charts.HEIGHT)
    return page.environment().get_template(template).render(size=size, **values)
