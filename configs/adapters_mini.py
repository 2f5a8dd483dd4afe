r"""Adapters on one small problem: four tasks of synth_pascal, from a backbone of synth_nyud.

  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 64-320-16-64
  python scripts/train.py --config configs/adapters_mini_backbone.py --workdir runs/backbone
  python scripts/compare_adapters.py --config configs/adapters_mini.py --only decoders \
      --config.init_from=runs/backbone --config.run.steps=600 --out runs/heads
  python scripts/compare_adapters.py --config configs/adapters_mini.py \
      --config.init_from=runs/heads/decoders --out runs/adapters

A Swin of 0.6 million parameters, trained fully on the tasks of the other dataset, is frozen, and
heads are trained on it; all adapters start there. The figures compare adapters on two CPU cores;
they are no result of any paper.
"""

import ml_collections as mlc

from configs import quickstart


def get_config() -> mlc.ConfigDict:
    c = quickstart.get_config()
    del c.data.synth_nyud
    c.data.synth_pascal.update(
        config="64-320-16-64", size=(64, 64), tasks=("semseg", "normals", "sal", "human_parts")
    )
    c.backbone.update(depths=(2, 2, 2), window=4)
    c.schedule.warmup = 20
    c.eval.batch = 16
    c.run.update(steps=200, log_every=50, eval_every=0, save_every=0, keep=1, panels=0)
    return c
