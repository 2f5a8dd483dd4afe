r"""InvPT with ViT-L/16, jointly on both synthetic datasets, protocol B (arXiv 2203.07997).

  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 512 --data_dir data
  python scripts/train.py --config configs/invpt_vit_l.py --workdir runs/invpt_vit_l
  python scripts/count.py --config configs/invpt_vit_l.py

The recipe of its code for both of its datasets: 512x512 and 448x576, 6 images a step, Adam 2e-5
with coupled decay on everything, poly 0.9 over 40,000 steps, no clipping; preliminary predictions
count as much as the final ones. From scratch, because no pretrained weights are at hand. Not
measured yet. With `backbone.scan=False` a released checkpoint of one dataset fits.
"""

import ml_collections as mlc


def get_config() -> mlc.ConfigDict:
    c = mlc.ConfigDict()
    c.seed, c.protocol, c.dtype = 0, "B", "float32"

    c.data = dict(source="tfds", root="data", batch=6, workers=8, processes=0)
    augment = dict(flip=True, rotate=0.0, scales=(0.5, 2.0), discrete=False)
    augment |= dict(max_share=0.75, distort=True)
    shared = dict(root="", config="512", batch=0, weight=1.0, augment=augment)
    shared |= dict(normals_sign=(1, 1, 1))
    c.data.synth_pascal = shared | dict(
        size=(512, 512), tasks=("semseg", "normals", "edge", "sal", "human_parts")
    )
    c.data.synth_nyud = shared | dict(size=(448, 576), tasks=("semseg", "depth", "normals", "edge"))
    c.loss_weights = dict(semseg=1.0, depth=1.0, normals=10.0, edge=50.0, sal=5.0, human_parts=2.0)

    # The position table of a 512x512 image, class token and last norm: 304,149,504 parameters.
    c.backbone = dict(
        name="vit_l", patch=16, grid=(32, 32), drop_path=0.15, scan=True, remat="block"
    )
    c.adapter = dict(name="none")
    c.decoder = dict(name="invpt", width=512, margin=64, intermediate=1.0)
    c.trainable = ()
    c.init_from, c.init_skip = "", ()

    c.optim = dict(
        name="adam",
        lr=2e-5,
        lr_batch=0,
        weight_decay=1e-6,
        clip_norm=0.0,
        decay=((".*", 1.0),),
        lr_scale=((".*", 1.0),),
        accumulate=1,
        per_task="vmap",
        ema=0.0,
    )
    # No per-task gradients: the plain gradient of the sum. See `mtl_vision.optim.methods`.
    c.optim.aggregator = dict(name="sum")
    c.optim.weighting = dict(name="equal")
    c.optim.sam = dict(name="none")
    c.schedule = dict(name="poly", power=0.9)
    c.mesh = dict(data=-1, fsdp=1, tensor=1)
    c.eval = dict(split="test", monitor="val", batch=4, limit=100, workers=8)
    c.run = dict(
        steps=40000,
        log_every=50,
        eval_every=1000,
        save_every=1000,
        keep=2,
        best="",
        panels=4,
        conflicts_every=0,
        dry=False,
    )
    return c
