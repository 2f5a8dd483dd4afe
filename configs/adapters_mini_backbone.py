r"""The backbone of configs/adapters_mini.py: trained fully on the four tasks of synth_nyud.

python scripts/train.py --config configs/adapters_mini_backbone.py --workdir runs/backbone
"""

import ml_collections as mlc

from configs import adapters_mini, quickstart


def get_config() -> mlc.ConfigDict:
    c = adapters_mini.get_config()
    c.data.synth_nyud = quickstart.get_config().data.synth_nyud
    c.data.synth_nyud.update(config="64-320-16-64", size=(56, 72))
    del c.data.synth_pascal
    c.run.steps = 400
    return c
