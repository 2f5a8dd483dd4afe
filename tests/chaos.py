r"""Kills runs at random moments and compares how they end with a run that was left alone.

  python -m tests.chaos --folder runs/chaos [--kills 50] [--pairs 0] [--seed 0]

The runs are those of `tests.tiny.small`, by scripts/train.py. `--kills` hit runs of one process,
`--pairs` one of the two processes of other runs: SIGKILL or SIGTERM, while it steps, writes a
checkpoint or evaluates. A run is started again until it ends; then comes the next one, until so
many were hit. Then a run whose newest checkpoint is damaged, and one whose disk is full: a small
tmpfs where mounting is allowed, else a limit on the size of files. Every run ends with the metrics,
log lines and state of the run left alone, bit for bit, or this exits with 1.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from tests import tiny

STEPS, SAVE, EVAL = 32, 2, 8
CONFIG = """
import sys
sys.path.insert(0, {root!r})
import ml_collections
from tests import tiny

def get_config():
    values = tiny.small(run__steps={steps}, run__save_every={save}, run__eval_every={eval})
    values["run"] |= dict(best="synth_nyud/depth/rmse", log_every=1, panels=0, stall=600)
    return ml_collections.ConfigDict(values)
"""
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# The exit code of the process that was hit, and of the other one, which may have ended before.
EXPECTED = {signal.SIGKILL: {-9}, signal.SIGTERM: {75, -15, 0}}
OTHER = {signal.SIGKILL: {75, -6, 0}, signal.SIGTERM: {75, -6, -15, 0}}
MOMENTS = ("step", "save", "evaluation")


class Run:
    """A run folder and the processes that work in it."""

    def __init__(self, folder: pathlib.Path, name: str, steps: int, processes: int = 1):
        self.workdir, self.processes, self.steps = folder / name, processes, steps
        self.log, self.config = folder / f"{name}.log", folder / f"{name}.py"
        fields = dict(root=str(tiny.ROOT), steps=steps, save=SAVE, eval=EVAL)
        self.config.write_text(CONFIG.format(**fields))

    def start(self, limit: int = 0) -> list[subprocess.Popen]:
        """Starts all processes; `limit` bytes at most in a file, 0 for any number."""
        command = [sys.executable, "scripts/train.py", f"--config={self.config}"]
        command += [f"--workdir={self.workdir}"]
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        environment = os.environ | {"XLA_FLAGS": FLAGS, "PYTHONPATH": str(tiny.ROOT)}

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        started = []
        for i in range(self.processes):
            who = [f"--coordinator=127.0.0.1:{port}", f"--processes={self.processes}"]
            who = [*who, f"--process={i}"] if self.processes > 1 else []
            with self.log.open("ab") as log:
                kept = dict(cwd=tiny.ROOT, env=environment, stdout=log, stderr=log)
                kept |= dict(preexec_fn=limited) if limit else {}
                started.append(subprocess.Popen([*command, *who], **kept))
        return started

    def finish(self) -> None:
        """Runs to the end."""
        codes = [process.wait(timeout=600) for process in self.start()]
        if any(codes):
            raise SystemExit(f"{self.workdir} ended with {codes}:\n{self.log.read_text()[-3000:]}")

    def lines(self) -> list[dict]:
        """The log as far as it is written."""
        try:
            text = (self.workdir / "metrics.jsonl").read_text()
            return [json.loads(line) for line in text.splitlines()]
        except (OSError, ValueError):
            return []

    def reached(self, moment: str, step: int) -> bool:
        """Says whether the run is at `moment`, after `step` or a later one."""
        lines = self.lines()
        last = lines[-1] if lines else {"step": 0}
        if moment == "step":
            return last["step"] >= step
        if moment == "save":
            writing = (self.workdir / "checkpoints" / "steps").glob("*tmp*")
            return last["step"] >= step and any(True for _ in writing)
        looked = any(name.startswith("eval/") for name in last)
        return last["step"] >= max(step, 1) and last["step"] % EVAL == 0 and not looked

    def result(self) -> tuple:
        """What a run leaves: final figures, log without speed, and arrays."""
        final = json.loads((self.workdir / "final_metrics.json").read_text())
        lines = [{k: v for k, v in x.items() if k != "images_per_second"} for x in self.lines()]
        return final, lines


def kill(run: Run, chance: random.Random) -> str:
    """Starts the run and kills it a few steps on; says how, nothing if it ended before."""
    moment, number = chance.choice(MOMENTS), chance.choice([signal.SIGKILL, signal.SIGTERM])
    target, before = chance.randrange(run.processes), run.lines()
    step = (before[-1]["step"] if before else 0) + chance.randint(1, 3)
    processes = run.start()
    while not run.reached(moment, step) and processes[target].poll() is None:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.1))
    processes[target].send_signal(number)
    began = time.monotonic()
    codes = [process.wait(timeout=300) for process in processes]
    took, now = time.monotonic() - began, [line["step"] for line in run.lines()]
    if not any(codes):
        return ""
    others = [code for i, code in enumerate(codes) if i != target]
    good = codes[target] in EXPECTED[number] and all(code in OTHER[number] for code in others)
    print(
        f"{run.workdir.name}: {number.name} to process {target} in {moment} at step {now[-1:]}: "
        f"exit {codes} after {took:.1f} s{'' if good else '  UNEXPECTED'}",
        flush=True,
    )
    if not good:
        raise SystemExit(run.log.read_text()[-3000:])
    return f"{number.name} in {moment}"


def arrays(run: Run) -> dict[str, np.ndarray]:
    """The state in the newest checkpoint."""
    import jax

    from mtl_vision import rules
    from mtl_vision.check import check
    from mtl_vision.train import folder, setup

    cfg = check(folder.read(run.workdir))
    leaves = rules.flatten(setup.saved_state(run.workdir, setup.start(cfg)[1].state, None))
    leaves["key"] = jax.random.key_data(leaves["key"])
    return {path: np.asarray(x) for path, x in leaves.items()}


def compare(whole: Run, other: Run) -> None:
    """Exits with 1 unless both ended alike."""
    if whole.result() != other.result():
        raise SystemExit(f"{other.workdir} ended with other figures than {whole.workdir}.")
    a, b = arrays(whole), arrays(other)
    bad = [path for path, x in a.items() if not np.array_equal(b[path], x)]
    if bad:
        raise SystemExit(f"{other.workdir} differs from {whole.workdir} in {bad[:3]}.")
    print(f"{other.workdir.name} ended like {whole.workdir.name}", flush=True)


def attacked(folder: pathlib.Path, kills: int, processes: int, chance: random.Random) -> Run:
    """Runs one that is left alone, and others, each hit until it ends, until so many hits."""
    whole = Run(folder, f"whole{processes}", STEPS, processes)
    whole.finish()
    found: collections.Counter[str] = collections.Counter()
    for number in range(kills + 1):
        killed = Run(folder, f"killed{processes}_{number}", STEPS, processes)
        while found.total() < kills and (how := kill(killed, chance)):
            found[how] += 1
        killed.finish()
        compare(whole, killed)
        if found.total() == kills:
            break
    print(f"{found.total()} kills, {number + 1} runs of {processes} processes: {dict(found)}")
    return whole


def damaged(folder: pathlib.Path, whole: Run) -> None:
    """A run whose newest checkpoint has a flipped byte."""
    run = Run(folder, "damaged", whole.steps)
    (process,) = run.start()
    while not run.reached("step", run.steps // 2) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    saved = (run.workdir / "checkpoints" / "steps").glob("*")
    newest = max((f for f in saved if f.name.isdigit()), key=lambda f: int(f.name))
    file = max((f for f in newest.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    run.finish()
    assert f"Checkpoint {newest.name} is damaged and passed over" in run.log.read_text()
    print(f"checkpoint {newest.name}: a byte of {file.name} flipped, passed over", flush=True)
    compare(whole, run)


def full(folder: pathlib.Path, whole: Run) -> None:
    """A run whose disk is full until somebody frees space."""
    run = Run(folder, "full", whole.steps)
    place = run.workdir / "checkpoints"
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    (process,) = run.start(limit=0 if mounted else 8192)
    code, said = process.wait(timeout=300), run.log.read_text()
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert code == 1 and "cannot be written" in errors[-1], said[-3000:]
    print(f"full disk ({'tmpfs' if mounted else 'limit'}): {errors[-1][:200]}", flush=True)
    try:
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        run.finish()
        compare(whole, run)
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(tiny.ROOT / ".cache" / "jax"))
    chance, began = random.Random(args.seed), time.monotonic()
    if args.kills:
        whole = attacked(args.folder, args.kills, 1, chance)
        damaged(args.folder, whole)
        full(args.folder, whole)
    if args.pairs:
        attacked(args.folder, args.pairs, 2, chance)
    print(f"all ended alike, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
