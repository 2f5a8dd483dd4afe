"""Runs of the small problem (`configs/mini.py`): those that stand for rows of the papers' tables,
and tables of their own."""

from mtl_vision.tables.published import Table

FOUR = ("semseg", "human_parts", "sal", "normals")


def _swin(row: str) -> tuple[str, ...]:
    return (f"mini:swin.{row}",)


def _alone(row: str) -> tuple[str, ...]:
    return tuple(f"mini:swin.{row}@{kind}" for kind in FOUR)


def _vit(row: str) -> tuple[str, ...]:
    return (f"mini:vit.{row}",)


_MTLORA = {
    "single_task": _alone("full"),
    "mtl_full": _swin("full"),
    "mtlora_r16": _swin("mtlora_r16"),
    "mtlora_r32": _swin("mtlora_r32"),
    "mtlora_r64": _swin("mtlora_r64"),
    "mtl_decoders_only": _swin("decoders"),
    "adapter": _alone("adapter"),
    "bitfit": _alone("bitfit"),
    "vpt_shallow": _alone("vpt_shallow"),
    "vpt_deep": _alone("vpt"),
    "compacter": _alone("compacter"),
    "compacter_pp": _alone("compacter_pp"),
    "lora": _alone("lora"),
    "vl_adapter": _swin("adapter"),
    "hyperformer": _swin("hyperformer"),
    "polyhistor": _swin("polyhistor"),
}

_POLYHISTOR = {
    "single_task_full": _alone("full"),
    "decoders_only": _swin("decoders"),
    **{row: _alone(row) for row in ("bitfit", "vpt_shallow", "phm", "compacter_pp", "compacter")},
    "vpt_deep": _alone("vpt"),
    **{row: _alone(row) for row in ("lora", "adapter", "low_rank_adapter")},
    "shared_adapter": _swin("adapter"),
    "hyperformer": _swin("hyperformer"),
    "polyhistor": _swin("polyhistor"),
    "polyhistor_lite": _swin("polyhistor_lite"),
    "multi_task_full": _swin("full"),
}

_FLAT = {
    "STL": _alone("full"),
    "LS": _swin("full"),
    "UW": _swin("uncertainty"),
    "PCGrad": _swin("pcgrad"),
    "CAGrad": _swin("cagrad"),
    "IMTL": _swin("imtl_g"),
    "Nash-MTL": _swin("nash_mtl"),
    "FairGrad": _swin("fairgrad"),
    "F-LS": _swin("task_sam"),
    "F-CAGrad": _swin("cagrad_task_sam"),
}

_TASKEXPERT = {
    "vit_b.single_task": tuple(f"mini:vit.conv@{kind}" for kind in FOUR),
    "vit_b.multi_task": _vit("conv"),
    "vit_b.invpt": _vit("invpt"),
    "vit_b.taskprompter": _vit("task_prompter"),
    "vit_b.mlore": _vit("mlore"),
    "vit_b.taskexpert": _vit("task_expert"),
}

_M3VIT = {"m_vit": _vit("conv"), "m3vit": _vit("conv_m3vit")}

_JOINT = {
    "swin_t_hrnet.separate": ("mini:swin.alone_pascal", "mini:swin.alone_nyud"),
    "swin_t_hrnet.joint": _swin("joint"),
}

MINI: dict[str, dict[str, tuple[str, ...]]] = {
    "mtlora.main": _MTLORA,
    "polyhistor.main": _POLYHISTOR,
    "taskexpert.pascal": _TASKEXPERT,
    "m3vit.pascal": _M3VIT,
    "flat.nyud": _FLAT,
    "joint.main": _JOINT,
}

BASES = ("decoders", "full", "bitfit")
ADAPTERS = (
    *("mtlora", "adapter", "low_rank_adapter", "phm", "compacter", "compacter_pp", "lora"),
    *("vpt", "vpt_shallow", "hyperformer", "hyperformer_v", "polyhistor", "polyhistor_v"),
    *("polyhistor_lite", "polyhistor_lite_v", "ssf", "ia3", "dora", "ditask", "tadformer"),
    *("palora", "mhr", "taps"),
)
DECODERS = ("conv", "conv_wide", "linear", "all_mlp", "aspp", "hrnet", "pup", "invpt", "mlore")
EXPERTS = ("task_expert", "task_expert_no_memory", "task_expert_one_expert")
VIT_ONLY = ("task_prompter", "conv_m3vit", "conv_m3vit_anchored")


def _study(title: str, prefix: str, rows: tuple[str, ...]) -> Table:
    return Table(
        title=title,
        configs={row: (f"mini:{prefix}.{row}",) for row in rows},
        base=rows[0],
        labels={row: row for row in rows},
    )


# Tables of the small problem alone.
STUDIES: dict[str, Table] = {
    "mini.adapters": _study("Adapters on one small problem", "swin.edges", BASES + ADAPTERS),
    "mini.decoders_swin": _study("Decoders on a small Swin", "swin", DECODERS + EXPERTS),
    "mini.decoders_vit": _study("Decoders on a small ViT", "vit", DECODERS + EXPERTS + VIT_ONLY),
}
