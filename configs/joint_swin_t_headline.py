r"""Everything at once: MTLoRA, Polyhistor, task experts, CAGrad and task-wise SAM, nine tasks.

  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 448 --data_dir data
  python scripts/train.py --config configs/joint_swin_t_headline.py --workdir runs/headline

A frozen Swin-T with both adapters at once: MTLoRA's branches end with a stage, Polyhistor's task
streams run through all of them. The experts read the trunk, and a task's own stream is one more
entry of its gate. CAGrad (arXiv 2110.14048) merges the gradients of the tasks and those of their
flatness (`task_sam`), each for itself. Recipe and data are those of `joint_swin_t_hrnet`; from
scratch, because no pretrained weights are at hand. Not measured yet.
"""

import ml_collections as mlc

from configs import joint_swin_t_hrnet


def get_config() -> mlc.ConfigDict:
    c = joint_swin_t_hrnet.get_config()
    c.backbone.taps = "stage"
    return everything(c)


def everything(c: mlc.ConfigDict) -> mlc.ConfigDict:
    """Puts both adapters, the experts, CAGrad and SAM into a config."""
    with c.ignore_type():  # a tuple in the place of one
        c.adapter = (
            dict(name="mtlora", rank=64, task_rank=4, scale=4.0, dropout=0.05),
            dict(name="polyhistor"),
        )
    c.decoder = dict(name="task_expert", preset="small", reads="both")
    c.optim.aggregator = dict(name="cagrad")
    c.optim.sam = dict(name="task_sam", rho_shared=0.05, rho_task=0.05)
    return c
