r"""Nine tasks of two synthetic datasets with one small Swin, in a few minutes on two CPU cores.

  python scripts/train.py --config configs/quickstart.py --workdir runs/quickstart

Both SynthScenes domains in every step (`paired`), protocol B (arXiv 2203.07997), trained from
scratch. Its figures say that the program works; they are no result of any paper.
"""

import ml_collections as mlc


def get_config() -> mlc.ConfigDict:
    c = mlc.ConfigDict()
    c.seed, c.protocol, c.dtype = 0, "B", "float32"

    c.data = dict(source="tfds", root="data", batch=8, workers=2, processes=0)
    # Five passes over the data do not need more; see `mtl_vision.data.transforms.B` for the rest.
    augment = dict(flip=True, rotate=0.0, scales=(), discrete=False, max_share=1.0, distort=False)
    shared = dict(root="", config="quickstart", batch=0, weight=1.0, normals_sign=(1, 1, 1))
    c.data.synth_pascal = shared | dict(
        size=(96, 96),
        tasks=("semseg", "normals", "edge", "sal", "human_parts"),
        augment=augment,
    )
    c.data.synth_nyud = shared | dict(
        size=(72, 96), tasks=("semseg", "depth", "normals", "edge"), augment=augment
    )
    c.mixture = dict(name="paired")
    # Even shares of the gradient for a short run; the protocol's own are in `mtl_vision.tasks`.
    c.loss_weights = dict(semseg=4.0, depth=1.0, normals=5.0, edge=30.0, sal=3.0, human_parts=8.0)

    c.backbone = dict(
        name="swin",
        embed=32,
        depths=(2, 2, 4),
        heads=(1, 2, 4),
        window=7,
        drop_path=0.0,
        taps="stage",
    )
    c.adapter = dict(name="none")
    c.decoder = dict(name="conv", width=32)
    c.trainable = ()
    c.init_from, c.init_skip = "", ()

    c.optim = dict(
        name="adamw",
        lr=2e-3,
        lr_batch=0,
        weight_decay=0.05,
        b2=0.95,
        clip_norm=10.0,
        decay=(),
        lr_scale=((".*", 1.0),),
        accumulate=1,
        per_task="vmap",
        ema=0.0,
    )
    # No per-task gradients: the plain gradient of the sum. See `mtl_vision.optim.methods`.
    c.optim.aggregator = dict(name="sum")
    c.optim.weighting = dict(name="equal")
    c.optim.sam = dict(name="none")
    c.schedule = dict(name="cosine", warmup=100, start=0.0, floor=0.0)
    c.mesh = dict(preset="dp", slices=1, tensor=1)
    c.eval = dict(split="test", monitor="val", batch=16, limit=64, workers=2)
    c.run = dict(
        steps=800,
        log_every=20,
        eval_every=400,
        save_every=200,
        keep=2,
        best="",
        panels=4,
        conflicts_every=0,
        not_finite="stop",
        stall=1800,
        dry=False,
    )
    return c
