"""Parameters and statistics of one run as the start of another."""

import dataclasses
import logging
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_vision.errors import DataError
from mtl_vision.train import archive, checkpoint
from mtl_vision.train.archive import Damage
from mtl_vision.train.checkpoint import FROZEN
from mtl_vision.train.integrity import Table
from mtl_vision.train.state import TrainState

WRAPS = ("linear", "block")  # attributes under which adapters keep what they wrap


class Unmatched(NamedTuple):
    """Paths of the model that nothing was loaded for, and saved paths that were not used."""

    missing: list[str]
    unused: list[str]


class Source(NamedTuple):
    """A leaf in a checkpoint: the folder and item it is in, its name there."""

    folder: pathlib.Path
    item: str
    name: str


def init_from(
    folder: pathlib.Path, state: TrainState, *, skip: Sequence[str] = ()
) -> tuple[TrainState, Unmatched]:
    """Takes over what another run's newest whole checkpoint has under the same paths.

    The other run may have other tasks and may train other parameters; where it keeps a moving
    average, that is taken. Step, key and optimizer of `state` stay. A layer that adapters wrap here
    and not there takes what the bare layer has there.

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
    """``qkv/linear/kernel`` -> ``qkv/kernel``: the path before adapters wrapped the layer."""
    return "/".join(key for key in path.split("/") if key not in WRAPS)


def _take(
    folder: pathlib.Path, step: int, state: TrainState, skip: Sequence[str]
) -> tuple[TrainState, Unmatched]:
    origin, tables = _sources(folder, step)
    mine = checkpoint.flat(state, ("trainable", FROZEN, "stats"))
    kept = [p for p in mine if any(re.fullmatch(pattern, bare(p)) for pattern in skip)]
    names = {p: next((n for n in (bare(p), unwrapped(bare(p))) if n in origin), "") for p in mine}
    taken = {p: origin[name] for p, name in names.items() if name and p not in kept}
    _check(folder, mine, taken, tables)
    state = checkpoint.filled(state, _read(mine, taken, tables))
    if state.ema:
        state = dataclasses.replace(state, ema=jax.tree.map(jnp.copy, state.trainable))
    used = {names[p] for p in taken}
    missing = [bare(p) for p in mine if p not in taken]
    return state, Unmatched(missing, [p for p in origin if p not in used])


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
    shapes = {p: tables[source[:2]][source.name].shape for p, source in taken.items()}
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
        here = {p: source.name for p, source in taken.items() if source[:2] == place}
        wanted = {
            name: jax.ShapeDtypeStruct(
                mine[p].shape, jnp.dtype(table[name].dtype), sharding=mine[p].sharding
            )
            for p, name in here.items()
        }
        leaves = archive.read(*place, wanted, table)
        found |= {p: leaves[name].astype(mine[p].dtype) for p, name in here.items()}
    return found
