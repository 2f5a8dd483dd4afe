r"""Adapters, decoders and methods for gradients on one small problem, one row each.

  python scripts/reproduce.py --table mini.adapters
  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 64-4000-16-256
  python scripts/train.py --config configs/mini.py:swin.backbone \
      --workdir runs/mini/mini.swin.backbone/seed0
  python scripts/train.py --config configs/mini.py:swin.mtlora_r16 --workdir runs/mtlora_r16

`scripts/reproduce.py` does for a whole table what the other commands do for one row. A name is a
backbone, `swin` or `vit` (1.3 and 0.7 million parameters, patches of 8 x 8), and a row of `rows`.
`backbone` is trained fully on the four tasks of synth_nyud, all others start from it on four of
synth_pascal: 4000 training and 256 test images of 64 x 64, 600 steps of 8. `joint` and what it is
compared with start from nothing and have all tasks, for twice as long. With `large.` before the
name the problem is one for a GPU: 128 x 128 pixels, 6000 images, a wider backbone, 4000 steps of
32.

`edges.` before a row that adapts the backbone makes it harder for the heads alone: the backbone has
learned nothing but edges, `edges.backbone`, the heads are All-MLP, which see one place at a time,
and learn for eight times as long. What `backbone` has learned serves the other tasks as it is, so
there whatever adapts it gains little.

Ranks are a quarter of the papers'. A backbone that goes on learning, and MTLoRA, have a quarter of
the rate of the heads: at the whole of it they lose more than they gain. Fixed weights are three
settings, so that the methods that choose weights meet a tuned one. The figures compare rows; they
are no result of any paper.
"""

from collections.abc import MutableMapping
from typing import Any

import ml_collections as mlc

from configs import quickstart
from mtl_vision.errors import ConfigError, lookup

Changes = dict[str, Any]  # by dotted field
Rows = dict[str, Changes]

HEADS = (("backbone/.*", False), (".*", True))
BITFIT = (("backbone/.*(bias|bias_table)|backbone/out_norms/.*", True), *HEADS)
NONE = dict(name="none")
# Fields that the defaults of the adapters, made for Swin-T, leave to a backbone this small.
SMALL = {
    "mtlora": dict(rank=16),
    "dora": dict(rank=16, task_rank=4),
    "tadformer": dict(rank=16),
    "low_rank_adapter": dict(rank=2),
    "vpt": dict(prompts=2, deep=True),
    "phm": dict(ratio=6),
    "hyperformer": dict(embed=32),
    # About a tenth, and a few hundredths, of Hyperformer's parameters, as published.
    "polyhistor": dict(embed=18),
    "polyhistor_v": dict(name="polyhistor", embed=18, rank=4, ratio=4, norm="shared"),
    "polyhistor_lite": dict(embed=8),
    "polyhistor_lite_v": dict(
        name="polyhistor_lite", embed=8, rank=2, ratio=4, norm="shared", projection=(8, 16)
    ),
    "mhr": dict(rank=4, alpha=16.0, relaxed=False),  # as microsoft/mttl has it
    # Two passes over the data, as in the paper. Its weight of 1 is for SGD: under Adam it ends
    # every change before one is learned.
    "taps": dict(warmup=1000, penalty=0.01),
    # Evaluated at the centre: batch norms of heads need draws near it.
    "palora": dict(concentration=10.0),
}
# Maps behind attention and MLP end in a norm whose scale starts at 0, and hardly learn else.
BEHIND = r"backbone/(generate/.*|.*/scale[12]/(linear/)*(down|up|norm)/.*)"
FASTER, EVEN = ((BEHIND, 5.0), (".*", 1.0)), ((".*", 1.0),)
SLOWER = (("backbone/.*", 0.25), (".*", 1.0))  # where the whole backbone goes on learning
RATES = {"mtlora": SLOWER}  # whose factor of 4 is a rate of its own
BACKBONES = {
    "swin": dict(embed=48, depths=(2, 2, 2), window=4, patch=8),  # of the quickstart's otherwise
    "vit": dict(name="vit", channels=96, depth=6, heads=4, patch=8, grid=(8, 8), taps=(2, 4, 6)),
}
OWN_HEADS = ("m3vit", "task_prompter")  # their backbones start elsewhere
# Decoders of like widths, for three taps and images of 64 x 64.
WIDE = {
    "conv": dict(width=64),
    "hrnet": dict(widths=(16, 32, 64)),
    "aspp": dict(widths=(16, 32, 64), width=64, dilations=(1, 2, 4)),
    "all_mlp": dict(width=64),
    "pup": dict(width=64),
    "updecoder": dict(widths=(16, 32, 64)),
    "invpt": dict(width=64, margin=16),
    "mlore": dict(width=64, ranks=(2, 4, 6, 8, 12, 16), task_rank=8, top=4),
    "task_expert": dict(preset="tiny", width=64, memory_stride=8),
}
TASKS = ("semseg", "normals", "sal", "human_parts")
GRIDS = {"swin": (4, 4), "vit": (8, 8)}  # of the tap that MLoRE brings the others to
ABLATIONS = {"no_memory": dict(memory=False), "one_expert": dict(experts=1)}
PROMPTER = dict(name="task_prompter", size=(64, 64), embed=64, width=64, windows=2)
M3VIT = dict(name="m3vit", experts=8, top=2)

# What a run on more than a CPU has in the place of the small problem's.
SIDES = {"synth_pascal": (64, 64), "synth_nyud": (56, 72)}
DATA, LARGE_DATA = "64-4000-16-256", "128-6000-100-500"
LARGE = {
    "data.batch": 32,
    "eval.batch": 50,
    "run.steps": 4000,
    "schedule.warmup": 200,
}
WIDER = {
    "swin": {"backbone.embed": 96, "backbone.heads": (3, 6, 12)},
    "vit": {"backbone.channels": 288, "backbone.heads": 6, "backbone.grid": (16, 16)},
}

# Rows from nothing and their datasets, all tasks of each; other rows have four of synth_pascal.
BACKBONE, EDGES = "backbone", "edges."
SCRATCH = {
    BACKBONE: ("synth_nyud",),
    "joint": ("synth_pascal", "synth_nyud"),
    "alone_pascal": ("synth_pascal",),
    "alone_nyud": ("synth_nyud",),
}
# What `edges.` changes: in what the backbone learns, and in what is put on it.
ONLY_EDGES = {"data.synth_nyud.tasks": ("edge",)}
ON_EDGES = {"decoder": dict(name="all_mlp", **WIDE["all_mlp"])}
# Of arXiv 2403.20320's code; and no weights at all. The small problem's own are the third setting.
WEIGHTS = {
    "weights_published": dict(semseg=1.0, normals=10.0, sal=5.0, human_parts=2.0),
    "weights_one": dict(semseg=1.0, normals=1.0, sal=1.0, human_parts=1.0),
}
CONFLICTS = ("pcgrad", "cagrad", "imtl_g", "nash_mtl", "fairgrad")
# With the radius of the authors' code, 2 and adaptive, human_parts is not learned at all here.
SAM = dict(name="task_sam", adaptive=False, rho_shared=0.05, rho_task=0.05)


def get_config(row: str = "swin.full") -> mlc.ConfigDict:
    large, _, small = row.partition(".")
    kind, _, name = (small if large == "large" else row).partition(".")
    if kind not in GRIDS:
        raise ConfigError(
            f"configs/mini.py:{row} names no row; write a backbone and a row, such as "
            f"configs/mini.py:swin.mtlora, with one of {', '.join(GRIDS)} before the dot."
        )
    size = "large." if large == "large" else ""
    start = EDGES if name.startswith(EDGES) else ""
    name = name.removeprefix(start)
    c = base(kind)
    factor = 2 if size else 1
    if size:
        put(c, LARGE | WIDER[kind])
    found = adapters() if start else rows(kind, factor)
    if name == BACKBONE or (name in SCRATCH and not start):
        from_nothing(c, name)
    else:
        put(c, lookup(found, name, "row"))
        c.init_from = f"runs/mini/mini.{size}{kind}.{start}{BACKBONE}/seed0"
    if start:
        put(c, ONLY_EDGES if name == BACKBONE else ON_EDGES)
        c.run.steps = int(c.run.steps * (0.5 if name == BACKBONE else 8))
    for dataset in ("synth_pascal", "synth_nyud"):
        if dataset in c.data:
            height, width = SIDES[dataset]
            c.data[dataset].size = (factor * height, factor * width)
            c.data[dataset].config = LARGE_DATA if size else DATA
    return c


def base(kind: str) -> mlc.ConfigDict:
    """Returns the config of the row `full` with a kind of backbone, on fresh parameters."""
    c = quickstart.get_config()
    del c.data.synth_nyud
    c.data.synth_pascal.tasks = TASKS
    c.backbone = (c.backbone.to_dict() if kind == "swin" else {}) | BACKBONES[kind]
    c.decoder = dict(name="conv", **WIDE["conv"])
    c.schedule.warmup = 40
    c.eval.batch = 16
    c.optim.lr_scale = SLOWER
    c.run.update(steps=600, log_every=50, eval_every=0, save_every=0, keep=1, panels=0)
    return c


def from_nothing(c: mlc.ConfigDict, name: str) -> None:
    """Gives a config the datasets of a row of `SCRATCH`, with all their tasks."""
    whole = quickstart.get_config().data
    del c.data.synth_pascal
    for dataset in SCRATCH[name]:
        c.data[dataset] = whole[dataset]
    c.optim.lr_scale = EVEN
    c.run.steps *= 4 if name == BACKBONE else 2


def put(values: MutableMapping[str, Any], changes: Changes) -> None:
    """Sets fields of a config, given by dotted names."""
    for field, value in changes.items():
        *above, name = field.split(".")
        section = values
        for part in above:
            section = section[part]
        section[name] = value


def rows(kind: str, factor: int = 1) -> Rows:
    """Returns every row by name, as what it changes.

    Args:
      kind: of the backbone.
      factor: of the size of images.
    """
    found = adapters() | decoders(kind, factor) | conflicts()
    for rank in (4, 8, 16):
        adapter = dict(name="mtlora", rank=rank)
        found[f"mtlora_r{4 * rank}"] = found["mtlora"] | {"adapter": adapter}
    return found


def adapters() -> Rows:
    """Returns the heads alone, full training, and every adapter with what its paper trains."""
    from mtl_vision.models.adapters import ADAPTERS, PATTERNS

    found: Rows = {
        "decoders": {"adapter": NONE, "trainable": HEADS, "optim.lr_scale": EVEN},
        "full": {"adapter": NONE},
        "bitfit": {"adapter": NONE, "trainable": BITFIT, "optim.lr_scale": EVEN},
    }
    for name in ADAPTERS:
        if name not in OWN_HEADS:
            rates = FASTER if PATTERNS[name] == PATTERNS["adapter"] else RATES.get(name, EVEN)
            adapter = dict(name=name) | SMALL.get(name, {})
            found[name] = {"adapter": adapter, "optim.lr_scale": rates}
    found["vpt_shallow"] = found["vpt"] | {"adapter": dict(name="vpt", prompts=2, deep=False)}
    return found


def decoders(kind: str, factor: int = 1) -> Rows:
    """Returns every decoder, ablations of TaskExpert, and on a ViT TaskPrompter and M3ViT."""
    from mtl_vision.models.decoders import DECODERS

    made = {name: dict(name=name, **WIDE.get(name, {})) for name in ("conv", *DECODERS)}
    made["mlore"]["grid"] = tuple(factor * side for side in GRIDS[kind])
    made["conv_wide"] = dict(name="conv", width=128)
    found: Rows = {name: {"decoder": decoder} for name, decoder in made.items()}
    for name, change in ABLATIONS.items():
        found[f"task_expert_{name}"] = {"decoder": made["task_expert"] | change}
    if kind != "vit":
        del found["task_prompter"]
        return found
    size = tuple(factor * side for side in SIDES["synth_pascal"])
    # Much of these backbones is new.
    found["task_prompter"] |= {"adapter": PROMPTER | dict(size=size), "optim.lr_scale": EVEN}
    for anchored in (False, True):
        name = "conv_m3vit_anchored" if anchored else "conv_m3vit"
        adapter = M3VIT | dict(anchored=anchored)
        found[name] = {"decoder": made["conv"], "adapter": adapter, "optim.lr_scale": EVEN}
    return found


def conflicts() -> Rows:
    """Returns full training under fixed weights, and under methods that choose them."""
    found: Rows = {name: {"loss_weights": weights} for name, weights in WEIGHTS.items()}
    found["uncertainty"] = {"optim.weighting": dict(name="uw")}
    for name in CONFLICTS:
        found[name] = {"optim.aggregator": dict(name=name)}
    found["task_sam"] = {"optim.sam": SAM}
    found["cagrad_task_sam"] = {"optim.aggregator": dict(name="cagrad"), "optim.sam": SAM}
    return found
