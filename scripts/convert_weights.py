r"""Converts a file of pretrained weights to our names and layouts.

  python scripts/convert_weights.py --source vit_base.pth --target vit_base.safetensors \
      [--config configs/joint_vit_b_conv.py]

With a config the weights must fit its backbone, and tables of positions and of biases are resized
to it. Without, arrays keep their sizes. `config.backbone.weights` takes the result, and the source
as well. Only ``.pth`` files need torch.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from mtl_vision import cli

SOURCE = flags.DEFINE_string("source", None, "File in a known format.", required=True)
TARGET = flags.DEFINE_string("target", None, ".npz or .safetensors to write.", required=True)
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config of the backbone.", lock_config=False, accept_new_attributes=True
)


def main() -> None:
    from mtl_vision import build, files, rules
    from mtl_vision.check import check
    from mtl_vision.models import pretrained

    source, target = pathlib.Path(SOURCE.value), pathlib.Path(TARGET.value)
    arrays, _ = files.read(source)
    if CONFIG.value is None:
        key, found = pretrained.converted(arrays)
    else:
        key = pretrained.recognise(arrays)
        found = rules.flatten(build.pretrained_weights(check(cli.config_value(CONFIG)), arrays))
    files.write(target, found, {"source": key})
    size = sum(x.nbytes for x in found.values()) / 2**20
    print(f"{source} is in the format {key}, {len(arrays)} arrays")
    print(f"{target}: {len(found)} arrays, {size:.1f} MiB")


if __name__ == "__main__":
    cli.start(main)
