r"""Trains one problem with every adapter, or every decoder, from one start, and writes a table.

  python scripts/compare.py --study adapters --config configs/mini_swin.py \
      --config.init_from=runs/mini_swin --out runs/adapters [--only lora,mtlora]

Every row of the study (`configs/mini.py`) is a run below --out with the same steps; a stopped run
goes on, a finished one is not repeated. The table, in table.md, has all rows that are finished;
Δm is against the study's base. With several seeds it has the means and every seed's Δm.
"""

import pathlib

from absl import flags
from compare_table import folder, table
from ml_collections import config_flags

from mtl_vision import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
STUDY = flags.DEFINE_enum(
    "study", None, ["adapters", "decoders"], "What the rows vary.", required=True
)
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
        print(f"{workdir}:", flush=True)
        loop.train(cfg, workdir, say=lambda line: None)


def main() -> None:
    from configs import mini  # where the rows are
    from mtl_vision.errors import ConfigError, lookup

    values, out = dict(cli.config_value(CONFIG)), pathlib.Path(OUT.value)
    kind = values["backbone"]["name"]
    changes = mini.adapters() if STUDY.value == "adapters" else mini.decoders(kind)
    rows = {name: mini.changed(values, change) for name, change in changes.items()}
    for name in ONLY.value:
        lookup(rows, name, "--only")
    for name in ONLY.value or rows:
        try:
            train(rows[name], folder(out, name, values["seed"]))
        except ConfigError as e:
            if ONLY.value:
                raise
            print(f"{name}: left out: {e}")
    text = table(rows, out)
    (out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    cli.start(main)
