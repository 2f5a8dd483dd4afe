r"""Heads alone, and the norms of the taps before them (arXiv 2210.03265).

  for task in semseg human_parts sal normals; do
    python scripts/train.py --config configs/decoders_swin_t_all_mlp.py \
        --config.data.synth_pascal.tasks="('$task',)" --workdir runs/decoders_$task
  done

The four runs are one row; they train 2,549,024 parameters with heads.
"""

import ml_collections as mlc

from configs import polyhistor


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.data.synth_pascal.tasks = ("semseg",)
    c.adapter = dict(name="none")
    c.trainable = (("backbone/out_norms/.*", True), ("backbone/.*", False), (".*", True))
    return c
