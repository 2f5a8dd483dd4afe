r"""TaskPrompter, ViT-B/16, jointly on both synthetic datasets, protocol B (ICLR 2023).

  python scripts/train.py --config configs/taskprompter_vit_b.py --workdir runs/taskprompter_vit_b

Sizes of the authors' ViT-B on PASCAL-Context, otherwise as `taskprompter_vit_l`. Not measured yet.
"""

import ml_collections as mlc

from configs import taskprompter_vit_l


def get_config() -> mlc.ConfigDict:
    c = taskprompter_vit_l.get_config()
    c.backbone.name = "vit_b"
    c.adapter.embed, c.adapter.width, c.adapter.windows = 780, 1024, 4
    return c
