"""The part of `benchmark.py` about merging the gradients of tasks."""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import flags
from benchmark_timing import timed_by

from mtl_vision.errors import ConfigError, lookup

METHODS = flags.DEFINE_list("methods", [], "Methods that optim and optim_step time; all if empty.")
TASKS = flags.DEFINE_integer("tasks", 5, "Rows that optim merges.", lower_bound=1)

CLOCKS = (time.perf_counter, time.process_time)


def chosen(table: Mapping[str, Any]) -> list[str]:
    """Returns the names that --methods lists, or all of the table."""
    for name in METHODS.value:
        lookup(table, name, "methods")
    return METHODS.value or list(table)


def merging(against: str) -> None:
    """Times every aggregator on rows of Swin-T's shapes, in turns with a copy of the rows.

    The share is of what two passes over the rows would take at the copy's bandwidth; a copy moves
    as many bytes as two such passes.
    """
    import jax

    from mtl_vision.optim.methods import AGGREGATORS

    names = chosen(AGGREGATORS)
    jax.config.update("jax_enable_compilation_cache", False)
    T = TASKS.value
    rows = swin_rows(T)
    size = sum(math.prod(g.shape[1:]) for g in rows.values())
    print(f"{T} rows of {size / 1e6:.1f} M numbers in {len(rows)} arrays; wall and processor ms")
    copy = copies(rows)
    theirs = torchjd_aggregators(T, rows) if against == "torchjd" else {}
    for name in names:
        start = time.process_time()
        ours = aggregator(name, T, rows)
        compiled = time.process_time() - start
        functions = [copy, ours, *([theirs[name]] if name in theirs else [])]
        wall, busy = ([1e3 * x for x in found] for found in timed_by(*functions, clocks=CLOCKS))
        line = f"{name}: {wall[1]:.0f} {busy[1]:.0f}, copy {wall[0]:.0f} {busy[0]:.0f}"
        line += f", share {wall[0] / wall[1]:.2f} {busy[0] / busy[1]:.2f}"
        if name in theirs:
            line += f", torchjd {wall[2]:.0f} {busy[2]:.0f}"
            line += f", ratio {wall[1] / wall[2]:.3f} {busy[1] / busy[2]:.3f}"
        print(f"{line}, compile {compiled:.1f} s", flush=True)


def swin_rows(T: int) -> dict[str, Any]:
    """Returns random rows ``[T, *shape]`` for every parameter of Swin-T."""
    import jax
    from flax import nnx

    from mtl_vision import rules
    from mtl_vision.models.backbones import BACKBONES

    model = nnx.eval_shape(lambda: BACKBONES["swin_t"](dtype="float32", rngs=nnx.Rngs(0)))
    shapes = rules.flatten(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    rng = np.random.default_rng(0)
    return {
        path: jax.device_put(rng.standard_normal((T, *leaf.shape), np.float32))
        for path, leaf in shapes.items()
    }


def copies(rows: Mapping[str, Any]) -> Callable[[], None]:
    """Returns a function that copies all rows once, on two threads."""
    source = flat(rows)
    target, half = np.empty_like(source), len(source) // 2
    pool = ThreadPoolExecutor(2)

    def copy() -> None:
        parts = (slice(half), slice(half, None))
        list(pool.map(lambda part: np.copyto(target[part], source[part]), parts))

    return copy


def flat(rows: Mapping[str, Any]) -> np.ndarray:
    """Returns the rows as one matrix ``[T, d]``."""
    return np.concatenate([np.asarray(g).reshape(len(g), -1) for g in rows.values()], 1)


def aggregator(name: str, T: int, rows: Mapping[str, Any]) -> Callable[[], None]:
    """Returns the compiled link `aggregate`, its state kept between calls."""
    import jax
    import jax.numpy as jnp

    from mtl_vision.optim.aggregate import aggregate
    from mtl_vision.optim.methods import AGGREGATORS

    params = {path: jax.ShapeDtypeStruct(g.shape[1:], g.dtype) for path, g in rows.items()}
    tx, losses = aggregate(AGGREGATORS[name](), T), jnp.ones(T)

    def update(rows, state):
        return tx.update(rows, state, params, losses=losses)

    state = jax.jit(lambda: tx.init(params))()
    compiled = jax.jit(update, donate_argnums=1).lower(rows, state).compile()

    def run() -> None:
        nonlocal state
        merged, state = compiled(rows, state)
        jax.block_until_ready(merged)

    return run


def torchjd_aggregators(T: int, rows: Mapping[str, Any]) -> dict[str, Callable[[], object]]:
    """Returns TorchJD's aggregators on one matrix, by our names."""
    try:
        import torch
        from torchjd import aggregation as A
    except ImportError as e:
        raise ConfigError(
            f"--against=torchjd: {e}. Install it with: pip install -r requirements-compare.txt"
        ) from e
    matrix = torch.from_numpy(flat(rows))
    made = {
        "sum": A.Sum(),
        "mean": A.Mean(),
        "pcgrad": A.PCGrad(),
        "gradvac": A.GradVac(),
        "imtl_g": A.IMTLG(),
        "config": A.ConFIG(),
        "aligned_mtl": A.AlignedMTL(),
        "krum": A.Krum(0),
        "mgda": A.MGDA(),
        "cagrad": A.CAGrad(c=0.4),
        "upgrad": A.UPGrad(),
        "dualproj": A.DualProj(),
        "pcd": A.PCD(),
        "nash_mtl": A.NashMTL(n_tasks=T),
        "fairgrad": A.FairGrad(alpha=2.0),
        "graddrop": A.GradDrop(),
        "trimmed_mean": A.TrimmedMean(1),
        "excess_mtl": A.ExcessMTL(),
    }
    return {name: lambda one=one: one(matrix) for name, one in made.items()}
