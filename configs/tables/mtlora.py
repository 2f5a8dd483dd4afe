r"""Rows of MTLoRA's tables (arXiv 2403.20320) and of what followed it, on PASCAL-Context at 448.

  python scripts/prepare_data.py --dataset pascal_context --archive PASCAL_MT.tgz --data_dir data
  python scripts/train.py --config configs/tables/mtlora.py:mtlora_r64 --workdir runs/mtlora_r64 \
      --config.backbone.weights=swin_tiny_patch4_window7_224.pth

The weights are Microsoft's of ImageNet-1k; without them no figure of the paper can come of it. The
recipe is that of the paper's code, see `configs/mtlora_r64.py`: AdamW 5e-4 for 512 images, 300
epochs at batch 32 with 20 of warm-up, task rank 4, scale 4. A model per task, the row that Delta_m
is against, is `mtl_full` with ``--config.data.pascal_context.tasks="('semseg',)"``, and likewise.

TADFormer (arXiv 2501.04293) has the filter of its paper, which its code leaves out; DiTASK
(arXiv 2502.06029) starts at the identity, its code at random warps. Rows of All-MLP heads are in
`configs/tables/polyhistor.py`. Not measured yet.
"""

import functools
from typing import Any

import ml_collections as mlc

from configs import mtlora_r64
from configs.tables import rows

HEADS = (("backbone/.*", False), (".*", True))


def mtlora(**adapter: Any) -> mlc.ConfigDict:
    """MTLoRA with other fields of its adapter."""
    c = rows.on_pascal(mtlora_r64.get_config())
    c.adapter.update(adapter)
    return c


def other(name: str, **adapter: Any) -> mlc.ConfigDict:
    """The same with another adapter, or ``none``, which trains the whole backbone."""
    c = rows.on_pascal(mtlora_r64.get_config())
    c.adapter = dict(name=name, **adapter)
    return c


def decoders_only() -> mlc.ConfigDict:
    c = other("none")
    c.trainable = HEADS
    return c


ROWS: rows.Rows = {
    "mtl_full": functools.partial(other, "none"),
    "mtl_decoders_only": decoders_only,
    **{f"mtlora_r{r}": functools.partial(mtlora, rank=r) for r in (16, 32, 64)},
    **{
        f"mtlora_plus_r{r}": functools.partial(mtlora, plus=True, rank=r, task_rank=r)
        for r in (4, 8, 16)
    },
    **{
        f"mtlora_plus_r{r}_pertask": functools.partial(mtlora, plus=True, rank=r)
        for r in (16, 32, 64)
    },
    **{f"tadformer_r{r}": functools.partial(other, "tadformer", rank=r) for r in (16, 32, 64)},
    "ditask": functools.partial(other, "ditask", task_cells=64),
}


def get_config(row: str = "") -> mlc.ConfigDict:
    return rows.chosen(ROWS, "mtlora", row)
