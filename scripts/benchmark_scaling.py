"""The part of `benchmark.py` about many devices: what a compiled step sends, keeps and computes."""

import time
from collections.abc import Mapping
from typing import Any

from absl import flags
from benchmark_timing import BATCH

DEVICES = flags.DEFINE_list("devices", ["1", "8", "64"], "Numbers of simulated devices.")
MESHES = flags.DEFINE_list("presets", ["dp", "fsdp", "fsdp_tp", "hybrid"], "Presets of the mesh.")
# A host of eight devices: `tensor` within it, slices of `hybrid` of its size.
HOST = 8


def scaling(config: Mapping[str, Any]) -> None:
    """Compiles the step of a config for simulated devices and prints a table; runs nothing.

    `--batch` images per device and dataset (1 by default). Bytes are those that a device sends in a
    step by the ring algorithms; the axes of the mesh that they cross stand behind. Times are not
    measured.
    """
    import jax

    counts = sorted(int(n) for n in DEVICES.value)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", counts[-1])
    jax.config.update("jax_enable_compilation_cache", False)
    from mtl_vision.train.log import table

    rows = [["preset", "devices", "mesh", "GFLOP", "state MiB", "temporaries MiB", "sent MiB"]]
    print("  ".join(rows[0]), flush=True)
    for name in MESHES.value:
        for count in counts:
            rows.append(row(config, name, count))
            print("  ".join(rows[-1]), flush=True)
    print(f"\n{table(rows, right=(1, 3, 4, 5))}")


def row(config: Mapping[str, Any], preset: str, count: int) -> list[str]:
    """Compiles one step; returns its line of the table."""
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
    compiled = step.lower(start.state, images).compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    sent = program.summed(program.collectives(text, made.shape))
    parts = [f"{kind} {size / 2**20:.4g} ({'+'.join(axes)})" for (kind, axes), size in sent.items()]
    shared = parallel.ways(made, ("data", "fsdp"))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(images)) / shared
    return [
        preset,
        str(count),
        parallel.describe(made),
        f"{program.flops(text) / 1e9:.4g}",
        f"{(memory.argument_size_in_bytes - size) / 2**20:.1f}",
        f"{memory.temp_size_in_bytes / 2**20:.1f}",
        f"{sum(sent.values()) / 2**20:.4g}: {', '.join(parts) or 'none'}; "
        f"{time.perf_counter() - begun:.0f} s",
    ]
