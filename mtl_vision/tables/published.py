"""Reading ``published/*.yaml``."""

import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

FOLDER = pathlib.Path(__file__).parent / "published"
# Words of the files that mark a number nobody has checked against its paper.
UNSURE = ("recalled", "unconfirmed")


@dataclass(frozen=True)
class Table:
    """One table of a paper.

    Attributes:
      title: for the heading.
      file: in ``published/``.
      section: key of the file below which the rows are, ``""`` for the top.
      params: key of a row's number of trainable parameters, in millions.
      configs: by row id, the configs whose runs make up the row: names of files in ``configs/``,
        or ``<name>:<task>`` for a run of that config with one task only.
    """

    title: str
    file: str
    section: str
    params: str
    configs: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Row:
    """One published row.

    Attributes:
      id: of the row.
      label: as the paper has it.
      values: numbers by column.
      sure: whether they were seen in a source; if not they are no bar.
    """

    id: str
    label: str
    values: Mapping[str, float | None]
    sure: bool


def published_rows(table: Table) -> list[Row]:
    """Returns the rows of a table in order, the unconfirmed ones at the end."""
    content = yaml.safe_load((FOLDER / table.file).read_text())
    section = content[table.section] if table.section else content
    unconfirmed = section.get("unconfirmed_rows", {}).get("rows", ())
    sure = [_row(row, True) for row in section["rows"]]
    return sure + [_row(row, False) for row in unconfirmed]


def _row(row: Mapping[str, Any], sure: bool) -> Row:
    values = {k: v for k, v in row.items() if isinstance(v, int | float) or v is None}
    marks = _words([row.get("evidence"), row.get("source")])
    unsure = any(mark.startswith(UNSURE) for mark in marks) and not _seen(marks)
    return Row(row["id"], row.get("label", row["id"]), values, sure and not unsure)


def _seen(marks: Iterable[str]) -> bool:
    return any(mark.startswith(("read", "quoted", "abstract")) for mark in marks)


def _words(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [word for v in value.values() for word in _words(v)]
    if isinstance(value, list | tuple):
        return [word for v in value for word in _words(v)]
    return [] if value is None else [str(value)]
