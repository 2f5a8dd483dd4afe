r"""InvPT with ViT-L/16, jointly on both synthetic datasets, protocol B (arXiv 2203.07997).

  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 512 --data_dir data
  python scripts/train.py --config configs/invpt_vit_l.py --workdir runs/invpt_vit_l
  python scripts/count.py --config configs/invpt_vit_l.py

The recipe of its code for both of its datasets: 512x512 and 448x576, 6 images a step, Adam 2e-5
with coupled decay on everything, poly 0.9 over 40,000 steps, no clipping; preliminary predictions
count as much as the final ones. From scratch, because no pretrained weights are at hand. Not
measured yet. With `backbone.scan=False` a released checkpoint of one dataset fits.
"""

import ml_collections as mlc

from configs import joint_vit_b_conv


def get_config() -> mlc.ConfigDict:
    c = joint_vit_b_conv.get_config()
    c.data.batch = 6
    # The position table of a 512x512 image, class token and last norm: 304,149,504 parameters.
    c.backbone.name = "vit_l"
    c.decoder = dict(name="invpt", width=512, margin=64, intermediate=1.0)
    c.optim.clip_norm = 0.0
    return c
