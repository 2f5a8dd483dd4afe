r"""An adapter for all tasks but for its norms, VL-Adapter (arXiv 2112.06825) in arXiv 2210.03265.

  python scripts/train.py --config configs/shared_adapter.py --workdir runs/shared_adapter

It trains 4,738,880 parameters with heads.
"""

import ml_collections as mlc

from configs import polyhistor


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.adapter = dict(name="adapter", norm="task")
    return c
