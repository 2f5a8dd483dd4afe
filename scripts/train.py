r"""Trains from a config, or goes on where the same command was stopped.

python scripts/train.py --config configs/quickstart.py --workdir runs/x --config.seed=1
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from mtl_vision import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file.", lock_config=False, accept_new_attributes=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; made if absent.", required=True)


def main() -> None:
    values = cli.config_value(CONFIG)
    # Imported late: a mistyped option answers at once.
    from mtl_vision.check import check
    from mtl_vision.results import report
    from mtl_vision.train import folder, loop, plan

    cfg = check(values)
    if cfg.run.dry:
        print(plan.describe(cfg))
        return
    workdir = pathlib.Path(WORKDIR.value)
    folder.claim(workdir, values, ROOT)
    print(plan.parameters(cfg), flush=True)
    final = loop.train(cfg, workdir, say=lambda line: print(line, flush=True))
    print(report(cfg, final))


if __name__ == "__main__":
    cli.start(main)
