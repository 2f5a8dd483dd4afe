r"""MTLoRA with shared rank 16 (arXiv 2403.20320, Table 1): trains 4,953,146 parameters.

python scripts/train.py --config configs/mtlora_r16.py --workdir runs/mtlora_r16
"""

import ml_collections as mlc

from configs import mtlora_r64


def get_config() -> mlc.ConfigDict:
    c = mtlora_r64.get_config()
    c.adapter.rank = 16
    return c
