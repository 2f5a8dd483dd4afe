"""Runs of a study: each a command of its own, what is missing run, the rest left."""

import contextlib
import dataclasses
import os
import pathlib
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from mtl_vision import cli
from mtl_vision.config import Config
from mtl_vision.errors import ConfigError, RunError
from mtl_vision.train import folder

ROOT = pathlib.Path(__file__).parents[2]
Say = Callable[[str], None]


class Job(NamedTuple):
    """One run.

    name: its folder below that of the study.
    config: path of the config file.
    overrides: ``field=value`` each.
    """

    name: str
    config: str
    overrides: tuple[str, ...]


def values(job: Job) -> dict[str, Any]:
    """Returns the job's config as ``train.py`` would read it.

    Raises:
      ConfigError: the file cannot be loaded, a field is unknown or a value of a wrong type.
    """
    own, argv = flags.FlagValues(), ["study", *_options(job)]
    holder = config_flags.DEFINE_config_file(
        *("config", None, ""),
        flag_values=own,
        sys_argv=argv,
        lock_config=False,
        accept_new_attributes=True,
    )
    try:
        own(argv)
    except cli.FLAG_ERRORS as e:
        raise ConfigError(f"{job.name}: {cli.explain(e, argv)}") from e
    return dict(cli.config_value(holder))


def _options(job: Job) -> list[str]:
    return [f"--config={job.config}", *(f"--config.{o}" for o in job.overrides)]


def command(job: Job, out: pathlib.Path) -> list[str]:
    """Returns the command line of one run."""
    script = str(ROOT / "scripts" / "train.py")
    return [sys.executable, script, *_options(job), f"--workdir={out / job.name}"]


def finished(job: Job, out: pathlib.Path) -> bool:
    """Says whether the job's run is done.

    Raises:
      RunError: the folder holds a run of another config.
    """
    workdir = out / job.name
    if (workdir / "config.json").exists():
        folder.check_same(workdir / "config.json", values(job))
    return (workdir / "final_metrics.json").exists()


def check_all(jobs: Sequence[Job], out: pathlib.Path) -> list[Job]:
    """Checks every job before one starts; returns those that are not finished.

    What these would begin with is planned, without an array: so a model that cannot be built, and a
    rule that matches nothing, are said now. JAX is held to the CPU in this process, as accelerators
    are for the runs.

    Raises:
      ConfigError: a job's config is wrong; names the job.
      RunError: a folder holds a run of another config.
    """
    from mtl_vision.check import check

    configs, planned = {}, []
    for job in jobs:
        with _naming(job):
            configs[job.name] = dataclasses.replace(check(values(job)), seed=0)
    missing = [job for job in jobs if not finished(job, out)]
    for job in missing:
        cfg = configs[job.name]
        if cfg not in planned:  # another seed of it was
            with _naming(job):
                plan(cfg)
            planned.append(cfg)
    return missing


def plan(cfg: Config) -> None:
    """Plans the first state of a run, on one device and without an array.

    Raises:
      ConfigError: the model cannot be built, or a rule does not fit its parameters.
    """
    import jax

    from mtl_vision import parallel
    from mtl_vision.train import setup

    jax.config.update("jax_platforms", "cpu")
    setup.planned(cfg, parallel.make_mesh(devices=jax.devices()[:1]))


@contextlib.contextmanager
def _naming(job: Job) -> Iterator[None]:
    try:
        yield
    except ConfigError as e:
        raise ConfigError(f"{job.name}: {str(e).removeprefix(job.name + ': ')}") from e


class Share(NamedTuple):
    """What one of several workers has to itself: some GPUs, or some cores; empty for all."""

    environment: dict[str, str]
    cores: frozenset[int]


def run(jobs: Sequence[Job], out: pathlib.Path, *, parallel: int, say: Say) -> None:
    """Runs jobs, `parallel` at a time; each gets its share of the GPUs, or else of the cores.

    Every run writes its console to ``train.log`` in its folder. A stopped run goes on.

    Raises:
      RunError: runs failed; says which and why. The others are done.
    """
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    for i, job in enumerate(jobs):
        waiting.put((i, job))
    kept, failed, running = shares(parallel), [], set()
    stop = threading.Event()

    def work(share: Share) -> None:
        while not stop.is_set():
            try:
                i, job = waiting.get_nowait()
            except queue.Empty:
                return
            start = time.monotonic()
            code = _one(job, out, share, running)
            took = f"{time.monotonic() - start:.0f} s"
            how = "stopped" if stop.is_set() else "failed"
            said = took if code == 0 else f"{how} after {took}: {last_line(out / job.name)}"
            if code and not stop.is_set():
                failed.append(f"{job.name} ({last_line(out / job.name)})")
            say(f"[{i + 1}/{len(jobs)}] {job.name}: {said}")

    threads = [threading.Thread(target=work, args=(share,)) for share in kept]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stop.set()
        for process in list(running):
            process.terminate()
        raise
    if failed:
        raise RunError(f"{len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}.")


def _one(job: Job, out: pathlib.Path, share: Share, running: set) -> int:
    workdir = out / job.name
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "train.log").open("a") as log:
        environment = os.environ | share.environment
        process = subprocess.Popen(
            command(job, out), stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        if share.cores:  # before it starts any thread
            os.sched_setaffinity(process.pid, share.cores)
        running.add(process)
        try:
            return process.wait()
        finally:
            running.discard(process)


def shares(parallel: int) -> list[Share]:
    """Returns what each of `parallel` workers has to itself.

    Raises:
      ConfigError: there are fewer GPUs than workers.
    """
    found = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    found = [name for name in found if name] or [
        p.name.removeprefix("nvidia")
        for p in sorted(pathlib.Path("/dev").glob("nvidia[0-9]*"), key=lambda p: (len(p.name), p))
    ]
    if parallel == 1:
        return [Share({}, frozenset())]
    if not found:
        cores = sorted(os.sched_getaffinity(0))
        own = [frozenset(cores[i::parallel]) for i in range(parallel)]
        return [Share({}, some) for some in own]
    if len(found) < parallel:
        raise ConfigError(f"--parallel={parallel}: there are {len(found)} GPUs.")
    own = [",".join(found[i::parallel]) for i in range(parallel)]
    return [Share({"CUDA_VISIBLE_DEVICES": some}, frozenset()) for some in own]


def last_line(workdir: pathlib.Path) -> str:
    """Returns the last line of a run's console."""
    lines = (workdir / "train.log").read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def job_list(jobs: Sequence[Job], out: pathlib.Path) -> str:
    """Returns one command a line."""
    return "".join(f"{shlex.join(command(job, out))}\n" for job in jobs)


def slurm_array(jobs: Sequence[Job], listed: pathlib.Path) -> str:
    """Returns a SLURM script that runs line N of the job list `listed` as task N."""
    return (
        "#!/usr/bin/env bash\n"
        "#SBATCH --job-name=mtl_vision\n"
        f"#SBATCH --array=1-{len(jobs)}\n"
        "#SBATCH --requeue\n"
        f'eval "$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {shlex.quote(str(listed))})"\n'
    )
