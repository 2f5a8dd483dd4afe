r"""Nine tasks of PASCAL-Context and NYUD-v2: in one run, and every dataset in a run of its own.

  python scripts/prepare_data.py --dataset pascal_context --archive PASCAL_MT.tgz --data_dir data
  python scripts/prepare_data.py --dataset nyud_v2 --archive NYUDv2.tar.gz --data_dir data
  python scripts/train.py --config configs/tables/joint.py:swin_t_hrnet.joint \
      --workdir runs/joint --config.backbone.weights=swin_tiny_patch4_window7_224.pth

A row is a model and `joint`, `pascal_context` or `nyud_v2`. The models are those of
`configs/joint_real_*.py`, and `vit_b_headline`, which adds to ViT-B what `swin_t_headline` adds to
Swin-T; weights are Microsoft's of ImageNet-1k, and Google's AugReg ViT-B/16 for 384 pixels. Steps,
and images of a dataset in a step, are equal in all rows of a model, so a joint run sees as many of
each dataset as the two others together. No paper has these rows. Not measured yet.
"""

import functools
from collections.abc import Callable

import ml_collections as mlc

from configs import (
    joint_real_swin_t_headline,
    joint_real_swin_t_hrnet,
    joint_real_vit_b_conv,
    joint_swin_t_headline,
)
from configs.tables import rows

DATASETS = ("pascal_context", "nyud_v2")


def vit_b_headline() -> mlc.ConfigDict:
    return joint_swin_t_headline.everything(joint_real_vit_b_conv.get_config())


MODELS: dict[str, Callable[[], mlc.ConfigDict]] = {
    "swin_t_hrnet": joint_real_swin_t_hrnet.get_config,
    "vit_b_conv": joint_real_vit_b_conv.get_config,
    "swin_t_headline": joint_real_swin_t_headline.get_config,
    "vit_b_headline": vit_b_headline,
}


def alone(model: str, dataset: str) -> mlc.ConfigDict:
    c = MODELS[model]()
    for other in set(DATASETS) - {dataset}:
        del c.data[other]
    return c


ROWS: rows.Rows = {
    **{f"{model}.joint": make for model, make in MODELS.items()},
    **{
        f"{model}.{dataset}": functools.partial(alone, model, dataset)
        for model in MODELS
        for dataset in DATASETS
    },
}


def get_config(row: str = "") -> mlc.ConfigDict:
    return rows.chosen(ROWS, "joint", row)
