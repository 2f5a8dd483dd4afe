r"""Full fine-tuning of one Swin-T with All-MLP heads for four tasks (arXiv 2210.03265).

  python scripts/train.py --config configs/mtl_swin_t_all_mlp.py --workdir runs/mtl_swin_t_all_mlp

It trains 30,058,202 parameters.
"""

import ml_collections as mlc

from configs import polyhistor


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.adapter = dict(name="none")
    return c
