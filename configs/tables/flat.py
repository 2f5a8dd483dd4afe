r"""Methods for conflicting gradients, with task-wise SAM (F-) and without: NYUD-v2, three tasks.

  python scripts/prepare_data.py --dataset nyud_v2 --archive NYUDv2.tar.gz --data_dir data
  python scripts/train.py --config configs/tables/flat.py:F-CAGrad --workdir runs/f_cagrad \
      --config.backbone.weights=swin_tiny_patch4_window7_224.pth

The published rows (arXiv 2211.13723, and the tables of NTKMTL and others) are of SegNet with MTAN's
attention on 13 classes. Here it is Swin-T with HRNet heads on 40 classes, and the recipe of
`configs/joint_real_swin_t_hrnet.py`, with Microsoft's weights of ImageNet-1k: 300 epochs of NYUD-v2
at batch 32, all loss weights 1. Only ranks can be compared.

CAGrad has c = 0.4, task-wise SAM its adaptive form with radius 2, as the code of arXiv 2211.13723;
other methods have the values of their papers' code, which are this project's defaults. F-LS is
plain SAM on the sum of the losses, radius 0.05. `LS` and `F-LS` with
``--config.data.nyud_v2.tasks="('semseg',)"`` are a single task. Not measured yet.
"""

import functools
from collections.abc import Mapping
from typing import Any

import ml_collections as mlc

from configs import joint_real_swin_t_hrnet
from configs.tables import rows

EPOCH = rows.IMAGES["nyud_v2"] // 32
TASK_SAM = dict(name="task_sam", adaptive=True, rho_shared=2.0, rho_task=2.0)
Field = Mapping[str, Any]


def run(field: str, method: Field, sam: Field) -> mlc.ConfigDict:
    """A run with an entry of `optim`, its aggregator or its weighting, and SAM."""
    c = joint_real_swin_t_hrnet.get_config()
    del c.data.pascal_context
    c.data.nyud_v2.tasks = ("semseg", "depth", "normals")
    c.loss_weights = dict(semseg=1.0, depth=1.0, normals=1.0)
    c.optim[field], c.optim.sam = dict(method), dict(sam)
    return rows.epochs(c, 300, warmup=20)


METHODS: dict[str, tuple[str, Field]] = {
    "LS": ("weighting", dict(name="equal")),
    "SI": ("weighting", dict(name="si")),
    "RLW": ("weighting", dict(name="rlw")),
    "DWA": ("weighting", dict(name="dwa", steps_per_epoch=EPOCH)),
    "UW": ("weighting", dict(name="uw")),
    "STCH": ("weighting", dict(name="stch", steps_per_epoch=EPOCH)),
    "FAMO": ("weighting", dict(name="famo")),
    "GradNorm": ("aggregator", dict(name="gradnorm")),
    "GradDrop": ("aggregator", dict(name="graddrop")),
    "MGDA": ("aggregator", dict(name="mgda")),
    "PCGrad": ("aggregator", dict(name="pcgrad")),
    "GradVac": ("aggregator", dict(name="gradvac")),
    "CAGrad": ("aggregator", dict(name="cagrad", c=0.4)),
    "IMGrad": ("aggregator", dict(name="imgrad")),
    "IMTL": ("aggregator", dict(name="imtl_g")),
    "MoCo": ("aggregator", dict(name="moco")),
    "Nash-MTL": ("aggregator", dict(name="nash_mtl")),
    "Aligned-MTL": ("aggregator", dict(name="aligned_mtl")),
    "SDMGrad": ("aggregator", dict(name="sdmgrad")),
    "DB-MTL": ("aggregator", dict(name="db_mtl")),
    "FairGrad": ("aggregator", dict(name="fairgrad")),
}
FLAT = ("MGDA", "PCGrad", "CAGrad", "IMTL", "Nash-MTL", "FairGrad")
NONE, SAM = dict(name="none"), dict(name="sam", rho=0.05)

ROWS: rows.Rows = {
    **{name: functools.partial(run, *method, NONE) for name, method in METHODS.items()},
    "F-LS": functools.partial(run, *METHODS["LS"], SAM),
    **{f"F-{name}": functools.partial(run, *METHODS[name], TASK_SAM) for name in FLAT},
}


def get_config(row: str = "") -> mlc.ConfigDict:
    return rows.chosen(ROWS, "flat", row)
