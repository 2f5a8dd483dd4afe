r"""Full fine-tuning of a Swin-T for every task, what arXiv 2210.03265 compares with.

  for task in semseg human_parts sal normals; do
    python scripts/train.py --config configs/single_task_swin_t_all_mlp.py \
        --config.data.synth_pascal.tasks="('$task',)" --workdir runs/single_task_$task
  done

The four runs are one row; they train 112,620,296 parameters with heads.
"""

import ml_collections as mlc

from configs import polyhistor


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.data.synth_pascal.tasks = ("semseg",)
    c.adapter = dict(name="none")
    return c
