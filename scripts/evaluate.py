r"""Evaluates a run, or weights in a file, and prints one table; writes final_metrics.json.

  python scripts/evaluate.py --workdir runs/x [--step 4000] [--split test]
  python scripts/evaluate.py --workdir runs/x --save_predictions predictions
  python scripts/evaluate.py --workdir runs/palora --front 11
  python scripts/evaluate.py --weights x.safetensors --workdir out [--config configs/y.py]

A file is what scripts/export.py wrote, which holds its config, or a released checkpoint (.pth,
.npz, .safetensors) of MTLoRA, InvPT, TaskPrompter, MLoRE or M3ViT, the last also as a folder with a
file per rank. Then the workdir is where the figures go, and must not be a run's. With
--save_predictions the prediction of every image becomes a file, in the folders that the published
evaluation tools read. With --front a run of PaLoRA is evaluated at so many preferences between its
tasks; writes front.json and front.png. It runs on the hosts that the environment tells of, like
train.py.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from mtl_vision import cli, hosts

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder, or where to write.", required=True)
STEP = flags.DEFINE_integer("step", None, "Checkpoint to evaluate; the newest by default.")
SPLIT = flags.DEFINE_string("split", None, "Split; that of the config by default.")
WEIGHTS = flags.DEFINE_string("weights", None, "File to evaluate in place of a checkpoint.")
SAVE = flags.DEFINE_string("save_predictions", None, "Folder for the predictions as files.")
FRONT = flags.DEFINE_integer("front", None, "Preferences at which to evaluate.", lower_bound=1)
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config of the weights.", lock_config=False, accept_new_attributes=True
)


def main() -> None:
    hosts.join()
    from mtl_vision import fronts
    from mtl_vision.check import check
    from mtl_vision.errors import ConfigError
    from mtl_vision.evaluate import evaluate_file, evaluate_run
    from mtl_vision.results import report
    from mtl_vision.train import folder, weights

    workdir, save = pathlib.Path(WORKDIR.value), SAVE.value and pathlib.Path(SAVE.value)
    if save and FRONT.value is not None:
        raise ConfigError("--save_predictions does not go with --front; evaluate without it.")
    if FRONT.value is not None:
        cfg = check(folder.read(workdir))
        at = dict(step=STEP.value, split=SPLIT.value)
        found = fronts.report(fronts.evaluate_front(cfg, workdir, FRONT.value, **at))
        if hosts.first():
            print(found)
        return
    if WEIGHTS.value is None:
        cfg = check(folder.read(workdir))
        final = evaluate_run(cfg, workdir, step=STEP.value, split=SPLIT.value, save=save)
    else:
        if (workdir / "config.json").exists():
            raise ConfigError(f"--workdir={workdir} is a run; give a folder of its own.")
        file = pathlib.Path(WEIGHTS.value)
        cfg = check(weights.config_of(file) if CONFIG.value is None else cli.config_value(CONFIG))
        final = evaluate_file(cfg, file, workdir, split=SPLIT.value, save=save)
    if hosts.first():
        print(report(cfg, final))


if __name__ == "__main__":
    cli.start(main)
