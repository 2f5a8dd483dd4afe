"""Launchers print what they run, and what they print runs as several processes of one program."""

import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys

import pytest
import yaml

from tests.conftest import XLA_FLAGS

ROOT = pathlib.Path(__file__).parents[1]
TASKS = "--config.data.synth_pascal.tasks=('semseg','edge')"
ARGUMENTS = ["--config", "configs/quickstart.py", "--workdir", "runs/a b", TASKS]

# Stands for `python` on the path: what scripts/train.py does before and after training. The first
# time it asks to be started again.
PROGRAM = """#!{python}
import json, pathlib, sys
sys.path.insert(0, {root!r})
from mtl_vision import cli, hosts
from mtl_vision.errors import Requeue
def main():
    hosts.join()
    import jax, numpy as np
    rows = hosts.together(np.array([jax.process_index()]))
    log = pathlib.Path({log!r})
    again = (log / "0").exists()
    hosts.barrier("looked")
    (log / str(jax.process_index())).write_text(json.dumps([sys.argv[1:], rows.tolist()]))
    if not again:
        raise Requeue("again")
cli.start(main, ["train.py"])
"""

# Stands for `srun` and `gcloud`: what its arguments end with, as two local processes.
TWICE = """#!/usr/bin/env bash
{read}
export SLURM_NTASKS=2 SLURM_JOB_ID={port} SLURM_STEP_NODELIST=127.0.0.1
for i in 0 1; do
  SLURM_PROCID=$i SLURM_LOCALID=0 {environment} "${{run[@]}}" & pids[i]=$!
done
code=0
for pid in ${{pids[@]}}; do wait $pid || code=$?; done
exit $code
"""
EXPLICIT = "JAX_COORDINATOR_ADDRESS=127.0.0.1:{port} JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=$i"


def program(folder, name, text, **fields):
    file = folder / name
    file.write_text(text.format(**fields))
    file.chmod(0o755)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def bin_(tmp_path):
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    log.mkdir()
    program(folder, "python", PROGRAM, python=sys.executable, root=str(ROOT), log=str(log))
    return folder


def environment(bin_):
    found = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "JAX_CO"))}
    return found | {"PATH": f"{bin_}:{os.environ['PATH']}", "XLA_FLAGS": XLA_FLAGS}


def dry_run(*arguments):
    command = [
        ROOT / "scripts/launch" / arguments[0],
        *arguments[1:],
        "--dry-run",
        "--",
        *ARGUMENTS,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def ran(tmp_path):
    """What the two processes were told and saw."""
    found = [json.loads((tmp_path / "log" / str(i)).read_text()) for i in (0, 1)]
    assert found[0] == found[1]
    return found[0]


EXPECTED = [["scripts/train.py", *ARGUMENTS], [0, 1]]


def test_slurm_queues_the_run_again_and_it_goes_on(tmp_path, bin_):
    script = dry_run("slurm.sh", "--nodes", "2", "--gpus", "4", "--setup", f"PATH={bin_}:$PATH")
    assert "#SBATCH --nodes=2" in script and "#SBATCH --gpus-per-node=4" in script
    job = os.getpid()  # the port follows from it
    read = 'run=("${@:2}")'
    program(bin_, "srun", TWICE, read=read, port=job, environment="env")
    program(bin_, "scontrol", 'echo "$@" >> {log}\n', log=tmp_path / "queue")
    environ = environment(bin_) | {"SLURM_JOB_ID": str(job)}
    codes = [subprocess.run(["bash", "-c", script], env=environ, cwd=ROOT).returncode for _ in "ab"]
    assert codes == [75, 0]
    assert (tmp_path / "queue").read_text() == f"requeue {job}\n"
    assert ran(tmp_path) == EXPECTED


def test_a_tpu_slice_starts_by_one_command_and_again_where_asked(tmp_path, bin_):
    line = dry_run("tpu_vm.sh", "--tpu", "t", "--zone", "z", "--folder", str(tmp_path))
    assert shlex.split(line)[:8] == "gcloud compute tpus tpu-vm ssh t --zone=z --worker=all".split()
    read = f'command=${{@: -1}}; run=(bash -c "PATH={bin_}:$PATH; ${{command#--command=}}")'
    program(bin_, "gcloud", TWICE, read=read, port=1, environment=EXPLICIT.format(port=free_port()))
    program(bin_, "sleep", "#!/bin/true\n")
    subprocess.run(line, shell=True, check=True, env=environment(bin_), cwd=ROOT)
    assert ran(tmp_path) == EXPECTED


def test_the_pods_of_a_job_find_each_other(tmp_path, bin_):
    text = dry_run(
        "gke.sh",
        "--name",
        "x",
        "--image",
        "i",
        "--pods",
        "2",
        "--claim",
        "c",
        "--device",
        "nvidia.com/gpu=8",
        "--selector",
        "a/b=c",
    )
    service, job = yaml.safe_load_all(text)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    assert service["metadata"]["name"] == pod["subdomain"] == "x"
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    assert pod["nodeSelector"] == {"a/b": "c"}
    ignored = [
        r.get("onExitCodes", {}).get("values", []) for r in job["spec"]["podFailurePolicy"]["rules"]
    ]
    assert 75 in ignored[1] and 1 not in ignored[1]
    port, given = free_port(), {}
    for variable in container["env"]:
        value = variable.get("value", "I")
        given[variable["name"]] = re.sub(r"^x-0\.x:\d+$", f"127.0.0.1:{port}", value)
    runs = [
        subprocess.Popen(
            container["command"],
            env=environment(bin_) | given | {"JAX_PROCESS_ID": str(i)},
            cwd=ROOT,
        )
        for i in range(int(given["JAX_NUM_PROCESSES"]))
    ]
    assert [run.wait(timeout=120) for run in runs] == [75, 75]
    assert ran(tmp_path) == EXPECTED


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--bla", "1"], "--bla is unknown"),
        (["--nodes", "2"], "give the arguments of scripts/train.py after --"),
        (["--", "--config=x"], "--workdir is missing"),
    ],
)
def test_a_wrong_option_is_named(arguments, message):
    command = [ROOT / "scripts/launch/slurm.sh", *arguments]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1 and message in found.stderr
