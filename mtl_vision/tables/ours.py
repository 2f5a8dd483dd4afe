"""Tables that no paper has: joint training on both datasets, and pretrained backbones."""

from mtl_vision.tables.published import Table

KINDS = ("semseg", "normals", "edge", "sal", "human_parts")
DATASETS = ("pascal_context", "nyud_v2")
JOINT = {
    "swin_t_hrnet": "Swin-T, HRNet heads",
    "vit_b_conv": "ViT-B, convolutional heads",
    "swin_t_headline": "Swin-T, everything at once",
    "vit_b_headline": "ViT-B, everything at once",
}
ANCHORS = {
    "swin_t": "Swin-T",
    "vit_b": "ViT-B",
    "vit_b_dinov2": "DINOv2 ViT-B",
    "vit_l_dinov2": "DINOv2 ViT-L",
    "vit_b_dinov3": "DINOv3 ViT-B",
    "vit_l_dinov3": "DINOv3 ViT-L",
}
METHODS = {
    "single_task": "a model per task",
    "multi_task": "one model",
    "task_expert": "task experts",
    "mtlora": "MTLoRA",
}


def _joint() -> Table:
    configs, labels = {}, {}
    for model, title in JOINT.items():
        apart = tuple(f"tables/joint:{model}.{dataset}" for dataset in DATASETS)
        configs[f"{model}.separate"] = apart
        configs[f"{model}.joint"] = (f"tables/joint:{model}.joint",)
        labels |= {f"{model}.{way}": f"{title}: {way}" for way in ("separate", "joint")}
    return Table(
        title="Nine tasks of PASCAL-Context and NYUD-v2, jointly and a model for each dataset",
        configs=configs,
        base="swin_t_hrnet.separate",
        labels=labels,
    )


def _anchors() -> Table:
    configs, labels = {}, {}
    for backbone, title in ANCHORS.items():
        for method, words in METHODS.items():
            entry = f"tables/anchors:{backbone}.{method}"
            configs[f"{backbone}.{method}"] = (entry,)
            labels[f"{backbone}.{method}"] = f"{title}: {words}"
        naive = f"tables/anchors:{backbone}.multi_task"
        configs[f"{backbone}.single_task"] = tuple(f"{naive}@{kind}" for kind in KINDS)
    return Table(
        title="Pretrained backbones on PASCAL-Context, five tasks",
        configs=configs,
        base="swin_t.single_task",
        labels=labels,
    )


TABLES: dict[str, Table] = {"joint.main": _joint(), "anchors.main": _anchors()}
