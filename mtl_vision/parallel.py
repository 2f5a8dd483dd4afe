"""Where arrays live: the mesh, path rules for parameters, the batch over the devices.

Axes: `data` cuts the batch; `fsdp` cuts the batch and the parameters (arXiv 1910.02054, stage 3:
XLA gathers a parameter where it is used); `tensor` cuts the inner width of attention and MLP
(arXiv 1909.08053), and the axes of experts and tasks. Model code names no device; the compiler
inserts the communication. `placements` says what is cut how.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mtl_vision import rules
from mtl_vision.errors import ConfigError
from mtl_vision.placements import DEFAULT, Specs

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))


def make_mesh(
    *, data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """Returns the mesh with the axes `data`, `fsdp` and `tensor`.

    Args:
      data, fsdp, tensor: devices along each axis; one may be -1 and takes what is left.
      devices: the devices of all hosts by default. Where they say that they are of several
        slices, `data` is the axis that crosses from one to the next, or `fsdp` if it cannot.

    Raises:
      ConfigError: the product is not the number of devices, or a host has only a part of `tensor`.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    open_axes = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ConfigError(f"config.mesh={sizes}: use positive sizes; one of them may be -1.")
    if open_axes:
        sizes[open_axes[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        raise ConfigError(
            f"config.mesh={dict(zip(AXES, (data, fsdp, tensor), strict=True))} does not use "
            f"{len(devices)} devices; the sizes must multiply to that number."
        )
    made = _arranged(tuple(sizes[name] for name in AXES), devices)
    hosts = np.vectorize(lambda device: device.process_index)(made.devices)
    if (hosts != hosts[:, :, :1]).any():
        raise ConfigError(
            f"config.mesh: tensor={sizes['tensor']} does not lie within one host; use a divisor of "
            f"the number of devices that a host has."
        )
    return made


def _arranged(shape: tuple[int, ...], devices: Sequence[Any]) -> Mesh:
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    outer = next((i for i in (0, 1) if shape[i] % slices == 0), None)
    auto = (AxisType.Auto,) * len(AXES)
    if slices == 1 or outer is None:
        return jax.make_mesh(shape, AXES, axis_types=auto, devices=devices)
    across = tuple(slices if i == outer else 1 for i in range(len(shape)))
    within = tuple(size // cut for size, cut in zip(shape, across, strict=True))
    grid = mesh_utils.create_hybrid_device_mesh(within, across, devices)
    return Mesh(grid, AXES, axis_types=auto)


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """Returns what to give `jax.jit` as `compiler_options` for programs on this mesh.

    On CPUs, jaxlib 0.10 fuses reductions and products with a library that reads an operand
    broadcast over a leading axis wrongly: ``c - y[None] * (y[None] * c).sum(-1, keepdims=True)``
    is right in its first row only. Per-task gradients are made of that, so these fusions are off.
    Without fusions it is right, but blocks of Swin and ViT take as long as without the library.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return {"xla_cpu_experimental_ynn_fusion_type": ""} if on_cpu else {}


def describe(mesh: Mesh) -> str:
    """Returns ``data=4, fsdp=2, tensor=1``."""
    return ", ".join(f"{name}={size}" for name, size in mesh.shape.items())


def shown(spec: P) -> str:
    """Returns a spec in short: ``-, fsdp, tensor``; ``whole`` for one that cuts nothing."""
    return ", ".join(str(names or "-") for names in spec) or "whole"


def ways(mesh: Mesh, names: str | Sequence[str] | None) -> int:
    """Returns the number of pieces that the mesh axes `names` cut a dimension into."""
    names = (names,) if isinstance(names, str) else names or ()
    return math.prod(mesh.shape[name] for name in names)


def fit(mesh: Mesh, specs: Specs, path: str, shape: Sequence[int]) -> P:
    """Returns the first of `specs` that divides `shape`.

    Raises:
      ConfigError: none does.
    """
    options = [specs] if isinstance(specs, P) else specs
    for spec in options:
        if len(spec) <= len(shape) and all(
            size % ways(mesh, names) == 0 for size, names in zip(shape, spec, strict=False)
        ):
            return spec
    listed = ", ".join(map(str, options))
    raise ConfigError(
        f"{path} {tuple(shape)} cannot be cut by {listed} on the mesh {describe(mesh)}. Change "
        f"config.mesh, or end the rule's list with P() to replicate it."
    )


def shardings(mesh: Mesh, table: rules.Rules[Specs], params: Any) -> Any:
    """Returns the sharding of every parameter, as a tree like `params`.

    Args:
      mesh: see `make_mesh`.
      table: (path regex, spec or specs in order of preference) rules; `DEFAULT` is put behind.
      params: arrays or their shapes, all parameters of the model, frozen ones too.

    Raises:
      ConfigError: a rule that decides no parameter, or a parameter that no spec of its rule
        divides.
    """
    resolved = rules.resolve((*table, *DEFAULT), rules.flatten(params), "mesh.rules")
    return rules.map_with_path(
        lambda path, x: NamedSharding(mesh, fit(mesh, resolved[path], path, x.shape)), params
    )


def derived(mesh: Mesh, params: Mapping[str, tuple[tuple[int, ...], P]], tree: Any) -> Any:
    """Shards what belongs to parameters, such as optimizer moments, like the parameters.

    A leaf whose path ends in a parameter's path gets that parameter's spec; a leading axis more
    than the parameter has is not cut. All other leaves are replicated.

    Args:
      mesh: see `make_mesh`.
      params: ``{path: (shape, spec)}``.
      tree: arrays or their shapes.
    """

    def place(path: str, leaf: Any) -> NamedSharding:
        spec = P()
        keys = path.split("/")
        owners = ("/".join(keys[i:]) for i in range(len(keys)))
        owner = next((o for o in owners if o in params), None)
        if owner is not None:
            shape, own = params[owner]
            if leaf.shape == shape:
                spec = own
            elif leaf.shape[1:] == shape:
                spec = P(None, *own)
        return NamedSharding(mesh, spec)

    return rules.map_with_path(place, tree)


def replicated(mesh: Mesh, tree: Any) -> Any:
    """Returns a tree like `tree` that replicates every leaf."""
    return jax.tree.map(lambda _: NamedSharding(mesh, P()), tree)


def place(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    """Returns a copy of `x` at `sharding`, of a typed key too: `device_put` keeps one to a host."""
    return jax.jit(jnp.copy, out_shardings=sharding)(x)


def gathered(tree: Any, places: Any) -> Any:
    """Returns the arrays of a tree with nothing of them cut along `fsdp`, inside a jitted function.

    Where a product is cut along `fsdp` in both factors, XLA may as well keep the parameter where it
    is, and then every device computes for the batches of others.
    """

    def whole(place: NamedSharding) -> NamedSharding:
        return NamedSharding(place.mesh, P(*(None if n == "fsdp" else n for n in place.spec)))

    return jax.lax.with_sharding_constraint(tree, jax.tree.map(whole, places))


def put(tree: Any, places: Any) -> Any:
    """Copies arrays that every process has whole to where they live; nothing is sent.

    `device_put` compares them first, for which every process gets all of them from all others.
    """

    def one(x: jax.Array, place: NamedSharding) -> jax.Array:
        if place.is_fully_addressable:
            return jax.device_put(x, place, may_alias=False)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, place, lambda index: x[index].copy())

    return jax.tree.map(one, tree, places)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every array of a batch: axis 0 over `data` and `fsdp`."""
    return NamedSharding(mesh, BATCH)


def check_batches(mesh: Mesh, batches: Mapping[str, int], *, accumulate: int = 1) -> None:
    """Checks that every dataset's batch divides over the devices and micro-batches.

    Args:
      mesh: see `make_mesh`.
      batches: global batch size by dataset.
      accumulate: micro-batches in one step.

    Raises:
      ConfigError: one does not.
    """
    unit = ways(mesh, ("data", "fsdp")) * accumulate
    for dataset, batch in batches.items():
        if batch < 1 or batch % unit:
            parts = f" in {accumulate} micro-batches" if accumulate > 1 else ""
            raise ConfigError(
                f"the batch of {dataset} is {batch}, which does not divide over the mesh "
                f"{describe(mesh)}{parts}; use a multiple of {unit}."
            )


def to_global(batch: Any, mesh: Mesh) -> Any:
    """Puts a host's rows of a batch on its devices.

    Args:
      batch: tree of numpy arrays ``[B / hosts, ...]``, this host's block of the global batch.
      mesh: see `make_mesh`.

    Returns: the tree of global arrays ``[B, ...]``.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def local_rows(x: jax.Array) -> np.ndarray:
    """Returns this host's rows of a global array ``[B, ...]`` cut like a batch, in order."""
    blocks = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(blocks[start]) for start in sorted(blocks)])


class Row(NamedTuple):
    """One parameter in the printed table."""

    path: str
    shape: tuple[int, ...]
    spec: P
    bytes_per_device: int


def sharding_table(params: Any, placed: Any) -> list[Row]:
    """Lists where every parameter lives.

    Args:
      params: arrays or their shapes.
      placed: the tree that `shardings` returned for them.
    """
    found = rules.flatten(placed)
    rows = []
    for path, leaf in rules.flatten(params).items():
        piece = math.prod(found[path].shard_shape(leaf.shape)) * leaf.dtype.itemsize
        rows.append(Row(path, tuple(leaf.shape), found[path].spec, piece))
    return rows
