"""The rows of `compare.py`: by name, what a row changes in the config of the problem.

The first row of a study is its base.
"""

from typing import Any

Rows = dict[str, dict[str, Any]]

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
    "hyperformer": dict(embed=32),
    "mhr": dict(rank=4),
}
# Maps behind attention and MLP end in a norm whose scale starts at 0, and hardly learn else.
BEHIND = r"backbone/(generate/.*|.*/scale[12]/(linear/)*(down|up|norm)/.*)"
FASTER = ((BEHIND, 5.0), (".*", 1.0))
OWN_HEADS = ("m3vit", "task_prompter")  # their backbones start elsewhere
# Decoders of like widths, for three taps and images of 64 x 64.
WIDE = {
    "conv": dict(width=32),
    "hrnet": dict(widths=(8, 16, 32)),
    "aspp": dict(widths=(8, 16, 32), width=32, dilations=(1, 2, 4)),
    "all_mlp": dict(width=32),
    "pup": dict(width=32),
    "invpt": dict(width=32, margin=16),
    "mlore": dict(width=32, ranks=(2, 4, 6, 8, 12, 16), task_rank=8, top=4),
    "task_expert": dict(preset="tiny", memory_stride=8),
}
GRIDS = {"swin": (4, 4), "vit": (8, 8)}  # of the tap that MLoRE brings the others to
ABLATIONS = {"no memory": dict(memory=False), "one expert": dict(experts=1)}
PROMPTER = dict(name="task_prompter", size=(64, 64), embed=32, width=32, windows=2)
M3VIT = dict(name="m3vit", experts=8, top=2)


def adapters(values: dict[str, Any]) -> Rows:
    """Returns the heads alone, full training, and every adapter with what its paper trains."""
    from mtl_vision.models.adapters import ADAPTERS, PATTERNS

    faster = values["optim"] | dict(lr_scale=FASTER)
    rows = {
        "decoders": dict(adapter=NONE, trainable=HEADS),
        "full": dict(adapter=NONE),
        "bitfit": dict(adapter=NONE, trainable=BITFIT),
    }
    for name in ADAPTERS:
        if name not in OWN_HEADS:
            rows[name] = dict(adapter=dict(name=name, **SMALL.get(name, {})))
            rows[name] |= dict(optim=faster) if PATTERNS[name] == PATTERNS["adapter"] else {}
    return rows


def decoders(values: dict[str, Any]) -> Rows:
    """Returns every decoder, ablations of TaskExpert, and on a ViT TaskPrompter and M3ViT."""
    from mtl_vision.models.decoders import DECODERS

    kind = values["backbone"]["name"]
    made = {name: dict(name=name, **WIDE.get(name, {})) for name in ("conv", *DECODERS)}
    made["mlore"]["grid"] = GRIDS[kind]
    made["conv, wide"] = dict(name="conv", width=128)
    rows = {name: dict(decoder=decoder) for name, decoder in made.items()}
    for name, change in ABLATIONS.items():
        rows[f"task_expert, {name}"] = dict(decoder=made["task_expert"] | change)
    if kind != "vit":
        del rows["task_prompter"]
        return rows
    rows["task_prompter"]["adapter"] = PROMPTER
    for anchored in (False, True):
        name = "conv, M3ViT anchored" if anchored else "conv, M3ViT"
        rows[name] = dict(decoder=made["conv"], adapter=M3VIT | dict(anchored=anchored))
    return rows


STUDIES = {"adapters": adapters, "decoders": decoders}
