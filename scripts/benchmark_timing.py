"""How the benchmarks take time: in turns, and medians."""

import re
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from absl import flags

REPEATS = flags.DEFINE_integer("repeats", 20, "Runs that are timed.", lower_bound=1)

PIXELS = flags.DEFINE_string(
    "pixels", "", "Size of a step's images, 224 or 448x576; as the config says, 224 in optim_step."
)
flags.register_validator(
    "pixels", re.compile(r"([1-9]\d*(x[1-9]\d*)?)?").fullmatch, message="write 224 or 448x576."
)
BATCH = flags.DEFINE_integer(
    "batch", 0, "Images per dataset in a step; 0: as the config says, 1 in optim_step."
)

Clock = Callable[[], float]
# Between turns: threads of the library before wait for more work in a loop, on the same cores.
REST = 0.3


def timed(
    *functions: Callable[[], object], clock: Clock = time.process_time, repeats: int = 0
) -> list[float]:
    """Returns each function's median seconds; they take turns, after one run that is not timed.

    By default seconds of processor time, over all cores; what is per core does not depend on
    what else the machine does.
    """
    return timed_by(*functions, clocks=(clock,), repeats=repeats)[0]


def timed_by(
    *functions: Callable[[], object], clocks: tuple[Clock, ...], repeats: int = 0
) -> list[list[float]]:
    """Returns, for each of several clocks, what `timed` returns of the same runs."""
    seconds = np.zeros((len(clocks), len(functions), repeats or REPEATS.value))
    for function in functions:
        function()
    for run in range(seconds.shape[2]):
        for i, function in enumerate(functions):
            time.sleep(REST if len(functions) > 1 else 0.0)
            start = [clock() for clock in clocks]
            function()
            seconds[:, i, run] = [clock() for clock in clocks]
            seconds[:, i, run] -= start
    return [[statistics.median(runs) for runs in found] for found in seconds]


def random_batch(shapes):
    """Returns a batch of the given shapes that is valid everywhere."""
    import jax

    rng = np.random.default_rng(0)

    def fill(shape):
        if shape.dtype == bool:
            value = np.ones(shape.shape, bool)
        elif shape.dtype == np.uint8:
            value = rng.integers(0, 2, shape.shape, np.uint8)
        else:
            value = rng.standard_normal(shape.shape, np.float32)
        return jax.device_put(value, shape.sharding)

    return jax.tree.map(fill, shapes)


def resized(config, pixels=0, batch=0):
    """Returns a config's values with the sizes and the batches that the flags ask for.

    Args:
      config: values of a config.
      pixels: side where --pixels says nothing, 0 for the config's own.
      batch: images of every dataset where --batch says nothing, 0 for the config's own.
    """
    given = [int(side) for side in PIXELS.value.split("x") if side] or [pixels]
    size, batch = (given[0], given[-1]), BATCH.value or batch
    data, found = dict(config["data"]), config["eval"]
    for name, value in data.items():
        if isinstance(value, Mapping) and size[0]:
            data[name] = data[name] | {"size": size}
        if isinstance(value, Mapping) and batch:
            data[name] = data[name] | {"batch": batch}
    if batch:
        data["batch"], found = batch, config["eval"] | {"batch": batch}
    return {**config, "data": data, "eval": found}


def losses_alone(cfg: Any, mesh: Any, made: Any, batch: Any) -> tuple[Callable[[], None], float]:
    """Returns the compiled forward pass of all tasks, and its floating-point operations."""
    import jax

    from mtl_vision import build, parallel
    from mtl_vision.train.gradients import LOSSES
    from mtl_vision.train.step import parts_of

    parts = partial(parts_of, graphdef=made.graphdef, groups=build.groups(cfg))

    @partial(jax.jit, compiler_options=parallel.compiler_options(mesh))
    def losses(state, batch):
        here = partial(parts, frozen=state.frozen)
        return LOSSES(here, state.trainable, state.stats, batch, state.key, 1)[1][0]

    compiled = losses.lower(made.state, batch).compile()
    work = (compiled.cost_analysis() or {}).get("flops", float("nan"))
    return lambda: jax.block_until_ready(compiled(made.state, batch)), work
