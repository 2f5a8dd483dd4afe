r"""Runs a grid or a list of changes to one config, several seeds each, and summarises them.

  python scripts/ablate.py --config configs/quickstart.py --out runs/ablation --seeds 3 \
      --axis optim.aggregator.name=sum,pcgrad,cagrad --axis optim.lr=1e-3,2e-3
  python scripts/ablate.py --config configs/quickstart.py --out runs/list \
      --variant "plain:" --variant "wide: decoder.width=64 optim.lr=1e-3" [--base plain]
  python scripts/ablate.py ... --emit slurm > array.sh

Every run is `train.py` with its overrides, in `<out>/<setting>/seed<seed>`. All are checked
before the first starts; finished runs are left, stopped ones go on, so the same command can be
given again, also with more seeds or values. A value with commas needs `;` between values:
`--axis "trainable=(('.*',True),);()"`; fields that go together are joined by `+`:
`--axis adapter.name=lora+optim.lr=1e-3,adapter.name=mtlora+optim.lr=5e-4`.

--parallel runs several at a time; on GPUs they share out the devices. --emit writes the commands to
`<out>/jobs.txt` and prints them, or a SLURM array over them, without running any.

At the end, and with --summary at once, writes `summary.md`, `summary.csv` and `index.html` about
what is finished: mean and spread over seeds, Δm against --base (the first setting by default), what
of it is significant, Δm against trained parameters, and the effect of every axis.
"""

import functools
import pathlib

from absl import flags

from mtl_vision import cli

CONFIG = flags.DEFINE_string("config", None, "Config file that is varied.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder of the study.", required=True)
AXES = flags.DEFINE_multi_string("axis", [], "field=value,value,...; the axes span a grid.")
VARIANTS = flags.DEFINE_multi_string("variant", [], "name: field=value field=value ...")
SET = flags.DEFINE_multi_string("set", [], "field=value for every run.")
SEEDS = flags.DEFINE_integer("seeds", 1, "Seeds 0, 1, ... of every setting.", lower_bound=1)
BASE = flags.DEFINE_string("base", None, "Setting that the others are compared with.")
PARALLEL = flags.DEFINE_integer("parallel", 1, "Runs at a time.", lower_bound=1)
EMIT = flags.DEFINE_enum("emit", None, ["list", "slurm"], "Print the jobs, run none.")
SUMMARY = flags.DEFINE_bool("summary", False, "Only summarise what is finished.")


def main() -> None:
    from mtl_vision.errors import ConfigError, lookup
    from mtl_vision.study import axes, jobs, pages, summary

    if bool(AXES.value) == bool(VARIANTS.value):
        raise ConfigError("give --axis or --variant, one of the two, as often as needed.")
    settings = axes.grid(AXES.value) if AXES.value else axes.listed(VARIANTS.value)
    base = settings[0].name if BASE.value is None else BASE.value
    lookup({s.name: s for s in settings}, base, "--base")
    out, seeds = pathlib.Path(OUT.value), range(SEEDS.value)
    todo = [
        jobs.Job(f"{s.name}/seed{seed}", CONFIG.value, (*SET.value, *s.overrides, f"seed={seed}"))
        for s in settings
        for seed in seeds
    ]
    if not SUMMARY.value:
        missing = jobs.check_all(todo, out)
        if EMIT.value:
            emit(jobs, missing, out)
            return
        print(f"{len(settings)} settings, {len(todo)} runs, {len(missing)} to do", flush=True)
        jobs.run(missing, out, parallel=PARALLEL.value, say=functools.partial(print, flush=True))
    study = summary.collect(out, settings, seeds, base)
    files = pages.write(study, out, f"{pathlib.Path(CONFIG.value).stem}: {out.name}")
    print(pages.markdown(study))
    print(", ".join(map(str, files)))


def emit(jobs, missing, out: pathlib.Path) -> None:
    """Writes the job list, and prints it or a SLURM script over it."""
    out.mkdir(parents=True, exist_ok=True)
    listed = out / "jobs.txt"
    listed.write_text(jobs.job_list(missing, out))
    print(listed.read_text() if EMIT.value == "list" else jobs.slurm_array(missing, listed), end="")


if __name__ == "__main__":
    cli.start(main)
