"""Parameters and statistics of one run as the start of another."""

import dataclasses
import logging
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from mtl_vision.errors import DataError
from mtl_vision.train import archive, checkpoint
from mtl_vision.train.archive import Damage
from mtl_vision.train.checkpoint import FROZEN
from mtl_vision.train.integrity import Table
from mtl_vision.train.state import TrainState

# Attributes under which adapters keep what they wrap; else they repeat its name.
WRAPS = ("linear", "block")
TAIL = re.compile(r"/tails/(\d+)/")  # a block that `ViT.detach` took out of its stack


class Unmatched(NamedTuple):
    """Paths of the model that nothing was loaded for, and saved paths that were not used."""

    missing: list[str]
    unused: list[str]


class Source(NamedTuple):
    """A leaf in a checkpoint: the folder and item it is in, its name there, which part of it."""

    folder: pathlib.Path
    item: str
    name: str
    part: slice | int = slice(None)

    def shape(self, tables: Mapping) -> tuple[int, ...]:
        """Returns the shape of the part."""
        whole = tables[self.folder, self.item][self.name].shape
        if isinstance(self.part, int):
            return whole[1:]
        return whole if self.part == slice(None) else (whole[0] - 1, *whole[1:])


def init_from(
    folder: pathlib.Path, state: TrainState, *, skip: Sequence[str] = ()
) -> tuple[TrainState, Unmatched]:
    """Takes over what another run's newest whole checkpoint has under the same paths.

    The other run may have other tasks and may train other parameters; where it keeps a moving
    average, that is taken. Step, key and optimizer of `state` stay. A layer that adapters wrap here
    and not there takes what the bare layer has there; the last of stacked blocks, which adapters
    may set apart, takes its part of the stack.

    Args:
      folder: of the other run's checkpoints.
      state: at its start.
      skip: regexes of paths of the model to leave as they are.

    Raises:
      DataError: there is no whole checkpoint, nothing of it fits, or an array has another shape.
    """
    for step in reversed(checkpoint.steps(folder)):
        try:
            return _take(folder, step, state, skip)
        except Damage as e:
            logging.warning("Checkpoint %d is damaged and passed over: %s.", step, e)
    raise DataError(f"{folder} holds no whole checkpoint to start from.")


def bare(path: str) -> str:
    """``trainable/a/b``, ``frozen/a/b``, ``ema/a/b`` -> ``a/b``; statistics keep their group."""
    group, _, rest = path.partition("/")
    return path if group == "stats" else rest


def unwrapped(path: str) -> str:
    """Returns the path before adapters wrapped the layer.

    ``qkv/linear/kernel`` -> ``qkv/kernel``, ``attn/attn/proj/bias`` -> ``attn/proj/bias``.
    """
    keys = [key for key in path.split("/") if key not in WRAPS]
    return "/".join(key for key, before in zip(keys, ["", *keys], strict=False) if key != before)


def _take(
    folder: pathlib.Path, step: int, state: TrainState, skip: Sequence[str]
) -> tuple[TrainState, Unmatched]:
    origin, tables = _sources(folder, step)
    mine = checkpoint.flat(state, ("trainable", FROZEN, "stats"))
    kept = [p for p in mine if any(re.fullmatch(pattern, bare(p)) for pattern in skip)]
    stacked = not any(map(TAIL.search, origin))
    apart = {_stack_of(p) for p in mine if stacked and TAIL.search(p)}
    found = {p: _source_of(p, origin, apart) for p in mine if p not in kept}
    taken = {p: source for p, source in found.items() if source}
    _check(folder, mine, taken, tables)
    state = checkpoint.filled(state, _read(mine, taken, tables))
    if state.ema:
        state = dataclasses.replace(state, ema=jax.tree.map(jnp.copy, state.trainable))
    used = {source[:3] for source in taken.values()}
    missing = [bare(p) for p in mine if p not in taken]
    return state, Unmatched(missing, [p for p, source in origin.items() if source[:3] not in used])


def _stack_of(path: str) -> str:
    """``trainable/backbone/tails/1/x`` -> ``backbone/segments/1/``."""
    found = TAIL.search(path)
    return bare(path[: found.start()]) + f"/segments/{found[1]}/"


def _source_of(path: str, origin: Mapping[str, Source], apart: Collection[str]) -> Source | None:
    """Returns where the leaf at `path` is; `apart` are the stacks whose last block is a tail."""
    name, part = bare(path), slice(None)
    if apart and TAIL.search(name):
        name, part = TAIL.sub(r"/segments/\1/", name), -1
    elif any(name.startswith(stack) for stack in apart):
        part = slice(None, -1)
    found = next((origin[n] for n in (name, unwrapped(name)) if n in origin), None)
    return found and found._replace(part=part)


def _sources(
    folder: pathlib.Path, step: int
) -> tuple[dict[str, Source], dict[tuple[pathlib.Path, str], Table]]:
    """Where every parameter and statistic of a checkpoint is, and the tables of those places."""
    path, frozen = checkpoint.path_of(folder, step), folder / FROZEN
    model = archive.describe(path).items["model"]
    tables, origin = {(path, "model"): model}, {}
    if frozen.exists():
        tables[frozen, FROZEN] = archive.describe(frozen).items[FROZEN]
        origin = {bare(name): Source(frozen, FROZEN, name) for name in tables[frozen, FROZEN]}
    for group in ("trainable", "stats", "ema"):  # the average replaces what it averages
        names = [name for name in model if name.startswith(f"{group}/")]
        origin |= {bare(name): Source(path, "model", name) for name in names}
    return origin, tables


def _check(
    folder: pathlib.Path, mine: Mapping[str, Any], taken: Mapping[str, Source], tables: Mapping
) -> None:
    if not taken:
        raise DataError(f"{folder} and this model have no path in common.")
    shapes = {p: source.shape(tables) for p, source in taken.items()}
    wrong = [p for p, shape in shapes.items() if shape != mine[p].shape]
    if wrong:
        raise DataError(
            f"{folder}: {len(wrong)} arrays do not fit, first {bare(wrong[0])}, which is "
            f"{shapes[wrong[0]]} there and {mine[wrong[0]].shape} here. List paths to start anew "
            f"in config.init_skip."
        )


def _read(
    mine: Mapping[str, jax.Array], taken: Mapping[str, Source], tables: Mapping
) -> dict[str, jax.Array]:
    """Returns ``{path here: array}``, in the dtypes and shardings here."""
    found = {}
    for place, table in tables.items():
        here = {p: source for p, source in taken.items() if source[:2] == place}
        wanted = {
            source.name: jax.ShapeDtypeStruct(
                table[source.name].shape,
                jnp.dtype(table[source.name].dtype),
                sharding=_placed(mine[p].sharding, source),
            )
            for p, source in here.items()
        }
        leaves = archive.read(*place, wanted, table)
        for p, source in here.items():
            leaf = leaves[source.name].astype(mine[p].dtype)
            if source.part != slice(None):
                leaf = jax.device_put(leaf[source.part], mine[p].sharding)
            found[p] = leaf
    return found


def _placed(sharding: NamedSharding, source: Source) -> NamedSharding:
    """Returns where a leaf is read to: whole on every device if a part is taken of it."""
    return sharding if source.part == slice(None) else NamedSharding(sharding.mesh, PartitionSpec())
