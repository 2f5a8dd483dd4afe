r"""The backbone of configs/mini_vit.py: trained as that of `mini_swin` is.

python scripts/train.py --config configs/mini_vit_backbone.py --workdir runs/mini_vit
"""

import ml_collections as mlc

from configs import mini_swin_backbone, mini_vit


def get_config() -> mlc.ConfigDict:
    c = mini_swin_backbone.get_config()
    c.backbone = mini_vit.VIT
    return c
