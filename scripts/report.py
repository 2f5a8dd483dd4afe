r"""Writes one self-contained HTML page about runs: scores, pictures, curves, maps, configs.

  python scripts/report.py --runs runs/a,runs/b --out report.html [--base runs/a]

The page opens from the disk and fetches nothing. With --base it shows Delta_m of every run against
that one. Runs that go on can be shown too.
"""

import pathlib

from absl import flags

from mtl_vision import cli

RUNS = flags.DEFINE_list("runs", None, "Run folders, in the order of the page.", required=True)
OUT = flags.DEFINE_string("out", None, "HTML file to write.", required=True)
BASE = flags.DEFINE_string("base", "", "Run folder that Delta_m is counted from.")


def main() -> None:
    from mtl_vision.errors import ConfigError
    from mtl_vision.report import page, runs

    folders, out = [pathlib.Path(name) for name in RUNS.value], pathlib.Path(OUT.value)
    found = runs.read_all(folders)
    base = {str(run.folder): run for run in found}.get(BASE.value.rstrip("/"))
    if BASE.value and base is None:
        raise ConfigError(f"--base={BASE.value} is none of --runs={','.join(RUNS.value)}.")
    page.write(out, found, base)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {len(found)} runs")


if __name__ == "__main__":
    cli.start(main)
