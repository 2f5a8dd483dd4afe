r"""Rows of M3ViT's tables (arXiv 2210.14793): a small ViT, dense or with experts, and its routers.

  python scripts/prepare_data.py --dataset pascal_context --archive PASCAL_MT.tgz --data_dir data
  python scripts/train.py --config configs/tables/m3vit.py:pascal_context.multi \
      --workdir runs/m3vit --config.backbone.weights=deit_small_patch16_224-cd65a155.pth

A row is a dataset and `m_vit`, which is dense, or a router: `multi`, a gate per task, is M2ViT and
M3ViT, which differ in hardware only; `single` is one gate, `conditioned` sees the task. The
recipe is the authors', see `configs/m3vit_vit_s.py`: SGD at 0.002, at 0.001 without experts, 100
epochs at batch 16. They start from a mixture trained on ImageNet that is not public; the next best
are DeiT's weights, whose MLPs become the experts. Five tasks of PASCAL-Context at 512x512, two of
NYUD-v2 at 480x640; what the authors draw at random on NYUD-v2 is not known here, so it is that of
`configs/joint_swin_t_hrnet.py`. Not measured yet.
"""

import functools

import ml_collections as mlc

from configs import joint_real_swin_t_hrnet, m3vit_vit_s
from configs.tables import rows

ROUTERS = ("single", "multi", "conditioned")


def pascal_context() -> mlc.ConfigDict:
    return rows.epochs(joint_real_swin_t_hrnet.on_real_data(m3vit_vit_s.get_config()), 100)


def nyud_v2() -> mlc.ConfigDict:
    c = pascal_context()
    del c.data.pascal_context
    c.data.nyud_v2 = joint_real_swin_t_hrnet.get_config().data.nyud_v2
    c.data.nyud_v2.update(size=(480, 640), tasks=("semseg", "depth"))
    c.loss_weights = dict(semseg=1.0, depth=1.0)
    c.backbone.grid = (30, 40)
    return rows.epochs(c, 100)


DATASETS = {"pascal_context": pascal_context, "nyud_v2": nyud_v2}


def dense(dataset: str) -> mlc.ConfigDict:
    c = DATASETS[dataset]()
    c.adapter, c.optim.lr = dict(name="none"), 1e-3
    return c


def routed(dataset: str, router: str) -> mlc.ConfigDict:
    c = DATASETS[dataset]()
    c.adapter.router = router
    return c


ROWS: rows.Rows = {
    **{f"{dataset}.m_vit": functools.partial(dense, dataset) for dataset in DATASETS},
    **{
        f"{dataset}.{router}": functools.partial(routed, dataset, router)
        for dataset in DATASETS
        for router in ROUTERS
    },
}


def get_config(row: str = "") -> mlc.ConfigDict:
    return rows.chosen(ROWS, "m3vit", row)
