r"""A decoder in the manner of TaskExpert on ViT-L/16, synthetic PASCAL-Context, protocol B.

  python scripts/prepare_data.py --dataset synth_pascal --config 512 --data_dir data
  python scripts/train.py --config configs/taskexpert_vit_l.py --workdir runs/taskexpert_vit_l

A reconstruction from the abstract of arXiv 2307.15324, whose code is not public; see
`models.decoders.task_expert`. The recipe is that of the same authors' TaskPrompter: 512x512, 4
images a step, Adam 2e-5 with coupled decay on everything, poly 0.9 over 40,000 steps, clipping at
10. It has 418,395,438 parameters, as many millions as later papers give. From scratch, because no
pretrained weights are at hand. No score was measured yet.
"""

import ml_collections as mlc

from configs import joint_vit_b_conv


def get_config() -> mlc.ConfigDict:
    c = joint_vit_b_conv.get_config()
    del c.data.synth_nyud, c.loss_weights.depth
    # The position table of a 512x512 image, class token and last norm: 304,149,504 parameters.
    c.backbone.name = "vit_l"
    c.decoder = dict(
        name="task_expert",
        preset="budget",
        taps=(),
        expert="conv",
        memory=True,
        memory_init="learned",
        memory_write="residual",
        gate_mode="both",
        gate_norm="softmax",
        gate_granularity="sample",
        gate_temperature=1.0,
        balance_weight=0.0,
        head="bilinear4",
        aux=False,
        aux_weight=1.0,
        reads="trunk",
        slots="task",
    )
    return c
