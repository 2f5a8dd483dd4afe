r"""M3ViT with a small ViT, five tasks at 512 (arXiv 2210.14793, Table 1, row M3ViT).

  python scripts/prepare_data.py --dataset synth_pascal --config 512 --data_dir data
  python scripts/train.py --config configs/m3vit_vit_s.py --workdir runs/m3vit

The authors' recipe: 16 experts a quarter as wide as an MLP, of which each token takes 4, in every
second block; a gate per task; SGD at 0.002 with batches of 16, 100 epochs, the rate falling with
power 0.9 (in every step here, in every epoch there); protocol A with their loss weights. The
backbone has 43,463,040 parameters. Its 12 heads are theirs; with the weights of DeiT-S use 6.

One task by itself takes 83.8 G multiply-adds, as published. On `synth_pascal`, whose tasks and
classes are PASCAL-Context's, in steps of 2,000 images, and from scratch, where the authors start
from a mixture trained on ImageNet that is not public: no figure of the paper can come of it. Not
run yet.
"""

import ml_collections as mlc

from configs import polyhistor

EPOCH = 2000 // 16


def get_config() -> mlc.ConfigDict:
    c = polyhistor.get_config()
    c.data.batch = 16
    c.data.synth_pascal.config, c.data.synth_pascal.size = "512", (512, 512)
    c.data.synth_pascal.tasks = ("semseg", "normals", "edge", "sal", "human_parts")
    c.loss_weights = dict(semseg=1.0, normals=10.0, edge=50.0, sal=5.0, human_parts=2.0)

    c.backbone = dict(name="vit", channels=384, depth=12, heads=12, grid=(32, 32), taps=(12,))
    c.backbone.update(position_resize="bilinear", scan=False, remat="block")
    c.adapter = dict(name="m3vit", experts=16, top=4, ratio=1.0, router="multi", gate="vmoe")
    c.adapter.update(noise=0.0, balance=0.01, anchored=False)
    c.decoder = dict(name="pup", width=256)

    c.optim = dict(
        name="sgd",
        momentum=0.9,
        lr=2e-3,
        lr_batch=0,
        weight_decay=1e-4,
        clip_norm=0.0,
        decay=((".*", 1.0),),
        lr_scale=((".*", 1.0),),
        accumulate=1,
        per_task="vmap",
        ema=0.0,
    )
    c.optim.aggregator = dict(name="sum")
    c.optim.weighting = dict(name="equal")
    c.optim.sam = dict(name="none")
    c.schedule = dict(name="poly", power=0.9)
    c.eval.batch = 16
    c.run.update(steps=100 * EPOCH, eval_every=5 * EPOCH, save_every=5 * EPOCH)
    return c
