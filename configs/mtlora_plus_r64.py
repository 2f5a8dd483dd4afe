r"""MTLoRA+, which adapts patch merging too (arXiv 2403.20320): trains 7,054,394 parameters.

  python scripts/train.py --config configs/mtlora_plus_r64.py --workdir runs/mtlora_plus_r64

The other sizes of the paper's code: ``--config.adapter.rank=16``, ``--config.adapter.task_rank=8``.
"""

import ml_collections as mlc

from configs import mtlora_r64


def get_config() -> mlc.ConfigDict:
    c = mtlora_r64.get_config()
    c.adapter.plus = True
    return c
