r"""Hyperformer (arXiv 2106.04489) as a row of Polyhistor's table (arXiv 2210.03265).

  python scripts/train.py --config configs/hyperformer.py --workdir runs/hyperformer

It trains 72,765,640 parameters with heads.
"""

import ml_collections as mlc

from configs import polyhistor


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.adapter = dict(name="hyperformer")
    return c
