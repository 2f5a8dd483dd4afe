"""The tables of the papers: published numbers with their evidence, and our configs of their rows.

Published numbers are facts in ``published/*.yaml``. A row that is recalled or unconfirmed is shown
as such and never used as a bar.
"""

from mtl_vision.tables.published import Row, Table, published_rows

FOUR = ("semseg", "human_parts", "sal", "normals")


def _alone(config: str) -> tuple[str, ...]:
    return tuple(f"{config}:{task}" for task in FOUR)


_MTLORA = {
    "single_task": _alone("mtl_swin_t_hrnet"),
    "mtl_full": ("mtl_swin_t_hrnet",),
    "mtlora_r16": ("mtlora_r16",),
    "mtlora_r32": ("mtlora_r32",),
    "mtlora_r64": ("mtlora_r64",),
}

_POLYHISTOR = {
    "single_task_full": _alone("single_task_swin_t_all_mlp"),
    "decoders_only": _alone("decoders_swin_t_all_mlp"),
    **{
        row: _alone(row)
        for row in (
            *("bitfit", "vpt_shallow", "vpt_deep", "phm", "compacter_pp", "compacter", "lora"),
            *("adapter", "low_rank_adapter"),
        )
    },
    **{row: (row,) for row in ("shared_adapter", "hyperformer", "polyhistor", "polyhistor_lite")},
    "multi_task_full": ("mtl_swin_t_all_mlp",),
}

TABLES: dict[str, Table] = {
    "mtlora.main": Table(
        title="MTLoRA, Table 1 (arXiv 2403.20320): PASCAL-Context, Swin-T, HRNet heads",
        file="mtlora.yaml",
        section="table1_main",
        params="params_m",
        configs=_MTLORA,
    ),
    "polyhistor.main": Table(
        title="Polyhistor, Table 1 (arXiv 2210.03265): PASCAL-Context, Swin-T, All-MLP heads",
        file="polyhistor.yaml",
        section="",
        params="params_total",
        configs=_POLYHISTOR,
    ),
}

__all__ = ["TABLES", "Row", "Table", "published_rows"]
