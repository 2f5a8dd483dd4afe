r"""A decoder in the manner of TaskExpert on ViT-L/16, synthetic PASCAL-Context, protocol B.

  python scripts/prepare_data.py --dataset synth_pascal --config 512 --data_dir data
  python scripts/train.py --config configs/taskexpert_vit_l.py --workdir runs/taskexpert_vit_l

A reconstruction from the abstract of arXiv 2307.15324, whose code is not public; see
`models.decoders.task_expert`. The recipe is that of the same authors' TaskPrompter: 512x512, 4
images a step, Adam 2e-5 with coupled decay on everything, poly 0.9 over 40,000 steps, clipping at
10. It has 418,395,438 parameters, as many millions as later papers give. From scratch, because no
pretrained weights are at hand. Not measured yet.
"""

import ml_collections as mlc


def get_config() -> mlc.ConfigDict:
    c = mlc.ConfigDict()
    c.seed, c.protocol, c.dtype = 0, "B", "float32"

    c.data = dict(source="tfds", root="data", batch=4, workers=8, processes=0)
    c.data.synth_pascal = dict(
        root="",
        config="512",
        size=(512, 512),
        batch=0,
        tasks=("semseg", "normals", "edge", "sal", "human_parts"),
        weight=1.0,
        normals_sign=(1, 1, 1),
        augment=dict(
            flip=True,
            rotate=0.0,
            scales=(0.5, 2.0),
            discrete=False,
            max_share=0.75,
            distort=True,
        ),
    )
    c.loss_weights = dict(semseg=1.0, normals=10.0, edge=50.0, sal=5.0, human_parts=2.0)

    # The position table of a 512x512 image, class token and last norm: 304,149,504 parameters.
    c.backbone = dict(
        name="vit_l", patch=16, grid=(32, 32), drop_path=0.15, scan=True, remat="block"
    )
    c.adapter = dict(name="none")
    c.decoder = dict(
        name="task_expert",
        preset="budget",
        taps=(),
        expert="conv",
        memory=True,
        memory_init="learned",
        memory_write="residual",
        gate_mode="both",
        gate_norm="softmax",
        gate_granularity="sample",
        gate_temperature=1.0,
        balance_weight=0.0,
        head="bilinear4",
        aux=False,
        aux_weight=1.0,
        reads="trunk",
        slots="task",
    )
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
