r"""MLoRE, ViT-L/16, five tasks of a dataset like PASCAL-Context, protocol B (arXiv 2403.17749).

  python scripts/prepare_data.py --dataset synth_pascal --config 512 --data_dir data
  python scripts/train.py --config configs/mlore_vit_l.py --workdir runs/mlore_vit_l

Sizes and recipe of the authors' ViT-L on PASCAL-Context: 407,690,406 parameters with the position
of a class token, which nothing reads and this model does not have. For their ViT-L on NYUD-v2, set
`data` to the other dataset, `decoder` to `PRESETS["vit_l_nyud"]` with a grid of (28, 36), and the
rate to 1e-5. Their edge losses weigh edges by 0.925 and 0.88 there, here by 0.95. From scratch,
because no pretrained weights are at hand. Not measured yet.
"""

import ml_collections as mlc

from configs import joint_vit_b_conv


def get_config() -> mlc.ConfigDict:
    c = joint_vit_b_conv.get_config()
    del c.data.synth_nyud, c.loss_weights.depth
    c.backbone.name, c.backbone.class_token = "vit_l", False
    decoder = dict(name="mlore", width=452, ranks=tuple(range(16, 129, 8)), task_rank=72)
    # The grid is the image's sides over the patch.
    c.decoder = decoder | dict(top=9, select="gates", balance=3e-4, grid=(32, 32))
    return c
