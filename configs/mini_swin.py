r"""A small Swin on four tasks of synth_pascal: where adapters, and decoders, are compared.

  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 64-1280-16-128
  python scripts/train.py --config configs/mini_swin_backbone.py --workdir runs/mini_swin
  python scripts/compare.py --study decoders --config configs/mini_swin.py \
      --config.init_from=runs/mini_swin --out runs/decoders_swin

1280 training and 128 test images of 64 x 64; the backbone has 0.6 million parameters and is first
trained on the tasks of the other dataset. The figures compare rows on two CPU cores; they are no
result of any paper. For adapters see docs/adapters.md.
"""

import ml_collections as mlc

from configs import quickstart


def get_config() -> mlc.ConfigDict:
    c = quickstart.get_config()
    del c.data.synth_nyud
    c.data.synth_pascal.update(
        config="64-1280-16-128", size=(64, 64), tasks=("semseg", "normals", "sal", "human_parts")
    )
    c.backbone.update(depths=(2, 2, 2), window=4)
    c.schedule.warmup = 20
    c.eval.batch = 16
    c.run.update(steps=400, log_every=50, eval_every=0, save_every=0, keep=1, panels=0)
    return c
