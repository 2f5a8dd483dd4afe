"""The tables of the papers: published numbers with their evidence, and our configs of their rows.

Published numbers are facts in ``published/*.yaml``. A row that is recalled or unconfirmed is shown
as such and never used as a bar.
"""

from mtl_vision.tables.published import Row, Table, published_rows

_MTLORA = {
    "single_task": tuple(
        f"single_task_swin_t_hrnet_{kind}" for kind in ("semseg", "human_parts", "sal", "normals")
    ),
    "mtl_full": ("mtl_swin_t_hrnet",),
    "mtlora_r16": ("mtlora_r16",),
    "mtlora_r32": ("mtlora_r32",),
    "mtlora_r64": ("mtlora_r64",),
}

TABLES: dict[str, Table] = {
    "mtlora.main": Table(
        title="MTLoRA, Table 1 (arXiv 2403.20320): PASCAL-Context, Swin-T",
        file="mtlora.yaml",
        section="table1_main",
        params="params_m",
        configs=_MTLORA,
    ),
}

__all__ = ["TABLES", "Row", "Table", "published_rows"]
