r"""A decoder in the manner of TaskExpert on ViT-B/16, synthetic PASCAL-Context, protocol B.

  python scripts/train.py --config configs/taskexpert_vit_b.py --workdir runs/taskexpert_vit_b

Otherwise as `taskexpert_vit_l`, with the preset `small`: 121,578,394 parameters. No
score was measured yet.
"""

import ml_collections as mlc

from configs import taskexpert_vit_l


def get_config() -> mlc.ConfigDict:
    c = taskexpert_vit_l.get_config()
    c.backbone.name, c.decoder.preset = "vit_b", "small"
    return c
