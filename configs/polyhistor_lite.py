r"""Polyhistor-Lite (arXiv 2210.03265): a template for all blocks, scaling kernels for each.

  python scripts/train.py --config configs/polyhistor_lite.py --workdir runs/polyhistor_lite

It trains 2,955,516 parameters with heads; `--config.adapter.name=polyhistor_lite_v` is the other
reading, 2,956,516.
"""

import ml_collections as mlc

from configs import polyhistor


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.adapter = dict(name="polyhistor_lite")
    return c
