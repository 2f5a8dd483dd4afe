r"""Runs a model on one's own photos: pictures, arrays and one contact sheet.

  python scripts/predict.py --workdir runs/x --images photos --out out [--step 4000]
  python scripts/predict.py --workdir runs/x --out out photos/*.jpg
  python scripts/predict.py --weights x.safetensors --images a.png --out out [--config configs/y.py]

Photos may have any size and format that Pillow reads. `docs/predict.md` says what is written. A
photo that cannot be read is named at the end, with exit code 1, and the others are done. Weights
are those that scripts/evaluate.py takes. Nothing that another program wrote is overwritten.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from mtl_vision import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint; the newest by default.")
WEIGHTS = flags.DEFINE_string("weights", None, "File to use in place of a run.")
IMAGES = flags.DEFINE_multi_string("images", [], "Folder, file or pattern; more may follow.")
OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
DATASET = flags.DEFINE_string("dataset", None, "Tasks of this dataset only; of all by default.")
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config of the weights.", lock_config=False, accept_new_attributes=True
)


def main(*more: str) -> None:
    from mtl_vision.check import check
    from mtl_vision.errors import ConfigError
    from mtl_vision.predict import predict
    from mtl_vision.train import folder, weights

    if (WORKDIR.value is None) == (WEIGHTS.value is None):
        raise ConfigError("give either --workdir, a run, or --weights, a file.")
    if WEIGHTS.value is None:
        source = pathlib.Path(WORKDIR.value)
        cfg = check(folder.read(source))
    else:
        source = pathlib.Path(WEIGHTS.value)
        values = weights.config_of(source) if CONFIG.value is None else cli.config_value(CONFIG)
        cfg = check(values)
    predict(
        cfg,
        source,
        places=[*IMAGES.value, *more],
        out=pathlib.Path(OUT.value),
        dataset=DATASET.value,
        step=STEP.value,
        say=print,
    )


if __name__ == "__main__":
    cli.start(main, words=True)
