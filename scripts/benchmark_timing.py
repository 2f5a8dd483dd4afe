"""How the benchmarks take time: in turns, and medians."""

import statistics
import time
from collections.abc import Callable

import numpy as np
from absl import flags

REPEATS = flags.DEFINE_integer("repeats", 20, "Runs that are timed.", lower_bound=1)

Clock = Callable[[], float]


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
