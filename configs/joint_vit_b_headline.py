r"""The twin of `joint_swin_t_headline` on ViT-B/16, protocol B.

  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 512 --data_dir data
  python scripts/train.py --config configs/joint_vit_b_headline.py --workdir runs/headline_vit

MTLoRA and Polyhistor in a frozen ViT-B, task experts on its four taps, CAGrad and task-wise SAM.
Recipe and data are those of `joint_vit_b_conv`. Not measured yet.
"""

import ml_collections as mlc

from configs import joint_vit_b_conv


def get_config() -> mlc.ConfigDict:
    c = joint_vit_b_conv.get_config()
    with c.ignore_type():  # a tuple in the place of one
        c.adapter = (
            dict(name="mtlora", rank=64, task_rank=4, scale=4.0, dropout=0.05),
            dict(name="polyhistor"),
        )
    c.decoder = dict(name="task_expert", preset="small", reads="both")
    c.optim.aggregator = dict(name="cagrad")
    c.optim.sam = dict(name="task_sam", rho_shared=0.05, rho_task=0.05)
    return c
