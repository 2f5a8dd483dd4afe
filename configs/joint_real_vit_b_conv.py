r"""ViT-B/16 with convolutional heads, jointly on PASCAL-Context and NYUD-v2, protocol B.

  python scripts/prepare_data.py --dataset pascal_context --archive PASCAL_MT.tgz --data_dir data
  python scripts/prepare_data.py --dataset nyud_v2 --archive NYUDv2.tar.gz --data_dir data
  python scripts/train.py --config configs/joint_real_vit_b_conv.py --workdir runs/vit_real

`joint_vit_b_conv` on the real datasets, at the canvases of InvPT (arXiv 2203.07997). The packing
NYUD_MT.tgz has 480x640 images, if so, which do not fit 448x576. Not measured yet.
"""

import ml_collections as mlc

from configs import joint_real_swin_t_hrnet, joint_vit_b_conv


def get_config() -> mlc.ConfigDict:
    return joint_real_swin_t_hrnet.on_real_data(joint_vit_b_conv.get_config())
