r"""Compacter (arXiv 2106.04647) as a row of arXiv 2210.03265.

  for task in semseg human_parts sal normals; do
    python scripts/train.py --config configs/compacter.py \
        --config.data.synth_pascal.tasks="('$task',)" --workdir runs/compacter_$task
  done

The four runs are one row; they train 2,778,912 parameters with heads.
With all four tasks in one run it is the row's shared variant.
"""

import ml_collections as mlc

from configs import polyhistor


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.data.synth_pascal.tasks = ("semseg",)
    c.adapter = dict(name="compacter")
    return c
