"""Tables of MTLoRA, Polyhistor and what followed: PASCAL-Context, four tasks, Swin-T."""

from mtl_vision.tables.published import Table

FOUR = ("semseg", "human_parts", "sal", "normals")


def _mtlora(row: str) -> tuple[str, ...]:
    return (f"tables/mtlora:{row}",)


def _polyhistor(row: str) -> tuple[str, ...]:
    return (f"tables/polyhistor:{row}",)


def _alone(entries: tuple[str, ...]) -> tuple[str, ...]:
    """A run of its own for every task."""
    return tuple(f"{entry}@{kind}" for entry in entries for kind in FOUR)


SCORES = {"semseg": "semseg", "human_parts": "human_parts", "sal": "sal", "normals": "normals"}
# Both tables have these, with All-MLP heads.
SHARED = {
    **{
        row: _alone(_polyhistor(row))
        for row in (
            *("adapter", "bitfit", "vpt_shallow", "vpt_deep", "compacter", "compacter_pp"),
            "lora",
        )
    },
    **{row: _polyhistor(row) for row in ("hyperformer", "polyhistor")},
}
RANKS = (16, 32, 64)
# Of full fine-tuning, in both tables that have MTLoRA's heads.
ALL_MLP = {
    ("single_task", "params_m"): "the figure is that of four models with All-MLP heads, "
    "112,620,296; the HRNet heads of MTLoRA's code have what is here.",
    ("mtl_full", "params_m"): "the figure is that of a model with All-MLP heads, 30,058,202; the "
    "HRNet heads of MTLoRA's code have what is here.",
}
NORMS = "norms of the taps, 2,880 parameters in each encoder, are counted here"

MAIN = Table(
    title="MTLoRA, Table 1 (arXiv 2403.20320): PASCAL-Context, Swin-T, HRNet heads",
    configs={
        "single_task": _alone(_mtlora("mtl_full")),
        "mtl_full": _mtlora("mtl_full"),
        **{f"mtlora_r{r}": _mtlora(f"mtlora_r{r}") for r in RANKS},
        "mtl_decoders_only": _mtlora("mtl_decoders_only"),
        **SHARED,
        "vl_adapter": _polyhistor("shared_adapter"),
    },
    file="mtlora.yaml",
    section="table1_main",
    base="single_task",
    scores=SCORES,
    delta="delta_m",
    params="params_m",
    total="measured_total",
    inexact={
        **ALL_MLP,
        ("mtl_decoders_only", "params_m"): "1.9466 million, cut.",
    },
    note="Numbers of all parameters are counts of the authors' code.",
)
PLUS = Table(
    title="MTLoRA+ (arXiv 2403.20320): the configs of its code, which no table has",
    configs={
        f"mtlora_plus_{row}": _mtlora(f"mtlora_plus_{row}")
        for row in ("r4", "r8", "r16", *(f"r{r}_pertask" for r in RANKS))
    },
    file="mtlora.yaml",
    section="mtlora_plus",
    params="trainable",
    total="measured_total",
    note="The numbers are counts of the authors' code.",
)
FOLLOWUPS = Table(
    title="After MTLoRA: PASCAL-Context and NYUD-v2, Swin-T",
    configs={
        "single_task": _alone(_mtlora("mtl_full")),
        "mtl_full": _mtlora("mtl_full"),
        "mtlora_r64": _mtlora("mtlora_r64"),
        **{f"tadformer_r{r}": _mtlora(f"tadformer_r{r}") for r in RANKS},
        "ditask": _mtlora("ditask"),
    },
    file="mtlora.yaml",
    section="quoted_followups",
    base="single_task",
    scores=SCORES,
    delta="delta_m",
    params="params_m",
    encoder="params_encoder",
    inexact=ALL_MLP,
)
POLYHISTOR = Table(
    title="Polyhistor, Table 1 (arXiv 2210.03265): PASCAL-Context, Swin-T, All-MLP heads",
    configs={
        "single_task_full": _alone(_polyhistor("multi_task_full")),
        "multi_task_full": _polyhistor("multi_task_full"),
        **SHARED,
        **{row: _alone(_polyhistor(row)) for row in ("decoders_only", "phm", "low_rank_adapter")},
        **{row: _polyhistor(row) for row in ("shared_adapter", "polyhistor_lite")},
    },
    file="polyhistor.yaml",
    base="single_task_full",
    scores=SCORES,
    delta="delta",
    params="params_total",
    encoder="params_encoder",
    inexact={
        ("single_task_full", "params_encoder"): f"{NORMS}; without them it is 110.07.",
        ("decoders_only", "params_encoder"): f"{NORMS} and all that trains.",
        ("polyhistor", "params_encoder"): f"{NORMS}; the adapters have 6,420,232, those of the "
        "other reading, `polyhistor_v`, 6,418,064, which is 6.41 if cut.",
        ("polyhistor_lite", "params_encoder"): f"{NORMS}; the adapters have 415,132, which is 0.41 "
        "if cut.",
    },
)

TABLES: dict[str, Table] = {
    "mtlora.main": MAIN,
    "mtlora.plus": PLUS,
    "mtlora.followups": FOLLOWUPS,
    "polyhistor.main": POLYHISTOR,
}
