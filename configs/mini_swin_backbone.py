r"""The backbone of configs/mini_swin.py: trained fully on the four tasks of synth_nyud.

python scripts/train.py --config configs/mini_swin_backbone.py --workdir runs/mini_swin
"""

import ml_collections as mlc

from configs import mini_swin, quickstart


def get_config() -> mlc.ConfigDict:
    c = mini_swin.get_config()
    c.data.synth_nyud = quickstart.get_config().data.synth_nyud
    c.data.synth_nyud.update(config="64-1280-16-128", size=(56, 72))
    del c.data.synth_pascal
    c.run.steps = 2000
    return c
