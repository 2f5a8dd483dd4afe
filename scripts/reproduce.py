r"""Rebuilds a table of a paper beside its published numbers.

  python scripts/reproduce.py --table mtlora.main --columns params
  python scripts/reproduce.py --table mtlora.main --columns params --only mtlora_r64,mtl_full

The column `params` counts the trainable parameters of the config of every row, without making an
array: those of the encoder with its adapters, those of the decoders, and both. Padding does not
count. A row that no source confirms is marked (?).
"""

import pathlib

from absl import flags

from mtl_vision import cli
from mtl_vision.errors import ConfigError, lookup

ROOT = pathlib.Path(__file__).parents[1]
TABLE = flags.DEFINE_string("table", None, "Table, such as mtlora.main.")
COLUMNS = flags.DEFINE_list("columns", ["params"], "Columns to rebuild: params.")
ONLY = flags.DEFINE_list("only", [], "Ids of rows; all by default.")


def config(entry: str) -> dict:
    """Returns the values of ``configs/<name>.py`` for ``<name>``, or ``<name>:<task>``."""
    name, _, task = entry.partition(":")
    values = cli.load_config(ROOT / "configs" / f"{name}.py")
    for section in values["data"].values():
        if task and isinstance(section, dict):
            section["tasks"] = (task,)
    return values


def counts(names: tuple[str, ...]) -> tuple[int, int]:
    """Returns the trainable parameters of encoder and decoders, summed over configs."""
    from mtl_vision.check import check
    from mtl_vision.train import plan

    found = [plan.trained(check(config(name))) for name in names]
    encoder, decoder = (sum(column) for column in zip(*found, strict=True))
    return encoder, decoder


def main() -> None:
    from mtl_vision.tables import TABLES, published_rows
    from mtl_vision.train.log import table as aligned

    if TABLE.value is None:
        raise ConfigError(f"--table is missing; there are {', '.join(TABLES)}.")
    table = lookup(TABLES, TABLE.value, "table")
    if COLUMNS.value != ["params"]:
        raise ConfigError(f"--columns={','.join(COLUMNS.value)}: this command rebuilds params.")
    rows = published_rows(table)
    known = [row.id for row in rows]
    for name in ONLY.value:
        if name not in known:
            raise ConfigError(f"--only={name}: the table has the rows {', '.join(known)}.")
    lines = [["row", "published (M)", "here (M)", "total", "encoder", "decoders"]]
    for row in rows:
        if ONLY.value and row.id not in ONLY.value:
            continue
        published = row.values.get(table.params)
        shown = "-" if published is None else f"{published:.2f}{'' if row.sure else ' (?)'}"
        here = ["-"] * 4
        if names := table.configs.get(row.id):
            encoder, decoder = counts(names)
            total = encoder + decoder
            here = [f"{total / 1e6:.2f}", f"{total:,}", f"{encoder:,}", f"{decoder:,}"]
        lines.append([row.label, shown, *here])
    print(f"{table.title}: trainable parameters\n")
    print(aligned(lines, right=range(1, 6)))
    print("\n(?) not confirmed by any source; no bar.")


if __name__ == "__main__":
    cli.start(main)
