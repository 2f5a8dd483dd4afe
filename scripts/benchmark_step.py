"""The part of `benchmark.py` about the steps of configs: compile, memory, time, dispatch."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from absl import flags
from benchmark_timing import BATCH, PIXELS, losses_alone, random_batch, resized, timed

from mtl_vision import cli

BESIDE = flags.DEFINE_list(
    "beside", [], "Config files whose steps take turns with that of --config, on its data."
)


class Step(NamedTuple):
    """A config's compiled step, its state kept between calls, and its forward pass."""

    name: str
    run: Callable[[], None]
    forward: Callable[[], object]
    dispatch: Callable[[], float]


def steps(config: Mapping[str, Any]) -> None:
    """Compiles the steps of one or several configs and runs them in turns on random numbers.

    `forward` is the forward pass of all tasks in training, down to the losses. A ratio is to the
    step of --config.
    """
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    shared = {name: config[name] for name in ("data", "eval", "loss_weights", "protocol")}
    made = [step("config", config)]
    made += [step(path, {**cli.load_config(path), **shared}) for path in BESIDE.value]
    # Forward first: a step takes its state away.
    ahead = timed(*(one.forward for one in made), clock=time.perf_counter)
    whole = timed(*(one.run for one in made), clock=time.perf_counter)
    for one, seconds, forward in zip(made, whole, ahead, strict=True):
        print(
            f"{one.name}: step {seconds * 1e3:.4g} ms, ratio {seconds / whole[0]:.3f}; "
            f"forward {forward * 1e3:.4g} ms, ratio {forward / ahead[0]:.3f}"
        )
    if len(made) == 1:
        print(f"dispatch: {made[0].dispatch() * 1e3:.3g} ms")


def step(name: str, config: Mapping[str, Any]) -> Step:
    """Builds and compiles, and prints what that took and what the step needs."""
    import jax

    from mtl_vision.check import check
    from mtl_vision.train import plan, setup

    cfg = check(resized(config) if PIXELS.value or BATCH.value else config)
    start = time.perf_counter()
    mesh, made = setup.start(cfg)
    jax.block_until_ready(made.state)
    lines = [f"model and state {time.perf_counter() - start:.2f} s"]
    train_step = setup.train_step(cfg, mesh, made)
    batch = random_batch(plan.batch_shapes(cfg, mesh))
    forward, work = losses_alone(cfg, mesh, made, batch)
    start = time.perf_counter()
    compiled = train_step.lower(made.state, batch).compile()
    lines.append(f"compile {time.perf_counter() - start:.2f} s")
    lines += [f"{what} {value}" for what, value in plan.cost(compiled, mesh)]
    lines.append(f"forward {work / 1e9:.2f} G")
    print(f"{name}: {', '.join(lines)}", flush=True)
    state = made.state

    def run() -> None:
        nonlocal state
        state, out = compiled(state, batch)
        jax.block_until_ready(out)

    def dispatch() -> float:
        return empty_call(state, batch, mesh, made.shardings)

    return Step(name, run, forward, dispatch)


def empty_call(state: Any, batch: Any, mesh: Any, shardings: Any) -> float:
    """Returns what a call costs in Python: the arguments and results around an empty program."""
    import jax

    from mtl_vision import parallel

    places = (shardings, parallel.batch_sharding(mesh))
    empty = jax.jit(
        lambda state, batch: state, in_shardings=places, out_shardings=shardings, donate_argnums=0
    )

    def call() -> None:
        nonlocal state
        state = empty(state, batch)

    return timed(call, clock=time.perf_counter, repeats=300)[0]
