r"""Writes what a run trained, adapters, heads and statistics, as one safetensors file.

python scripts/export.py --workdir runs/x --out x.safetensors [--step 4000]
"""

import pathlib

from absl import flags

from mtl_vision import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder.", required=True)
OUT = flags.DEFINE_string("out", None, "File to write.", required=True)
STEP = flags.DEFINE_integer("step", None, "Checkpoint; the newest by default.")


def main() -> None:
    from mtl_vision.check import check
    from mtl_vision.errors import ConfigError
    from mtl_vision.train import folder, setup, weights

    workdir, out = pathlib.Path(WORKDIR.value), pathlib.Path(OUT.value)
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out={out} does not end in .safetensors.")
    values = folder.read(workdir)
    _, start = setup.start(check(values))
    state = setup.saved_state(workdir, start.state, STEP.value)
    out.parent.mkdir(parents=True, exist_ok=True)
    weights.export(out, state, values)
    print(f"{out}: step {int(state.step)}, {out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    cli.start(main)
