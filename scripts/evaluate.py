r"""Evaluates a run and prints one table; writes final_metrics.json.

python scripts/evaluate.py --workdir runs/x [--step 4000] [--split test]
"""

import pathlib

from absl import flags

from mtl_vision import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder.", required=True)
STEP = flags.DEFINE_integer("step", None, "Checkpoint to evaluate; the newest by default.")
SPLIT = flags.DEFINE_string("split", None, "Split; that of the config by default.")


def main() -> None:
    from mtl_vision.check import check
    from mtl_vision.evaluate import evaluate_run, report
    from mtl_vision.train import folder

    workdir = pathlib.Path(WORKDIR.value)
    cfg = check(folder.read(workdir))
    final = evaluate_run(cfg, workdir, step=STEP.value, split=SPLIT.value)
    print(report(cfg, final))


if __name__ == "__main__":
    cli.start(main)
