"""Reading ``published/*.yaml``."""

import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

FOLDER = pathlib.Path(__file__).parent / "published"
# Words of the files that mark a number nobody has checked against its paper.
UNSURE = ("recalled", "unconfirmed")
# And of what was seen.
SEEN = ("read", "quoted", "abstract")


@dataclass(frozen=True)
class Table:
    """One table of a paper, or of runs that no paper has.

    Columns are keys of a row in the file; None is a column that the table lacks.

    Attributes:
      title: for the heading.
      configs: by row id, the entries (see `tables.entries.load`) whose runs together make up the
        row. A row without is context.
      file: in ``published/``, "" for none.
      section: key of the file below which the rows are.
      base: id of the row that Delta_m is against.
      scores: columns by kind of task, where the score is measured as ours is.
      delta: column of Delta_m.
      higher_is_better_delta: whether a gain is positive there.
      params: column of trained parameters. In all three columns of parameters a number below
        100,000 is in millions, as printed, and a larger one is exact.
      encoder: column of trained parameters without those of the decoders.
      total: column of all parameters, trained or not.
      work: column of multiply-adds of one image in G.
      one_task: whether multiply-adds are of the backbone and one head.
      labels: labels by id of rows that are ours alone; they stand behind the published ones.
      inexact: by row and column, why our count is not the one in the file.
      note: what a reader should know about the columns of counts.
    """

    title: str
    configs: Mapping[str, tuple[str, ...]]
    file: str = ""
    section: str = ""
    base: str | None = None
    scores: Mapping[str, str] = field(default_factory=dict)
    delta: str | None = None
    higher_is_better_delta: bool = True
    params: str | None = None
    encoder: str | None = None
    total: str | None = None
    work: str | None = None
    one_task: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    inexact: Mapping[tuple[str, str], str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
      id: of the row: letters, digits, ``_``, ``.`` and ``-``.
      label: as the paper has it.
      values: numbers by column; none of a row that is ours alone.
      sure: whether they were seen in a source; if not they are no bar.
    """

    id: str
    label: str
    values: Mapping[str, float | None]
    sure: bool


def published_rows(table: Table) -> list[Row]:
    """Returns the rows of a table in order: published ones, unconfirmed ones, ours alone."""
    ours = [Row(name, label, {}, True) for name, label in table.labels.items()]
    if not table.file:
        return ours
    content = yaml.safe_load((FOLDER / table.file).read_text())
    section = content[table.section] if table.section else content
    unconfirmed = section.get("unconfirmed_rows", {}).get("rows", ())
    rows = [_row(row, True) for row in section["rows"]]
    return [*rows, *(_row(row, False) for row in unconfirmed), *ours]


def _row(row: Mapping[str, Any], sure: bool) -> Row:
    values = {k: v for k, v in row.items() if isinstance(v, int | float) or v is None}
    marks = _words([row.get("evidence"), row.get("source")])
    unsure = any(mark.startswith(UNSURE) for mark in marks)
    unsure = unsure and not any(mark.startswith(SEEN) for mark in marks)
    return Row(row["id"], row.get("label", row["id"]), values, sure and not unsure)


def _words(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        return [word for v in value.values() for word in _words(v)]
    if isinstance(value, list | tuple):
        return [word for v in value for word in _words(v)]
    return [] if value is None else [str(value)]
