r"""Polyhistor, Swin-T with All-MLP heads, four tasks at 448 (arXiv 2210.03265).

  python scripts/prepare_data.py --dataset synth_pascal --config 448 --data_dir data
  python scripts/train.py --config configs/polyhistor.py --workdir runs/polyhistor

The paper's settings are not known: the adapters are those that give its number of parameters, here
8,960,616 with heads (`--config.adapter.name=polyhistor_v` is the other reading, 8,958,448), and the
recipe is MTLoRA's: protocol A, AdamW, 300 epochs at batch 32 with 20 of warm-up. No decay of
embeddings, scaling kernels, norms and biases. On `synth_pascal`, whose tasks and classes are
PASCAL-Context's, in steps of 2,000 images, and from scratch: no figure of the paper can come of it.
Not run yet.
"""

import ml_collections as mlc

EPOCH = 2000 // 32


def get_config() -> mlc.ConfigDict:
    c = mlc.ConfigDict()
    c.seed, c.protocol, c.dtype = 0, "A", "float32"

    c.data = dict(source="tfds", root="data", batch=32, workers=16, processes=0)
    c.data.synth_pascal = dict(
        root="",
        config="448",
        size=(448, 448),
        batch=0,
        tasks=("semseg", "normals", "sal", "human_parts"),
        weight=1.0,
        normals_sign=(1, 1, 1),
        augment=dict(
            flip=True,
            rotate=20.0,
            scales=(0.75, 1.25),
            discrete=False,
            max_share=1.0,
            distort=False,
        ),
    )
    c.mixture = dict(name="paired")
    c.loss_weights = dict(semseg=1.0, normals=10.0, sal=5.0, human_parts=2.0)

    c.backbone = dict(name="swin_t", window=7, drop_path=0.2, remat="none")
    c.backbone.update(taps="stage", out_norm=True)
    c.adapter = dict(name="polyhistor")
    c.decoder = dict(name="all_mlp", width=256, dropout=0.1)
    c.trainable = ()
    c.init_from, c.init_skip = "", ()

    c.optim = dict(
        name="adamw",
        lr=5e-4,
        lr_batch=512,
        weight_decay=0.05,
        clip_norm=5.0,
        decay=((".*/(bias|scale|embedding|scaling)", 0.0), (".*", 1.0)),
        lr_scale=((".*", 1.0),),
        accumulate=1,
        per_task="vmap",
        ema=0.0,
    )
    # No per-task gradients: the plain gradient of the sum. See `mtl_vision.optim.methods`.
    c.optim.aggregator = dict(name="sum")
    c.optim.weighting = dict(name="equal")
    c.optim.sam = dict(name="none")
    c.schedule = dict(name="cosine", warmup=20 * EPOCH, start=1e-3, floor=1e-2, lag=1)
    c.mesh = dict(preset="dp", slices=1, tensor=1)
    c.eval = dict(split="test", monitor="val", batch=32, limit=0, workers=8)
    c.run = dict(
        steps=300 * EPOCH,
        log_every=50,
        eval_every=5 * EPOCH,
        save_every=5 * EPOCH,
        keep=2,
        best="",
        panels=4,
        conflicts_every=0,
        not_finite="stop",
        stall=1800,
        dry=False,
    )
    return c
