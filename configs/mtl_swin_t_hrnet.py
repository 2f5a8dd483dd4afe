r"""Full fine-tuning of one Swin-T for four tasks, the row "MTL" of arXiv 2403.20320, Table 1.

  python scripts/train.py --config configs/mtl_swin_t_hrnet.py --workdir runs/mtl

It trains 29,464,442 parameters; the paper prints 0.60 million more than its code has. With
``--config.data.synth_pascal.tasks="('semseg',)"``, and likewise for the other three, it is a
quarter of the single-task row that Delta_m is taken against.
"""

import ml_collections as mlc

from configs import mtlora_r64


def get_config() -> mlc.ConfigDict:
    c = mtlora_r64.get_config()
    c.adapter = dict(name="none")
    return c
