r"""Writes what a run trained as one safetensors file.

  python scripts/export.py --workdir runs/x --out x.safetensors [--step 4000]
  python scripts/export.py --workdir runs/x --out x.safetensors --format timm

As `native`, adapters, heads and statistics, for scripts/evaluate.py and scripts/predict.py. As
`timm` or `hf`, the backbone under the names of timm or of transformers, adapters folded in; a key
of `mtl_vision.models.pretrained.FORMATS`, such as swin_microsoft, names one format.
"""

import pathlib

from absl import flags

from mtl_vision import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder.", required=True)
OUT = flags.DEFINE_string("out", None, "File to write.", required=True)
FORMAT = flags.DEFINE_string("format", "native", "native, timm, hf, or the name of a format.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint; the newest by default.")


def main() -> None:
    from mtl_vision.check import check
    from mtl_vision.errors import ConfigError, lookup
    from mtl_vision.models.exported import LIBRARIES
    from mtl_vision.models.pretrained import FORMATS
    from mtl_vision.train import folder, setup, weights

    workdir, out = pathlib.Path(WORKDIR.value), pathlib.Path(OUT.value)
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out={out} does not end in .safetensors.")
    if FORMAT.value != "native":
        lookup({**LIBRARIES, **FORMATS}, FORMAT.value, "format")
    values = folder.read(workdir)
    cfg = check(values)
    _, start = setup.start(cfg)
    state = setup.saved_state(workdir, start.state, STEP.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    if FORMAT.value == "native":
        weights.export(out, state, values)
        what = "native"
    else:
        what = weights.export_backbone(
            out, start.graphdef, state, FORMAT.value, added=[one.name for one in cfg.adapter]
        )
    print(f"{out}: {what}, step {int(state.step)}, {out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    cli.start(main)
