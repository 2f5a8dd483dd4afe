r"""As `mini_swin`, with a small ViT.

  python scripts/train.py --config configs/mini_vit_backbone.py --workdir runs/mini_vit
  python scripts/compare.py --study decoders --config configs/mini_vit.py \
      --config.init_from=runs/mini_vit --out runs/decoders_vit

0.7 million parameters; three taps, all of stride 8.
"""

import ml_collections as mlc

from configs import mini_swin

VIT = dict(name="vit", channels=96, depth=6, heads=4, patch=8, grid=(8, 8), taps=(2, 4, 6))


def get_config() -> mlc.ConfigDict:
    c = mini_swin.get_config()
    c.backbone = VIT
    return c
