r"""TaskPrompter, ViT-L/16, jointly on both synthetic datasets, protocol B (ICLR 2023).

  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 512 --data_dir data
  python scripts/train.py --config configs/taskprompter_vit_l.py --workdir runs/taskprompter_vit_l

Sizes and recipe of the authors' ViT-L on PASCAL-Context: Adam 2e-5 with coupled decay on
everything, poly 0.9 over 40,000 steps, clipping at 10, on 512x512 and 448x576. They train one
dataset at a time; here each has prompts, maps and heads of its own in one backbone. From scratch,
because no pretrained weights are at hand. Not measured yet.
"""

import ml_collections as mlc

from configs import joint_vit_b_conv


def get_config() -> mlc.ConfigDict:
    c = joint_vit_b_conv.get_config()
    c.backbone.name = "vit_l"
    # The images' sizes, as in `c.data`: layers have weights for every patch.
    sizes = dict(synth_pascal=(512, 512), synth_nyud=(448, 576))
    adapter = dict(name="task_prompter", size=sizes, embed=300, width=350)
    c.adapter = adapter | dict(windows=1, reweigh=True)
    c.decoder = dict(name="task_prompter")
    return c
