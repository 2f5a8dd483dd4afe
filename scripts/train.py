r"""Trains from a config, or goes on where the same command was stopped.

  python scripts/train.py --config configs/quickstart.py --workdir runs/x --config.seed=1

On several hosts every process runs this command with one shared workdir. Slurm, Open MPI and TPU
pods say who is who; elsewhere add --coordinator=host:port --processes=N --process=I, or set
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. SIGTERM and SIGUSR1 save and exit
with 75: start the same command again.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from mtl_vision import cli, hosts

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file.", lock_config=False, accept_new_attributes=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; made if absent.", required=True)
COORDINATOR = flags.DEFINE_string("coordinator", "", "host:port of process 0.")
PROCESSES = flags.DEFINE_integer("processes", 0, "Processes of the run.")
PROCESS = flags.DEFINE_integer("process", -1, "Number of this one, from 0.")


def main() -> None:
    values = cli.config_value(CONFIG)
    hosts.join(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    # Imported late: a mistyped option answers at once.
    from mtl_vision.check import check
    from mtl_vision.results import report
    from mtl_vision.train import folder, loop, plan

    cfg = check(values)
    say = (lambda line: print(line, flush=True)) if hosts.first() else (lambda line: None)
    if cfg.run.dry:
        say(plan.describe(cfg))
        return
    workdir = pathlib.Path(WORKDIR.value)
    folder.claim(workdir, values, ROOT)
    with folder.alone(workdir):
        say(plan.parameters(cfg))
        final = loop.train(cfg, workdir, say=say)
    say(report(cfg, final))


if __name__ == "__main__":
    cli.start(main)
