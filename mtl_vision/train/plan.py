"""What a config amounts to, before it runs: parameters by component, cost of a step."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mtl_vision import build, parallel, rules
from mtl_vision.config import Config
from mtl_vision.models import mtl
from mtl_vision.train import setup
from mtl_vision.train.log import table
from mtl_vision.train.state import Start

GIB = 2**30


def parameters(cfg: Config) -> str:
    """Returns the table of parameters by component, frozen and trainable."""
    sizes, trains = _sizes(cfg)
    counts: dict[str, list[int]] = {}
    for path, size in sizes.items():
        row = counts.setdefault(component(path), [0, 0])
        row[trains[path]] += size
    total = [sum(row[i] for row in counts.values()) for i in (0, 1)]
    rows = [["component", "frozen", "trainable"]]
    for name, row in [*counts.items(), ("total", total)]:
        rows.append([name, *(f"{n:,}" for n in row)])
    return table(rows, right=(1, 2))


def trained(cfg: Config) -> tuple[int, int]:
    """Returns how many parameters train in the backbone with its adapters, and in the decoders."""
    return trained_and_all(cfg)[:2]


def trained_and_all(cfg: Config) -> tuple[int, int, int]:
    """Returns `trained`, and how many parameters there are."""
    sizes, trains = _sizes(cfg)
    total = sum(size for path, size in sizes.items() if trains[path])
    encoder = sum(n for path, n in sizes.items() if trains[path] and path.startswith("backbone/"))
    return encoder, total - encoder, sum(sizes.values())


def _sizes(cfg):
    sizes = mtl.sizes(mtl.abstract(build.model(cfg)))
    return sizes, rules.resolve(build.trainable(cfg), sizes, "trainable")


def component(path: str) -> str:
    """Names the part of the model that a parameter is counted with."""
    keys = path.split("/")
    depth = 4 if keys[:2] == ["decoder", "heads"] else 3 if keys[1] in ("stages", "segments") else 2
    return "/".join(keys[: min(depth, len(keys) - 1)])


def placement(made: Start) -> str:
    """Returns the table of where parameters live, equal layers of a model in one line.

    Bytes are those of all arrays of a line on one device, without what the optimizer keeps.
    """
    places = {**rules.flatten(made.shardings.trainable), **rules.flatten(made.shardings.frozen)}
    params = {**rules.flatten(made.state.trainable), **rules.flatten(made.state.frozen)}
    lines: dict[tuple[str, ...], list[int]] = {}
    for row in parallel.sharding_table(params, places):
        name = re.sub(r"(?<=/)\d+(?=/)", "*", row.path)
        sizes = lines.setdefault((name, str(row.shape), parallel.shown(row.spec)), [0, 0])
        sizes[0] += 1
        sizes[1] += row.bytes_per_device
    rows = [["parameter", "arrays", "shape", "spec", "bytes per device"]]
    for (name, shape, spec), (count, size) in lines.items():
        rows.append([name, str(count), shape, spec, f"{size:,}"])
    total = [sum(sizes[i] for sizes in lines.values()) for i in (0, 1)]
    rows.append(["total", str(total[0]), "", "", f"{total[1]:,}"])
    mesh = made.shardings.step.mesh
    return f"mesh {parallel.describe(mesh)}\n\n{table(rows, right=(1, 4))}"


def describe(cfg: Config) -> str:
    """Returns the plan of a run: tasks, parameters, and the compiled step's cost.

    Compiles the step for the devices there are; reads no data.
    """
    mesh = build.mesh(cfg)
    start = setup.planned(cfg, mesh)
    rows = [["task", "channels", "loss weight", "score", "size", "batch"]]
    for name, group in build.groups(cfg).items():
        data = cfg.datasets[name]
        for t in group:
            size = f"{data.size[0]}x{data.size[1]}"
            rows.append([t.name, str(t.channels), f"{t.weight:g}", t.score, size, str(data.batch)])
    costs, shapes = [], batch_shapes(cfg, mesh)
    for names, step in setup.train_programs(cfg, mesh, start).items():
        batch = {name: shapes[name] for name in names}
        compiled = step.lower(start.state, batch).compile()
        costs.append(table([["datasets", ", ".join(names)], *cost(compiled, mesh)]))
    parts = [table(rows, right=(1, 2, 5)), parameters(cfg), placement(start)]
    return "\n\n".join([*parts, *costs])


def cost(compiled: Any, mesh: jax.sharding.Mesh) -> list[list[str]]:
    """Returns rows of what the compiler says about a step, per device."""
    analysis: Mapping[str, float] = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    rows = [
        ["step", "per device"],
        ["mesh", parallel.describe(mesh)],
        ["floating-point operations", f"{analysis.get('flops', float('nan')) / 1e9:.2f} G"],
    ]
    if memory is not None:
        rows += [
            ["state and batch", f"{memory.argument_size_in_bytes / GIB:.3f} GiB"],
            ["temporaries", f"{memory.temp_size_in_bytes / GIB:.3f} GiB"],
        ]
    return rows


def batch_shapes(cfg: Config, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Returns the shapes of one step's batch."""
    sharding = parallel.batch_sharding(mesh)

    def shape(*size: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype, sharding=sharding)

    batch = {}
    for name, group in build.groups(cfg).items():
        data = cfg.datasets[name]
        pixels = (data.batch, *data.size)
        labels = {}
        for t in group:
            wide = t.kind in ("depth", "normals")
            extra = (3,) if t.kind == "normals" else ()
            labels[t.kind] = shape(*pixels, *extra, dtype=np.float32 if wide else np.uint8)
        batch[name] = {
            "image": shape(*pixels, 3, dtype=np.float32),
            "labels": labels,
            "masks": {t.kind: shape(*pixels, dtype=bool) for t in group},
            "valid": shape(data.batch, dtype=bool),
        }
    return batch
