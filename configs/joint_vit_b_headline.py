r"""The twin of `joint_swin_t_headline` on ViT-B/16, protocol B.

  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 512 --data_dir data
  python scripts/train.py --config configs/joint_vit_b_headline.py --workdir runs/headline_vit

MTLoRA and Polyhistor in a frozen ViT-B, task experts on its four taps, CAGrad and task-wise SAM.
Recipe and data are those of `joint_vit_b_conv`. Not measured yet.
"""

import ml_collections as mlc

from configs import joint_swin_t_headline, joint_vit_b_conv


def get_config() -> mlc.ConfigDict:
    return joint_swin_t_headline.everything(joint_vit_b_conv.get_config())
