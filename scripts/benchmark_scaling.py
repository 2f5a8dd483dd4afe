"""The part of `benchmark.py` about many devices: what a compiled step sends, keeps and computes."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import flags
from benchmark_systems import SYSTEMS, Sent, milliseconds
from benchmark_timing import BATCH

DEVICES = flags.DEFINE_list("devices", ["1", "8", "64"], "Numbers of simulated devices.")
MESHES = flags.DEFINE_list("presets", ["dp", "fsdp", "fsdp_tp", "hybrid"], "Presets of the mesh.")
# A host of eight devices: `tensor` within it, slices of `hybrid` of its size.
HOST = 8
# The text of the program is made before code is generated, which may then be as bad as can be.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SHORT = {"all-reduce": "AR", "all-gather": "AG", "reduce-scatter": "RS"}
SHORT |= {"all-to-all": "A2A", "collective-permute": "CP"}


class Step(NamedTuple):
    """A compiled step, per device: operations, bytes of the state, temporaries and messages."""

    preset: str
    mesh: Mapping[str, int]
    flops: float
    state: float
    temporary: float
    sent: Sent
    seconds: float


def scaling(config: Mapping[str, Any]) -> None:
    """Compiles the step of a config for simulated devices and prints two tables; runs nothing.

    `--batch` images per device and dataset (1 by default). Bytes are those that a device sends in a
    step by the ring algorithms; behind them the kind, and the axes of the mesh that they cross. The
    second table divides products and messages by the published speeds of `benchmark_systems`.
    """
    import jax

    counts = sorted(int(n) for n in DEVICES.value)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", counts[-1])
    jax.config.update("jax_enable_compilation_cache", False)
    from mtl_vision.train.log import table

    measured = [["preset", "mesh", "GFLOP", "state MiB", "temporaries MiB", "sent MiB", "compiled"]]
    least = [["preset", "devices", *(system.name for system in SYSTEMS)]]
    for name in MESHES.value:
        # On one device all presets are one.
        for count in counts if name == MESHES.value[0] else [n for n in counts if n > 1]:
            step = compiled(config, name, count)
            measured.append(line(step))
            least.append([name, str(count), *times(step)])
            print("  ".join(measured[-1]), flush=True)
    print(f"\n{table(measured, right=(2, 3, 4))}")
    print(f"\nproducts + messages, ms (ratio)\n\n{table(least, right=(1,))}")


def compiled(config: Mapping[str, Any], preset: str, count: int) -> Step:
    """Compiles one step."""
    import jax

    from mtl_vision import parallel, placements
    from mtl_vision.check import check
    from mtl_vision.train import plan, program, setup

    sizes = dict(slices=1, tensor=1)
    if preset == "fsdp_tp":
        sizes["tensor"] = min(HOST, count)
    if preset == "hybrid":
        sizes["slices"] = max(1, count // HOST)
    batch = count * (BATCH.value or 1)
    data = {k: v | {"batch": 0} if isinstance(v, Mapping) else v for k, v in config["data"].items()}
    own = dict(data=data | {"batch": batch}, eval=config["eval"] | {"batch": batch})
    cfg = check({**config, **own, "mesh": dict(preset=preset, **sizes)})
    made = parallel.make_mesh(**placements.preset(preset, **sizes), devices=jax.devices()[:count])
    start, begun = setup.planned(cfg, made), time.perf_counter()
    step = setup.train_step(cfg, made, start)
    images = plan.batch_shapes(cfg, made)
    options = QUICK | parallel.compiler_options(made)
    found = step.lower(start.state, images).compile(compiler_options=options)
    text, memory = found.as_text(), found.memory_analysis()
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(images))
    return Step(
        preset,
        dict(made.shape),
        program.flops(text),
        memory.argument_size_in_bytes - size / parallel.ways(made, ("data", "fsdp")),
        memory.temp_size_in_bytes,
        program.summed(program.collectives(text, made.shape)),
        time.perf_counter() - begun,
    )


def line(step: Step) -> list[str]:
    """Returns the line of a step in the first table."""
    parts = [
        f"{size / 2**20:.4g} {SHORT[kind]} {'+'.join(axes)}"
        for (kind, axes), size in sorted(step.sent.items(), key=lambda part: -part[1])
    ]
    return [
        step.preset,
        "x".join(map(str, step.mesh.values())),
        f"{step.flops / 1e9:.4g}",
        f"{step.state / 2**20:.1f}",
        f"{step.temporary / 2**20:.1f}",
        f"{sum(step.sent.values()) / 2**20:.4g}: {', '.join(parts) or 'none'}",
        f"{step.seconds:.0f} s",
    ]


def times(step: Step) -> list[str]:
    """Returns the cells of a step in the second table; a star where memory does not suffice."""
    cells = []
    for system in SYSTEMS:
        products, messages = milliseconds(system, step.mesh, step.flops, step.sent)
        star = "" if step.state + step.temporary < system.memory else "*"
        cells.append(f"{products:.3g} + {messages:.3g} ({messages / products:.2g}){star}")
    return cells
