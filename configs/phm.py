r"""Hypercomplex adapters (PHM, arXiv 2102.08597) as a row of arXiv 2210.03265.

  for task in semseg human_parts sal normals; do
    python scripts/train.py --config configs/phm.py \
        --config.data.synth_pascal.tasks="('$task',)" --workdir runs/phm_$task
  done

The four runs are one row; they train 3,143,616 parameters with heads.
With all four tasks in one run it is the row's shared variant.
"""

import ml_collections as mlc

from configs import polyhistor


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.data.synth_pascal.tasks = ("semseg",)
    c.adapter = dict(name="phm")
    return c
