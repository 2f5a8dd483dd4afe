"""Tables of TaskExpert and M3ViT, with a run for every method that this code has."""

from mtl_vision.tables.published import Table

BACKBONES = ("vit_b", "vit_l")
METHODS = ("multi_task", "invpt", "taskprompter", "mlore", "taskexpert")
KINDS = {
    "pascal_context": ("semseg", "normals", "edge", "sal", "human_parts"),
    "nyud_v2": ("semseg", "depth", "normals", "edge"),
}
TITLES = {"pascal_context": "PASCAL-Context, five tasks", "nyud_v2": "NYUD-v2, four tasks"}


def _alone(entry: str, kinds: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{entry}@{kind}" for kind in kinds)


def _taskexpert(dataset: str) -> Table:
    configs = {}
    for backbone in BACKBONES:
        entries = {m: f"tables/taskexpert:{dataset}.{backbone}.{m}" for m in METHODS}
        configs[f"{backbone}.single_task"] = _alone(entries["multi_task"], KINDS[dataset])
        configs |= {f"{backbone}.{m}": (entry,) for m, entry in entries.items()}
    columns = dict(semseg="semseg_miou", depth="depth_rmse", normals="normal_merr")
    columns |= dict(edge="edge_odsf", sal="sal_maxf", human_parts="human_parts_miou")
    return Table(
        title=f"TaskExpert (arXiv 2307.15324) and its rivals: {TITLES[dataset]}",
        configs=configs,
        file="taskexpert.yaml",
        section=dataset,
        base="vit_b.single_task",
        scores={kind: columns[kind] for kind in KINDS[dataset]},
        delta="delta_m",
        total="total_params",
        work="gmacs",
        note="No source prints sizes. The counts are those of the authors' public code; of "
        "TaskExpert, which has none, those of the reconstruction's presets.",
    )


def _m3vit(dataset: str, title: str, kinds: tuple[str, ...]) -> Table:
    columns = dict(semseg="semseg_miou", depth="depth_rmse", normals="normal_merr")
    columns |= dict(edge="edge_odsf", sal="sal_miou", human_parts="parts_miou")
    rows = {"m_vit": "m_vit", "m2vit": "multi", "m3vit": "multi"}
    rows |= {f"router_{router}": router for router in ("single", "multi", "task_cond")}
    return Table(
        title=f"M3ViT, Tables 1 to 3 (arXiv 2210.14793): {title}",
        configs={row: (f"tables/m3vit:{dataset}.{name}",) for row, name in rows.items()},
        file="m3vit.yaml",
        section=dataset,
        base="stl_b",
        scores={kind: columns[kind] for kind in kinds},
        delta="delta_m",
        work="flops_g",
        one_task=True,
        note="Multiply-adds are of the backbone and one head, as the paper counts them.",
    )


TABLES: dict[str, Table] = {
    "taskexpert.pascal": _taskexpert("pascal_context"),
    "taskexpert.nyud": _taskexpert("nyud_v2"),
    "m3vit.pascal": _m3vit("pascal_context", TITLES["pascal_context"], KINDS["pascal_context"]),
    "m3vit.nyud": _m3vit("nyud_v2", "NYUD-v2, two tasks", ("semseg", "depth")),
}
