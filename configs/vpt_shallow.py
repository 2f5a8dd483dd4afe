r"""Visual prompts at the first block (VPT, arXiv 2203.12119) as a row of arXiv 2210.03265.

  for task in semseg human_parts sal normals; do
    python scripts/train.py --config configs/vpt_shallow.py \
        --config.data.synth_pascal.tasks="('$task',)" --workdir runs/vpt_shallow_$task
  done

The four runs are one row; they train 2,568,224 parameters with heads.
"""

import ml_collections as mlc

from configs import polyhistor


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.data.synth_pascal.tasks = ("semseg",)
    c.adapter = dict(name="vpt", prompts=50)
    return c
