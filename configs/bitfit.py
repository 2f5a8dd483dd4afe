r"""BitFit (arXiv 2106.10199) as a row of arXiv 2210.03265.

  for task in semseg human_parts sal normals; do
    python scripts/train.py --config configs/bitfit.py \
        --config.data.synth_pascal.tasks="('$task',)" --workdir runs/bitfit_$task
  done

The four runs are one row; they train biases, tables of relative positions, and heads, together
2,848,136 parameters. With all four tasks in one run it is the row's shared variant.
"""

import ml_collections as mlc

from configs import polyhistor


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.data.synth_pascal.tasks = ("semseg",)
    c.adapter = dict(name="none")
    biases = "backbone/.*(bias|bias_table)|backbone/out_norms/.*"
    c.trainable = ((biases, True), ("backbone/.*", False), (".*", True))
    return c
