r"""Pretrained backbones on five tasks of PASCAL-Context: what the best of today's weights give.

  python scripts/prepare_data.py --dataset pascal_context --archive PASCAL_MT.tgz --data_dir data
  python scripts/train.py --config configs/tables/anchors.py:vit_b_dinov2.task_expert \
      --workdir runs/anchor --config.backbone.weights=dinov2_vitb14_pretrain.pth

Weights (docs/backbones.md has all formats):

- `swin_t`: Microsoft's swin_tiny_patch4_window7_224.pth, ImageNet-1k.
- `vit_b`: Google's AugReg B/16 for 384 pixels, as in `configs/tables/taskexpert.py`.
- `vit_b_dinov2`, `vit_l_dinov2`: Meta's dinov2_vitb14_pretrain.pth, dinov2_vitl14_pretrain.pth.
- `vit_b_dinov3`, `vit_l_dinov3`: Meta's DINOv3, trained on LVD-1689M.

A row is a backbone and `multi_task`, small convolutional heads; `task_expert`, the decoder of task
experts; or `mtlora`, MTLoRA of rank 64 with the backbone frozen and the small heads. With
``--config.data.pascal_context.tasks="('semseg',)"`` the first is a single task. One recipe for all,
that of InvPT and TaskPrompter: protocol B, Adam 2e-5, poly 0.9 over 40,000 steps of 4 images, which
are 512x512, and 504x504 for patches of 14. No paper has these rows. Not measured yet.
"""

import functools

import ml_collections as mlc

from configs import joint_real_vit_b_conv, mtlora_r64, taskexpert_vit_l
from configs.tables import rows

BACKBONES = ("swin_t", "vit_b")
BACKBONES += ("vit_b_dinov2", "vit_l_dinov2", "vit_b_dinov3", "vit_l_dinov3")


def multi_task(backbone: str) -> mlc.ConfigDict:
    c = joint_real_vit_b_conv.get_config()
    del c.data.nyud_v2
    if backbone == "swin_t":
        c.backbone = dict(name=backbone, window=7, drop_path=0.2, taps="stage", remat="none")
    elif backbone == "vit_b":
        c.backbone.name = backbone
    else:  # the names know their patches and grids
        c.backbone = dict(name=backbone, drop_path=0.15, scan=True, remat="block")
    if backbone.endswith("dinov2"):
        c.data.pascal_context.size = (504, 504)
    return c


def task_expert(backbone: str) -> mlc.ConfigDict:
    c = multi_task(backbone)
    c.decoder = taskexpert_vit_l.get_config().decoder
    c.decoder.preset = "budget" if backbone.startswith("vit_l") else "small"
    return c


def mtlora(backbone: str) -> mlc.ConfigDict:
    c = multi_task(backbone)
    c.adapter = mtlora_r64.get_config().adapter
    return c


ROWS: rows.Rows = {
    f"{backbone}.{method.__name__}": functools.partial(method, backbone)
    for backbone in BACKBONES
    for method in (multi_task, task_expert, mtlora)
}


def get_config(row: str = "") -> mlc.ConfigDict:
    return rows.chosen(ROWS, "anchors", row)
