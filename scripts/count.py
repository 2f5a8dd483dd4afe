r"""Counts the parameters and multiply-adds of a config's model by component.

  python scripts/count.py --config configs/invpt_vit_l.py

One column of multiply-adds per dataset, for one image of its size. Makes no array. Adapters are
what they add to the backbone.
"""

from ml_collections import config_flags

from mtl_vision import cli

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config of the model.", lock_config=False, accept_new_attributes=True
)


def main() -> None:
    from mtl_vision.check import check
    from mtl_vision.train import cost

    print(cost.describe(check(cli.config_value(CONFIG))))


if __name__ == "__main__":
    cli.start(main)
