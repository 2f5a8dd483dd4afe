r"""Runs the joint nine-task step on other devices and processes and compares with one device.

  python -m tests.equality --folder /tmp/equal [--cases dp8,fsdp8,fsdp_tp8,hybrid8,dp2x4,fsdp_tp4x2]

TaskExpert with MTLoRA, CAGrad and task-wise SAM at a tiny size, plain descent, so that the first
step shows the merged gradient. `fsdp_tp4x2` is the preset `fsdp_tp` on four processes of two
simulated devices, `dp8` the preset `dp` on one process of eight. Prints the largest deviation of
losses, of the first gradient, of the parameters after `--steps`, relative to the largest entry of
each array, and of the metrics; exits with 1 where one is above its tolerance.
"""

import argparse
import os
import pathlib
import re
import socket
import subprocess
import sys

import numpy as np

from tests import tiny

FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
RATE = 0.01
# Float32 sums in another order, through the solver of CAGrad and a pass at perturbed parameters.
TOLERANCES = {"loss": 1e-4, "gradient": 2e-3, "parameters": 1e-4, "metric": 1e-3}


def values(preset: str, devices: int) -> dict:
    """Returns the config of a case."""
    found = tiny.values(data__batch=8, eval__batch=8)
    found["backbone"] |= {"embed": 16, "depths": (1, 1)}
    found["adapter"] = (dict(name="mtlora", rank=4, task_rank=2, scale=4.0, dropout=0.05),)
    found["decoder"] = dict(name="task_expert", preset="small", reads="both")
    sgd = dict(name="sgd", lr=RATE, lr_batch=0, clip_norm=0.0, weight_decay=0.0, momentum=0.0)
    sgd |= dict(decay=(), lr_scale=((".*", 1.0),), accumulate=1, per_task="scan", ema=0.0)
    sgd |= dict(aggregator={"name": "cagrad"}, weighting={"name": "equal"})
    found["optim"] = sgd | dict(sam=dict(name="task_sam", rho_shared=0.05, rho_task=0.05))
    found["schedule"] = {"name": "constant"}
    sizes = dict(slices=1, tensor=1)
    sizes |= {"fsdp_tp": dict(tensor=2), "hybrid": dict(slices=2, tensor=2)}.get(preset, {})
    found["mesh"] = dict(preset=preset, **sizes)
    return found


def work(case: str, index: int, port: int, steps: int, out: pathlib.Path) -> None:
    """Runs one process of a case; the first writes what it found."""
    preset, processes, devices = parts(case)
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from mtl_vision import build, hosts, parallel, rules
    from mtl_vision.check import check
    from mtl_vision.evaluate import Evaluator
    from mtl_vision.train import setup
    from mtl_vision.train.step import best_params

    if processes > 1:
        hosts.join(f"127.0.0.1:{port}", processes, index)
    cfg = check(values(preset, processes * devices))
    mesh, start = setup.start(cfg)
    step, batches, state = (
        setup.train_step(cfg, mesh, start),
        build.train_batches(cfg, 0),
        start.state,
    )
    whole = jax.jit(lambda tree: tree, out_shardings=parallel.replicated(mesh, state.trainable))
    found, before = {}, numbers(whole(state.trainable), rules)
    for i in range(steps):
        state, metrics = step(state, parallel.to_global(next(batches), mesh))
        for name, value in jax.device_get(metrics).items():
            if name.startswith("loss/"):
                found[f"loss:{i}:{name}"] = value
        if i == 0:
            for path, x in numbers(whole(state.trainable), rules).items():
                found[f"gradient:{path}"] = (before[path] - x) / RATE
    for path, x in numbers(whole(state.trainable), rules).items():
        found[f"parameters:{path}"] = x
    result = Evaluator(cfg, mesh, start)(best_params(state), "test", final=True)
    found |= {f"metric:{name}": value for name, value in result.metrics.items()}
    if hosts.first():
        np.savez(out, **found)


def numbers(tree, rules) -> dict[str, np.ndarray]:
    """Returns arrays by path in double precision."""
    return {path: np.asarray(x, np.float64) for path, x in rules.flatten(tree).items()}


def parts(case: str) -> tuple[str, int, int]:
    """Returns preset, processes and devices of each: ``fsdp_tp4x2`` is four of two."""
    preset, processes, devices = re.fullmatch(r"([a-z_]+?)(?:(\d+)x)?(\d+)", case).groups()
    return preset, int(processes or 1), int(devices)


def run(case: str, steps: int, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Runs all processes of a case and returns what it found."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    out = folder / f"{case}.npz"
    command = [
        sys.executable,
        "-m",
        "tests.equality",
        "--folder",
        str(folder),
        "--steps",
        str(steps),
    ]
    environment = os.environ | {"XLA_FLAGS": FLAGS, "PYTHONPATH": str(tiny.ROOT)}
    environment |= {"JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen([*command, "--work", f"{case},{i},{port}"], cwd=tiny.ROOT, env=environment)
        for i in range(parts(case)[1])
    ]
    if any(process.wait() for process in started):
        raise SystemExit(f"{case} failed.")
    with np.load(out) as found:
        return dict(found)


def deviations(found: dict, expected: dict) -> dict[str, tuple[float, str]]:
    """Returns the largest deviation of every kind, and of what."""
    worst = {kind: (0.0, "") for kind in TOLERANCES}
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        scale = max(float(np.abs(x).max()), 1e-3)
        far = float(np.abs(found[name] - x).max()) / scale
        kind = name.split(":")[0]
        worst[kind] = max(worst[kind], (far, name))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--cases", default="dp8,fsdp8,fsdp_tp8,hybrid8,dp2x4,fsdp_tp4x2")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--work", default="")
    args = parser.parse_args()
    if args.work:
        case, index, port = args.work.split(",")
        return work(case, int(index), int(port), args.steps, args.folder / f"{case}.npz")
    args.folder.mkdir(parents=True, exist_ok=True)
    expected, bad = run("dp1", args.steps, args.folder), False
    for case in args.cases.split(","):
        worst = deviations(run(case, args.steps, args.folder), expected)
        print(case, *(f"{kind} {far:.1e}" for kind, (far, _) in worst.items()), flush=True)
        for kind, (far, name) in worst.items():
            if not far <= TOLERANCES[kind]:
                print(f"  {name} deviates by {far:.2e}, above {TOLERANCES[kind]:g}", flush=True)
                bad = True
    sys.exit(bad)


if __name__ == "__main__":
    main()
