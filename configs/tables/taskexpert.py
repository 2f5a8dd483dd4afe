r"""ViT-B and ViT-L on PASCAL-Context and NYUD-v2: TaskExpert and what it is compared with.

  python scripts/prepare_data.py --dataset nyud_v2 --archive NYUDv2.tar.gz --data_dir data
  python scripts/train.py --config configs/tables/taskexpert.py:nyud_v2.vit_b.invpt \
      --workdir runs/invpt --config.backbone.weights=B_16-augreg-res_384.npz

The weights are Google's AugReg files for 384 pixels, fine-tuned on ImageNet-1k (`B_16-i21k-300ep-
lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.01-res_384.npz`, and
likewise `L_16-...do_0.1-sd_0.1...`), as in the authors' code, which feeds them images of ImageNet's
mean and deviation, not their own. Protocol B, Adam 2e-5 with coupled decay on everything, poly 0.9
over 40,000 steps:

- `multi_task`: small convolutional heads; those of the published baseline are not known. With
  ``--config.data.nyud_v2.tasks="('depth',)"`` it is the single-task row.
- `invpt` (arXiv 2203.07997): 6 images a step, no clipping, as its code.
- `taskprompter` (ICLR 2023), `mlore` (arXiv 2403.17749): sizes of their code, 4 images, clipping at
  10, 1e-5 on NYUD-v2. Neither has a ViT-B for NYUD-v2: there it is that of PASCAL-Context. MLoRE's
  edge loss weighs edges by 0.925 and 0.88, here by 0.95.
- `taskexpert` (arXiv 2307.15324): a reconstruction, see `configs/taskexpert_vit_l.py`; the recipe
  is TaskPrompter's, 1e-5 on NYUD-v2 included.

Not measured yet.
"""

import functools

import ml_collections as mlc

from configs import invpt_vit_l, joint_real_vit_b_conv, taskexpert_vit_l
from configs.tables import rows

DATASETS = ("pascal_context", "nyud_v2")
BACKBONES = ("vit_b", "vit_l")
GRIDS = {"pascal_context": (32, 32), "nyud_v2": (28, 36)}
PROMPTS = {
    "pascal_context.vit_b": dict(embed=780, width=1024, windows=4, reweigh=True),
    "pascal_context.vit_l": dict(embed=300, width=350, windows=1, reweigh=True),
    "nyud_v2.vit_b": dict(embed=780, width=1024, windows=4, reweigh=True),
    "nyud_v2.vit_l": dict(embed=768, width=768, windows=4, reweigh=False),
}
RANKS = tuple(range(16, 129, 8))
LOW_RANKS = {
    "vit_b": dict(width=640, ranks=RANKS, task_rank=64, select="gates", balance=1e-4),
    "vit_l": dict(width=452, ranks=RANKS, task_rank=72, select="gates", balance=3e-4),
}
LOW_RANKS_NYUD = dict(width=768, ranks=tuple(range(16, 241, 16)), task_rank=16)
LOW_RANKS_NYUD |= dict(select="logits", balance=5e-4)


def multi_task(dataset: str, backbone: str) -> mlc.ConfigDict:
    c = joint_real_vit_b_conv.get_config()
    for other in set(DATASETS) - {dataset}:
        del c.data[other]
    c.backbone.name, c.backbone.grid = backbone, GRIDS[dataset]
    return c


def invpt(dataset: str, backbone: str) -> mlc.ConfigDict:
    c, published = multi_task(dataset, backbone), invpt_vit_l.get_config()
    c.decoder, c.data.batch = published.decoder, published.data.batch
    c.optim.clip_norm = published.optim.clip_norm
    return c


def taskprompter(dataset: str, backbone: str) -> mlc.ConfigDict:
    c = slower(multi_task(dataset, backbone))
    sizes = PROMPTS[f"{dataset}.{backbone}"]
    c.adapter = dict(name="task_prompter", size=c.data[dataset].size, **sizes)
    c.decoder = dict(name="task_prompter")
    return c


def mlore(dataset: str, backbone: str) -> mlc.ConfigDict:
    c = slower(multi_task(dataset, backbone))
    c.backbone.class_token = False
    sizes = LOW_RANKS_NYUD if (dataset, backbone) == ("nyud_v2", "vit_l") else LOW_RANKS[backbone]
    c.decoder = dict(name="mlore", top=9, grid=GRIDS[dataset], **sizes)
    return c


def taskexpert(dataset: str, backbone: str) -> mlc.ConfigDict:
    c = slower(multi_task(dataset, backbone))
    c.decoder = taskexpert_vit_l.get_config().decoder
    c.decoder.preset = "small" if backbone == "vit_b" else "budget"
    return c


def slower(c: mlc.ConfigDict) -> mlc.ConfigDict:
    """Halves the rate on NYUD-v2."""
    if "nyud_v2" in c.data:
        c.optim.lr = 1e-5
    return c


METHODS = (multi_task, invpt, taskprompter, mlore, taskexpert)
ROWS: rows.Rows = {
    f"{dataset}.{backbone}.{method.__name__}": functools.partial(method, dataset, backbone)
    for dataset in DATASETS
    for backbone in BACKBONES
    for method in METHODS
}


def get_config(row: str = "") -> mlc.ConfigDict:
    return rows.chosen(ROWS, "taskexpert", row)
