r"""InvPT with ViT-B/16, jointly on both synthetic datasets, protocol B (arXiv 2203.07997).

  python scripts/train.py --config configs/invpt_vit_b.py --workdir runs/invpt_vit_b

Otherwise as `invpt_vit_l`. Not measured yet.
"""

import ml_collections as mlc

from configs import invpt_vit_l


def get_config() -> mlc.ConfigDict:
    c = invpt_vit_l.get_config()
    c.backbone.name = "vit_b"
    return c
