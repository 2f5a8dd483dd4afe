r"""Full fine-tuning of one Swin-T for normals alone: a quarter of the single-task baseline.

  python scripts/train.py --workdir runs/single_normals \
      --config configs/single_task_swin_t_hrnet_normals.py

The four runs are the row that Delta_m is taken against in arXiv 2403.20320, Table 1.
"""

import ml_collections as mlc

from configs import mtlora_r64


def get_config() -> mlc.ConfigDict:
    c = mtlora_r64.get_config()
    c.adapter = dict(name="none")
    c.data.synth_pascal.tasks = ("normals",)
    return c
