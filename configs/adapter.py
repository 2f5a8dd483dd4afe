r"""Adapters (arXiv 1902.00751) as a row of arXiv 2210.03265: behind the MLPs, half as wide.

  for task in semseg human_parts sal normals; do
    python scripts/train.py --config configs/adapter.py \
        --config.data.synth_pascal.tasks="('$task',)" --workdir runs/adapter_$task
  done

The four runs are one row; they train 11,237,024 parameters with heads.
With all four tasks in one run it is the row's shared variant.
"""

import ml_collections as mlc

from configs import polyhistor


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.data.synth_pascal.tasks = ("semseg",)
    c.adapter = dict(name="adapter")
    return c
