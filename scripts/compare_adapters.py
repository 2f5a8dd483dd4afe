r"""Trains one problem with every adapter from one frozen backbone, and writes a table.

  python scripts/compare_adapters.py --config configs/adapters_mini.py \
      --config.init_from=runs/backbone --out runs/adapters [--only lora,mtlora]

Every adapter is a run below --out, with its published rules of what trains and the same steps; a
stopped or finished run is taken up. `decoders` trains the heads alone, `full` everything. The
table, in adapters.md, has all runs that are finished; Δm is against `decoders`.
"""

import pathlib

from absl import flags
from adapters_table import config, rows, table
from ml_collections import config_flags

from mtl_vision import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
OUT = flags.DEFINE_string("out", None, "Folder of the runs and the table.", required=True)
ONLY = flags.DEFINE_list("only", [], "Rows to train; all by default.")
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config of the problem.", lock_config=False, accept_new_attributes=True
)


def train(values: dict, workdir: pathlib.Path) -> None:
    """Trains and evaluates one row, unless that is done."""
    from mtl_vision.check import check
    from mtl_vision.train import folder, loop

    cfg = check(values)
    folder.claim(workdir, values, ROOT)
    if not (workdir / "final_metrics.json").exists():
        print(f"{workdir.name}:", flush=True)
        loop.train(cfg, workdir, say=lambda line: None)


def main() -> None:
    from mtl_vision.errors import ConfigError, lookup

    values, out = cli.config_value(CONFIG), pathlib.Path(OUT.value)
    names = ONLY.value or rows()
    for name in names:
        lookup(dict.fromkeys(rows()), name, "only")
    for name in names:
        try:
            train(config(values, name), out / name)
        except ConfigError as e:
            if ONLY.value:
                raise
            print(f"{name}: left out: {e}")
    text = table(values, out)
    (out / "adapters.md").write_text(text)
    print(text)


if __name__ == "__main__":
    cli.start(main)
