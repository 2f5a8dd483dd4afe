r"""MLoRE, ViT-B/16, jointly on both synthetic datasets, protocol B (arXiv 2403.17749).

  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 512 --data_dir data
  python scripts/train.py --config configs/mlore_vit_b.py --workdir runs/mlore_vit_b

Sizes of the decoder and recipe of the authors' ViT-B on PASCAL-Context: Adam 2e-5 with coupled
decay on everything, poly 0.9 over 40,000 steps, clipping at 10, on 512x512 and 448x576. They train
one dataset at a time; here each has a decoder of its own behind one backbone. From scratch, because
no pretrained weights are at hand. Not measured yet.
"""

import ml_collections as mlc

from configs import joint_vit_b_conv


def get_config() -> mlc.ConfigDict:
    c = joint_vit_b_conv.get_config()
    c.backbone.class_token = False
    decoder = dict(name="mlore", width=640, ranks=tuple(range(16, 129, 8)), task_rank=64)
    # Grids are the images' sides over the patch.
    grids = dict(synth_pascal=(32, 32), synth_nyud=(28, 36))
    c.decoder = decoder | dict(top=9, select="gates", balance=1e-4, grid=grids)
    return c
