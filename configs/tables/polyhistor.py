r"""Rows of Polyhistor's table (arXiv 2210.03265), on PASCAL-Context at 448.

  python scripts/prepare_data.py --dataset pascal_context --archive PASCAL_MT.tgz --data_dir data
  python scripts/train.py --config configs/tables/polyhistor.py:polyhistor --workdir runs/poly \
      --config.backbone.weights=swin_tiny_patch4_window7_224.pth

The weights are Microsoft's of ImageNet-1k; without them no figure of the paper can come of it. The
paper's settings are not known: adapters are those that give its numbers of parameters, and the
recipe is MTLoRA's, see `configs/polyhistor.py`.

`bitfit` to `low_rank_adapter` and `decoders_only` are a run per task in the table, with
``--config.data.pascal_context.tasks="('semseg',)"`` and likewise; so is `multi_task_full` as the
row that Delta_m is against. With all four tasks in one run they are those rows' shared variants,
which the table lacks. Not measured yet.
"""

import functools
from types import ModuleType

import ml_collections as mlc

from configs import (
    adapter,
    bitfit,
    compacter,
    compacter_pp,
    decoders_swin_t_all_mlp,
    hyperformer,
    lora,
    low_rank_adapter,
    mtl_swin_t_all_mlp,
    phm,
    polyhistor,
    polyhistor_lite,
    shared_adapter,
    vpt_deep,
    vpt_shallow,
)
from configs.tables import rows

CONFIGS = {
    "multi_task_full": mtl_swin_t_all_mlp,
    "decoders_only": decoders_swin_t_all_mlp,
    "bitfit": bitfit,
    "vpt_shallow": vpt_shallow,
    "vpt_deep": vpt_deep,
    "phm": phm,
    "compacter_pp": compacter_pp,
    "compacter": compacter,
    "lora": lora,
    "adapter": adapter,
    "low_rank_adapter": low_rank_adapter,
    "shared_adapter": shared_adapter,
    "hyperformer": hyperformer,
    "polyhistor": polyhistor,
    "polyhistor_lite": polyhistor_lite,
}


def row_of(config: ModuleType) -> mlc.ConfigDict:
    return rows.on_pascal(config.get_config())


ROWS: rows.Rows = {name: functools.partial(row_of, config) for name, config in CONFIGS.items()}


def get_config(row: str = "") -> mlc.ConfigDict:
    return rows.chosen(ROWS, "polyhistor", row)
