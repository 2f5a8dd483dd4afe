r"""MTLoRA with shared rank 32 (arXiv 2403.20320, Table 1): trains 6,083,642 parameters.

python scripts/train.py --config configs/mtlora_r32.py --workdir runs/mtlora_r32
"""

import ml_collections as mlc

from configs import mtlora_r64


def get_config() -> mlc.ConfigDict:
    c = mtlora_r64.get_config()
    c.adapter.rank = 32
    return c
