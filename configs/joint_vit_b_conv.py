r"""ViT-B/16 with small convolutional heads, jointly on both synthetic datasets, protocol B.

  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 512 --data_dir data
  python scripts/train.py --config configs/joint_vit_b_conv.py --workdir runs/vit_b

Canvases, optimizer and schedule of InvPT (arXiv 2203.07997) and TaskPrompter (ICLR 2023): 512x512
and 448x576, Adam 2e-5 with coupled decay on everything, poly 0.9 over 40,000 steps, clipping at
10. From scratch, because no pretrained weights are at hand. Not measured yet.
"""

import ml_collections as mlc


def get_config() -> mlc.ConfigDict:
    c = mlc.ConfigDict()
    c.seed, c.protocol, c.dtype = 0, "B", "float32"

    c.data = dict(source="tfds", root="data", batch=4, workers=8, processes=0)
    augment = dict(flip=True, rotate=0.0, scales=(0.5, 2.0), discrete=False)
    augment |= dict(max_share=0.75, distort=True)
    shared = dict(root="", config="512", batch=0, weight=1.0, augment=augment)
    shared |= dict(normals_sign=(1, 1, 1))
    c.data.synth_pascal = shared | dict(
        size=(512, 512), tasks=("semseg", "normals", "edge", "sal", "human_parts")
    )
    c.data.synth_nyud = shared | dict(size=(448, 576), tasks=("semseg", "depth", "normals", "edge"))
    c.mixture = dict(name="paired")
    c.loss_weights = dict(semseg=1.0, depth=1.0, normals=10.0, edge=50.0, sal=5.0, human_parts=2.0)

    # The position table of a 512x512 image, class token and last norm: 86,434,560 parameters.
    c.backbone = dict(
        name="vit_b", patch=16, grid=(32, 32), drop_path=0.15, scan=True, remat="block"
    )
    c.adapter = dict(name="none")
    c.decoder = dict(name="conv", width=128)
    c.trainable = ()
    c.init_from, c.init_skip = "", ()

    c.optim = dict(
        name="adam",
        lr=2e-5,
        lr_batch=0,
        weight_decay=1e-6,
        clip_norm=10.0,
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
    c.mesh = dict(preset="dp", slices=1, tensor=1)
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
        not_finite="stop",
        stall=1800,
        dry=False,
    )
    return c
