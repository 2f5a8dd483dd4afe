"""A table of a paper with what our runs of its rows found."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.report.runs import Run
from mtl_vision.study import entries, summary
from mtl_vision.study.axes import Setting
from mtl_vision.study.summary import Line, Study
from mtl_vision.tables import Row, Table, published_rows
from mtl_vision.tables.mini import MINI, STUDIES


class Rebuilt(NamedTuple):
    """A table and what was run for it.

    scale: at the paper's, or at a smaller one whose scores cannot be compared with the paper's.
    rows: as published.
    study: our lines by the rows' ids; of rows that are not run they are empty.
    base: id of the row that Delta_m is against; the paper's, if that is run, else the first.
    """

    name: str
    table: Table
    scale: str
    rows: list[Row]
    study: Study
    base: str

    def line(self, row: Row) -> Line:
        """Returns our line of a row."""
        return next(x for x in self.study.lines if x.setting.name == row.id)


def rows_of(name: str, table: Table, scale: str) -> Mapping[str, tuple[str, ...]]:
    """Returns, by the ids of the rows that are run at a scale, their entries.

    Raises:
      ConfigError: nobody has made this table smaller, or it has always been small.
    """
    if scale == "paper" and name in STUDIES:
        raise ConfigError(f"--table={name} is of the small problem; give --scale=mini.")
    if scale == "paper":
        return table.configs
    tables = {known: of_table.configs for known, of_table in STUDIES.items()} | MINI
    small = lookup(tables, name, f"--scale={scale} --table")
    if scale == "mini":
        return small
    return {row: tuple(e.replace("mini:", "mini:large.") for e in x) for row, x in small.items()}


def collect(
    name: str, table: Table, scale: str, seeds: Sequence[int], out: pathlib.Path
) -> Rebuilt:
    """Reads what is finished of a table.

    Raises:
      DataError: runs of the table have different tasks or protocols.
    """
    rows = published_rows(table)
    wanted = rows_of(name, table, scale)
    found = {r.id: entries.finished(wanted.get(r.id, ()), seeds, out) for r in rows}
    base = base_of(table, rows, found)
    study = summary.study([Setting(r.id, (), {}) for r in rows], found, base)
    return Rebuilt(name, table, scale, rows, study, base)


def base_of(table: Table, rows: Sequence[Row], found: Mapping[str, Sequence[Run]]) -> str:
    """Returns the id of the row that gains are counted from."""
    done = [r.id for r in rows if found[r.id]]
    return table.base if table.base in done or not done else done[0]
