"""Parameters and multiply-adds of the configs of a table's rows beside the published ones."""

import ast
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mtl_vision import build, cli
from mtl_vision.check import check
from mtl_vision.config import Config
from mtl_vision.models import flops, mtl
from mtl_vision.tables import TABLES, Row, Table, published_rows
from mtl_vision.tables.entries import load
from mtl_vision.train import plan

EXACT = 100_000  # from here on a published number of parameters is not in millions
MILLION, GIGA = 10**6, 10**9
DATASETS = ("pascal_context", "nyud_v2")
# Of these tables all rows but the first have the model of `LS`.
ALIKE = ("flat.nyud", "aggregators.nyud")


class Size(NamedTuple):
    """Parameters of runs: trained ones of backbones with adapters, of decoders, and all."""

    encoder: int
    decoders: int
    total: int

    @property
    def trained(self) -> int:
        return self.encoder + self.decoders


class Cell(NamedTuple):
    """A published number beside ours.

    name: ``trained``, ``encoder``, ``total`` or ``multiply-adds``.
    published: as in the file.
    here: ours, in ones.
    exact: whether ours, rounded as the published one is, is equal.
    why: why not, "" if nobody knows.
    """

    name: str
    published: float
    here: int
    exact: bool
    why: str


class Counted(NamedTuple):
    """What the runs of a row amount to.

    work: multiply-adds of one image through all models of the row, by dataset; {} if not counted.
    """

    row: Row
    size: Size
    work: Mapping[str, int]
    cells: tuple[Cell, ...]


class Summary(NamedTuple):
    """Numbers of published cells that our rows have; a cell is exact, explained or neither."""

    cells: int
    exact: int
    explained: int
    unexplained: int

    def __str__(self) -> str:
        return (
            f"{self.cells} published cells: {self.exact} exact, {self.explained} explained, "
            f"{self.unexplained} unexplained"
        )


def counted(table: Table, only: Sequence[str] = (), *, work: bool = True) -> list[Counted]:
    """Counts the rows of a table that have configs, without making an array.

    Args:
      table: of `TABLES`.
      only: ids of rows, all by default.
      work: whether to count multiply-adds, which takes seconds for a row.
    """
    rows = [row for row in published_rows(table) if row.id in (only or table.configs)]
    return [_counted(table, row, work) for row in rows if row.id in table.configs]


def _counted(table: Table, row: Row, work: bool) -> Counted:
    entries = table.configs[row.id]
    total = Size(*(sum(column) for column in zip(*map(size, entries), strict=True)))
    spent: dict[str, int] = {}
    for entry in entries if work else ():
        one = f"{entry}@semseg" if table.one_task else entry
        for dataset, count in multiply_adds(one).items():
            spent[dataset] = spent.get(dataset, 0) + count
    ours = [
        ("trained", table.params, total.trained, MILLION),
        ("encoder", table.encoder, total.encoder, MILLION),
        ("total", table.total, total.total, MILLION),
        ("multiply-adds", table.work if work else None, sum(spent.values()), GIGA),
    ]
    cells = []
    for name, column, here, unit in ours:
        published = row.values.get(column) if column else None
        if published is not None:
            exact = as_printed(here, published, unit) == printed(published)
            why = "" if exact else table.inexact.get((row.id, column), "")
            cells.append(Cell(name, published, here, exact, why))
    return Counted(row, total, spent, tuple(cells))


def printed(published: float) -> str:
    """Writes a published number with its digits: none behind the point, or two."""
    return f"{published:,}" if isinstance(published, int) else f"{published:,.2f}"


def as_printed(here: int, published: float, unit: int) -> str:
    """Writes ours as the published number is printed.

    Args:
      here: in ones.
      published: in `unit`, or in ones from `EXACT` on.
      unit: of the column.
    """
    if published >= EXACT:
        return printed(here)
    return printed(round(here / unit) if isinstance(published, int) else here / unit)


def summary(rows: Sequence[Counted]) -> Summary:
    """Counts the cells of rows."""
    cells = [cell for row in rows for cell in row.cells]
    exact = sum(cell.exact for cell in cells)
    explained = sum(bool(cell.why) for cell in cells)
    return Summary(len(cells), exact, explained, len(cells) - exact - explained)


@functools.cache
def size(entry: str) -> Size:
    """Counts the parameters of an entry's run; padding does not count."""
    return Size(*plan.trained_and_all(_config(entry)))


@functools.cache
def multiply_adds(entry: str) -> dict[str, int]:
    """Counts the multiply-adds of one image by dataset, see `flops.RULE`."""
    cfg = _config(entry)
    model = mtl.abstract(build.model(cfg))
    return {
        name: sum(flops.by_component(model, dataset=name, size=data.size).values())
        for name, data in cfg.datasets.items()
    }


def _config(entry: str) -> Config:
    path, overrides = load(entry)
    values: dict[str, Any] = cli.load_config(path)
    for override in overrides:
        field, _, value = override.partition("=")
        *above, name = field.split(".")
        section = values
        for part in above:
            section = section[part]
        section[name] = ast.literal_eval(value)
    return check(values)


HEADING = ("row", "published", "trained", "encoder", "decoders", "all", "multiply-adds (G)")


def lines(rows: Sequence[Counted]) -> list[list[str]]:
    """Returns a table of rows for printing, its heading first."""
    found = [list(HEADING)]
    for one in rows:
        label = one.row.label + ("" if one.row.sure else " (?)")
        counts = [one.size.trained, one.size.encoder, one.size.decoders, one.size.total]
        published = "; ".join(_published(cell) for cell in one.cells)
        work = " / ".join(f"{one.work[d] / GIGA:,.2f}" for d in DATASETS if d in one.work)
        found.append([label, published or "-", *(f"{n:,}" for n in counts), work or "-"])
    return found


def _published(cell: Cell) -> str:
    letter = " G" if cell.name == "multiply-adds" else " M" if cell.published < EXACT else ""
    return f"{cell.name} {'=' if cell.exact else '≠'} {printed(cell.published)}{letter}"


def reasons(rows: Sequence[Counted]) -> list[str]:
    """Returns a sentence for every reason why cells of rows are not exact."""
    found: dict[str, list[str]] = {}
    for one in rows:
        for cell in one.cells:
            if not cell.exact:
                found.setdefault(cell.why or "Unexplained.", []).append(
                    f"{one.row.label} ({cell.name})"
                )
    return [f"{', '.join(labels)}: {why}" for why, labels in found.items()]


def document() -> str:
    """Returns docs/counts.md: all tables."""
    shown_only = dict.fromkeys(ALIKE, ("STL", "LS"))
    found = {name: counted(table, shown_only.get(name, ())) for name, table in TABLES.items()}
    parts = [_TOP.format(summary(sum(found.values(), [])), flops.RULE)]
    for name, rows in found.items():
        table = TABLES[name]
        parts.append(f"## {name}\n\n{table.title}.{f' {table.note}' if table.note else ''}")
        parts.append(_markdown(lines(rows)))
        if any(one.cells for one in rows):
            parts.append(f"{summary(rows)}.")
        if why := reasons(rows):
            parts.append("\n".join(f"- {reason}" for reason in why))
    return "\n\n".join(parts) + "\n"


_TOP = """\
# Counts

What the configs of the tables' rows train, have and cost, beside the published numbers; written by
`python scripts/reproduce.py --counts docs/counts.md`, which makes no array. `=` is equal to the
printed digits, `≠` is not, and the reason stands below; (?) is a row that no source confirms, which
is no bar. Left out are rows without a config, and those of methods for gradients, which have the
model of LS.

All tables: {}.

{}
Where a row is a run per task or per dataset, parameters are those of all its runs, and
multiply-adds those of one image through all of them; two are of PASCAL-Context / NYUD-v2."""


def _markdown(table: list[list[str]]) -> str:
    head, *rows = table
    rule = ["---", "---", *["---:"] * (len(head) - 2)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
