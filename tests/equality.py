r"""Runs the joint nine-task step on other devices and processes and compares with one device.

  python -m tests.equality --folder runs/equality [--cases dp8,fsdp8,fsdp_tp2x4,fsdp4x2] \
      [--precision float64] [--optimizer adamw] [--steps 5] [--stages 2]

TaskExpert with MTLoRA, CAGrad and task-wise SAM at a tiny size, stochastic depth and dropout
included. ``fsdp_tp2x4`` is the preset ``fsdp_tp`` on two processes of four simulated devices,
``dp8`` the preset ``dp`` on one process of eight. In double precision the order of sums leaves
about 1e-14, and what is above `TOLERANCES` is a fault; in single precision nothing is judged.

Prints the largest deviation of the losses of the first and of the last step, of the merged gradient
of the first step and of its moving average after the last, of parameters and running statistics,
relative to the largest entry of the array, and of all metrics. A gradient that is only rounding,
such as that of a bias before a norm, is measured by `FLOOR` times the largest of all gradients. A
case whose numbers are in the folder already is not run again.
"""

import argparse
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tests import tiny

FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
CASES = "dp8,fsdp8,fsdp_tp8,hybrid8,fsdp_tp2x4,fsdp4x2"
RATE, FLOOR = 1e-3, 1e-3
TOLERANCES = {"loss, first step": 1e-11, "gradient, first step": 1e-9, "loss, last step": 1e-9}
TOLERANCES |= {"gradient": 1e-8, "parameters": 1e-8, "statistics": 1e-8, "metrics": 1e-8}
OPTIMIZERS = {"adamw": {"b2": 0.95}, "sgd": {"momentum": 0.9}}
MOMENTS = {"adamw": "/mu/", "sgd": "/trace/"}


def config(preset: str, args: argparse.Namespace) -> Any:
    """Returns the checked config of a case."""
    import dataclasses

    from mtl_vision.check import check

    found = tiny.values(data__batch=8, eval__batch=8)
    found["backbone"] |= {"embed": 16, "drop_path": 0.2}
    found["backbone"] |= {"depths": (1, 1)[: args.stages], "heads": (1, 2)[: args.stages]}
    found["adapter"] = (dict(name="mtlora", rank=4, task_rank=2, scale=4.0, dropout=0.05),)
    found["decoder"] = dict(name="task_expert", preset="tiny", experts=4, reads="both")
    optim = dict(name=args.optimizer, lr=RATE, lr_batch=0, clip_norm=10.0, weight_decay=0.05)
    optim |= dict(decay=(), lr_scale=((".*", 1.0),), accumulate=1, per_task="scan", ema=0.0)
    optim |= dict(aggregator={"name": "cagrad"}, weighting={"name": "equal"})
    optim |= dict(sam=dict(name="task_sam", rho_shared=0.05, rho_task=0.05))
    found["optim"] = optim | OPTIMIZERS[args.optimizer]
    found["schedule"] = {"name": "constant"}
    sizes = {"fsdp_tp": dict(tensor=2), "hybrid": dict(slices=2, tensor=2)}.get(preset, {})
    found["mesh"] = dict(preset=preset, slices=1, tensor=1) | sizes
    return dataclasses.replace(check(found), dtype=args.precision)


def cast(tree: Any, precision: str) -> Any:
    """Returns a tree with its float32 arrays in another precision."""
    import jax

    return jax.tree.map(lambda x: x.astype(precision) if x.dtype == np.float32 else x, tree)


def work(args: argparse.Namespace) -> None:
    """Runs one process of a case; the first writes what it found."""
    case, index, port = args.work.split(",")
    preset, processes, devices = parts(case)
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_x64", args.precision == "float64")
    from mtl_vision import hosts

    if processes > 1:
        hosts.join(f"127.0.0.1:{port}", processes, int(index))
    found = trained(config(preset, args), args)
    if hosts.first():
        np.savez(file(case, args), **found)


def trained(cfg: Any, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Takes the steps, evaluates, and returns all that is compared, by ``kind:name``."""
    import jax

    from mtl_vision import build, parallel
    from mtl_vision.evaluate import Evaluator
    from mtl_vision.train import setup
    from mtl_vision.train.step import best_params

    mesh, start = setup.start(cfg)
    state = jax.jit(lambda s: cast(s, args.precision), out_shardings=start.shardings)(start.state)
    step, batches, found = setup.train_step(cfg, mesh, start), build.train_batches(cfg, 0), {}
    moment = MOMENTS[args.optimizer]
    for i in range(args.steps):
        batch = parallel.to_global(cast(next(batches), args.precision), mesh)
        state, metrics = step(state, batch)
        when = {0: ", first step", args.steps - 1: ", last step"}.get(i, f" {i + 1}")
        found |= {f"loss{when}:{k}": v for k, v in jax.device_get(metrics).items() if "loss/" in k}
        if i == 0:
            found |= whole(f"gradient{when}", mesh, state.opt, moment)
    found |= whole("gradient", mesh, state.opt, moment)
    found |= whole("parameters", mesh, state.trainable)
    found |= whole("statistics", mesh, state.stats)
    result = Evaluator(cfg, mesh, start)(best_params(state), "test", final=True)
    return found | {f"metrics:{name}": value for name, value in result.metrics.items()}


def whole(kind: str, mesh: Any, tree: Any, part: str = "") -> dict[str, np.ndarray]:
    """Returns the arrays of a tree whose path has `part`, from all devices."""
    import jax

    from mtl_vision import parallel, rules

    leaves = {path: x for path, x in rules.flatten(tree).items() if part in f"/{path}"}
    together = jax.jit(lambda x: x, out_shardings=parallel.replicated(mesh, leaves))(leaves)
    return {f"{kind}:{path}": np.asarray(x) for path, x in together.items()}


def parts(case: str) -> tuple[str, int, int]:
    """Returns preset, processes and devices of each: ``fsdp_tp4x2`` is four of two."""
    preset, processes, devices = re.fullmatch(r"([a-z_]+?)(?:(\d+)x)?(\d+)", case).groups()
    return preset, int(processes or 1), int(devices)


def run(case: str, args: argparse.Namespace) -> tuple[dict[str, np.ndarray], float]:
    """Runs all processes of a case; returns what it found and the seconds that it took."""
    if file(case, args).exists():
        with np.load(file(case, args)) as found:
            return dict(found), 0.0
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    began, count = time.monotonic(), parts(case)[1]
    command = [sys.executable, "-m", "tests.equality", *sys.argv[1:], "--work"]
    environment = os.environ | {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(tiny.ROOT / ".cache" / "jax")}
    started = [
        subprocess.Popen([*command, f"{case},{i},{port}"], cwd=tiny.ROOT, env=environment)
        for i in range(count)
    ]
    if any([process.wait() for process in started]):
        raise SystemExit(f"{case} failed.")
    return run(case, args)[0], time.monotonic() - began


def file(case: str, args: argparse.Namespace) -> pathlib.Path:
    """Returns where what a case found is kept, for other calls too."""
    kind = f"{args.precision}_{args.optimizer}_{args.steps}_{args.stages}"
    return args.folder / f"{case}_{kind}.npz"


def deviations(found: dict, expected: dict) -> dict[str, tuple[float, str]]:
    """Returns the largest deviation of every kind, and of what."""
    assert found.keys() == expected.keys()
    worst = dict.fromkeys(TOLERANCES, (0.0, ""))
    for name, x in expected.items():
        kind = name.split(":")[0]
        if kind in worst:
            size = max(float(np.abs(x).max(initial=0)), least(kind, expected))
            far = np.abs(found[name] - x).max(initial=0) / size
            worst[kind] = max(worst[kind], (np.nan_to_num(float(far), nan=np.inf), name))
    return worst


def least(kind: str, expected: dict) -> float:
    """Returns the size below which an array of this kind is measured by it."""
    if not kind.startswith("gradient"):
        return RATE  # a step of Adam moves an entry by this much
    return FLOOR * max(np.abs(x).max() for name, x in expected.items() if name.startswith(kind))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--precision", default="float64", choices=["float32", "float64"])
    parser.add_argument("--optimizer", default="adamw", choices=list(OPTIMIZERS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--stages", type=int, default=2, choices=[1, 2], help="of the backbone")
    parser.add_argument("--at-once", type=int, default=1, help="cases that run at a time")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args)
    args.folder.mkdir(parents=True, exist_ok=True)
    sys.exit(compared(args))


def compared(args: argparse.Namespace) -> bool:
    """Prints the table; says whether a deviation is above its tolerance."""
    from mtl_vision.train.log import table

    cases, bad, rows = args.cases.split(","), [], [["case", *TOLERANCES]]
    with ThreadPoolExecutor(args.at_once) as pool:
        (expected, _), *others = pool.map(lambda case: run(case, args), ["dp1", *cases])
        for case, (found, seconds) in zip(cases, others, strict=True):
            worst = deviations(found, expected)
            rows.append([case, *(f"{far:.1e}" for far, _ in worst.values())])
            print(f"{case}, {seconds:.0f} s", *(f"\n  {far:.1e} {x}" for far, x in worst.values()))
            bad += [name for kind, (far, name) in worst.items() if far > TOLERANCES[kind]]
    print(f"\n{args.precision}, {args.optimizer}, {args.steps} steps, {args.stages} stages:\n")
    print(table(rows, right=range(1, 8)), flush=True)
    return bool(bad) and args.precision == "float64"


if __name__ == "__main__":
    main()
