r"""Adapters of low-rank matrices as a row of arXiv 2210.03265.

  for task in semseg human_parts sal normals; do
    python scripts/train.py --config configs/low_rank_adapter.py \
        --config.data.synth_pascal.tasks="('$task',)" --workdir runs/low_rank_adapter_$task
  done

The four runs are one row; they train 2,886,848 parameters with heads.
With all four tasks in one run it is the row's shared variant.
"""

import ml_collections as mlc

from configs import polyhistor


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.data.synth_pascal.tasks = ("semseg",)
    c.adapter = dict(name="low_rank_adapter")
    return c
