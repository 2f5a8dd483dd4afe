"""Checkpoints of a run: asynchronous, whole or absent, checked leaf by leaf when read.

The folder holds ``steps/<step>``, each with the items ``model`` (trained parameters, their moving
average, statistics) and ``training`` (optimizer, step, key), and ``frozen``, the frozen
parameters, written once. orbax writes into a temporary folder and renames it at the end; because
it loads a flipped byte without a word, the checksums of all leaves lie beside the arrays.
"""

import contextlib
import json
import logging
import math
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from mtl_vision import parallel, rules
from mtl_vision.errors import DataError
from mtl_vision.train import integrity
from mtl_vision.train.integrity import Leaf, Table
from mtl_vision.train.state import TrainState

ITEMS = {"model": ("trainable", "stats", "ema"), "training": ("step", "opt", "key")}
FROZEN = "frozen"


class Damage(DataError):
    """A checkpoint that cannot be read, or whose content is not what was saved."""


class Saved(NamedTuple):
    """What a folder of arrays says about itself.

    Attributes:
      items: ``{item: table of its leaves}``.
      score: the metric that ranks checkpoints, or None.
      frozen: digest of the frozen parameters that the checkpoint belongs to.
    """

    items: dict[str, Table]
    score: float | None
    frozen: int


def flat(state: TrainState, fields: Sequence[str]) -> dict[str, Any]:
    """Returns ``{path: leaf}`` of some fields, without empty arrays, which orbax does not take."""
    leaves = rules.flatten({name: getattr(state, name) for name in fields})
    return {path: x for path, x in leaves.items() if x.size}


def filled(state: TrainState, leaves: Mapping[str, jax.Array]) -> TrainState:
    """Returns `state` with `leaves` in their places."""
    return rules.map_with_path(lambda path, old: leaves.get(path, old), state)


def steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of all finished checkpoints in `folder`, ascending."""
    return sorted(int(f.name) for f in (folder / "steps").glob("*") if f.name.isdigit())


def path_of(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Returns where the checkpoint of a step lies."""
    return folder / "steps" / str(step)


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    """Turns what orbax raises on broken files, which is many things, into Damage."""
    try:
        yield
    except Damage:
        raise
    except Exception as e:
        reason = (str(e).splitlines() or [""])[0][:200]
        raise Damage(f"{path} cannot be read ({type(e).__name__}: {reason})") from e


def _sealed(saved: Saved) -> dict[str, Any]:
    """JSON content with a CRC of itself."""
    content = json.loads(json.dumps(saved._asdict()))
    return content | {"crc": zlib.crc32(json.dumps(content, sort_keys=True).encode())}


def describe(path: pathlib.Path) -> Saved:
    """Reads what a folder of arrays says about itself.

    Raises:
      Damage: it cannot be read, or is not as it was written.
    """
    with _reading(path):
        content = dict(ocp.checkpointables_metadata(path).custom_metadata)
        crc = content.pop("crc")
        if zlib.crc32(json.dumps(content, sort_keys=True).encode()) != crc:
            raise Damage(f"the description of {path} is not what was saved")
        items = {
            item: {p: Leaf(tuple(shape), *rest) for p, (shape, *rest) in leaves.items()}
            for item, leaves in content["items"].items()
        }
        return Saved(items, content["score"], content["frozen"])


def best_step(folder: pathlib.Path) -> int | None:
    """Returns the step with the highest score, or None if no checkpoint has one."""
    scores = {}
    for step in steps(folder):
        with contextlib.suppress(Damage):
            if (score := describe(path_of(folder, step)).score) is not None:
                scores[step] = score
    return max(scores, key=scores.get) if scores else None


def _read_together(
    path: pathlib.Path, item: str, wanted: Mapping[str, Any]
) -> tuple[dict[str, jax.Array], Damage | None]:
    """Reads leaves; if one host cannot, all get Damage, lest they wait for each other later."""
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    found, broken = {}, None
    try:
        with _reading(path), context:
            found = ocp.load_checkpointables(path, {item: integrity.shapes(wanted)})[item]
    except Damage as e:
        broken = e
    if not multihost_utils.process_allgather(np.array(broken is None)).all():
        broken = broken or Damage(f"{path} cannot be read by another host")
    return found, broken


def read(
    path: pathlib.Path, item: str, wanted: Mapping[str, Any], saved: Table
) -> dict[str, jax.Array]:
    """Reads leaves of an item and checks them.

    Args:
      path: a folder of arrays.
      item: one of its items.
      wanted: ``{path of a leaf: array or shape with the sharding to read it to}``; it may ask for
        some leaves only.
      saved: the item's table.

    Raises:
      Damage: they cannot be read, or a checksum differs.
    """
    if not wanted:
        return {}
    found, broken = _read_together(path, item, wanted)
    if broken:
        raise broken
    bad = integrity.damaged(integrity.table(found), saved)
    if bad:
        raise Damage(f"{len(bad)} arrays of {path} are not what was saved, first {bad[0]}")
    # orbax gives keys a sharding of its own spelling.
    places = {p: wanted[p].sharding for p in found}
    return {
        p: x if x.sharding == places[p] else parallel.place(x, places[p]) for p, x in found.items()
    }


def _check_same(path: pathlib.Path, saved: Table, wanted: Mapping[str, Any]) -> None:
    lines = integrity.differences(saved, integrity.table(integrity.shapes(wanted)))
    if lines:
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise DataError(
            f"checkpoint {path} is of another model: {'; '.join(lines[:5])}{more}. Use the config "
            f"it was made with, or config.init_from to take over what fits."
        )


def load(
    folder: pathlib.Path, like: TrainState, step: int, *, items: Sequence[str] = tuple(ITEMS)
) -> TrainState:
    """Reads one checkpoint.

    Args:
      folder: of all checkpoints of the run.
      like: a state of the same model, of arrays or shapes; its mesh may be another.
      step: one of `steps`.
      items: what to read; ``("model",)`` leaves optimizer, step and key as they are in `like`.

    Raises:
      DataError: the checkpoint is of another model, or the frozen parameters are damaged.
      Damage: it cannot be read, or a leaf is not what was saved.
    """
    path = path_of(folder, step)
    saved = describe(path)
    wanted = {item: flat(like, ITEMS[item]) for item in items}
    for item in items:
        _check_same(path, saved.items.get(item, {}), wanted[item])
    leaves = _load_frozen(folder, like, saved.frozen)
    for item in items:
        leaves |= read(path, item, wanted[item], saved.items.get(item, {}))
    return filled(like, leaves)


def _load_frozen(folder: pathlib.Path, like: TrainState, digest: int) -> dict[str, jax.Array]:
    """The run's frozen parameters; nothing where `like` has the same ones."""
    mine = flat(like, (FROZEN,))
    if integrity.digest(integrity.table(mine)) == digest:
        return {}
    path = folder / FROZEN
    try:
        saved = describe(path)
        _check_same(path, saved.items.get(FROZEN, {}), mine)
        if saved.frozen != digest:
            raise Damage(f"{path} belongs to other checkpoints")
        return read(path, FROZEN, mine, saved.items[FROZEN])
    except Damage as e:
        raise DataError(
            f"{e}. It holds the frozen parameters of all checkpoints beside it: copy it from a "
            f"backup, or start a new run."
        ) from e


def load_latest(
    folder: pathlib.Path, like: TrainState, *, items: Sequence[str] = tuple(ITEMS)
) -> tuple[TrainState, dict[int, str]] | None:
    """Reads the newest whole checkpoint, passing over damaged ones with a warning.

    Args:
      folder, like, items: as for `load`.

    Returns: the state, and what is wrong with the ones passed over by step; None if there are no
      checkpoints.

    Raises:
      DataError: as for `load`, or all checkpoints are damaged.
    """
    passed = {}
    for step in reversed(steps(folder)):
        try:
            return load(folder, like, step, items=items), passed
        except Damage as e:
            logging.warning("Checkpoint %d is damaged and passed over: %s.", step, e)
            passed[step] = str(e)
    if not passed:
        return None
    step, reason = next(iter(passed.items()))
    raise DataError(f"all {len(passed)} checkpoints in {folder} are damaged; {step}: {reason}.")


class Checkpoints:
    """Writes the checkpoints of one run, and starts it from the newest.

    On several hosts all call every method; arrays must be global.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int = 2, keep_best: int = 1):
        """Writes into `folder`, keeping the newest and those with the highest scores."""
        self.folder, self._writer = folder.absolute(), None
        keeping = ocp.training.preservation_policies
        best = keeping.BestN(
            get_metric_fn=lambda metrics: metrics["score"],
            n=keep_best,
            keep_checkpoints_without_metrics=False,
        )
        self._keep = keeping.AnyPreservationPolicy([keeping.LatestN(keep), best])

    def restore(self, state: TrainState) -> TrainState:
        """Returns the newest whole checkpoint, or `state` if there is none.

        Damaged checkpoints after it are renamed to ``<step>.damaged``, for the run will write
        these steps again.

        Raises:
          DataError: as for `load_latest`.
        """
        found = load_latest(self.folder, state)
        if found is None:
            return state
        restored, passed = found
        if jax.process_index() == 0:
            for step in passed:
                path = path_of(self.folder, step)
                taken = len(list(path.parent.glob(f"{step}.damaged*")))
                path.rename(path.with_name(f"{step}.damaged" + (f".{taken}" if taken else "")))
        multihost_utils.sync_global_devices("checkpoints: damaged ones renamed")
        return restored

    def save(self, state: TrainState, *, score: float | None = None) -> None:
        """Starts writing a checkpoint and returns; waits for the one before it.

        The state may be given to the next step right away. A step that is there already is left.

        Args:
          state: to save, under its step.
          score: what the best checkpoint has most of; None or NaN is never the best.

        Raises:
          DataError: the folder holds another run's frozen parameters.
        """
        step, score = int(state.step), score if score is not None and math.isfinite(score) else None
        writer = self._opened(state)
        if any(step == saved.step for saved in writer.checkpoints):
            return
        leaves = {item: flat(state, fields) for item, fields in ITEMS.items()}
        leaves = {item: tree for item, tree in leaves.items() if tree}
        tables = {item: integrity.table(tree) for item, tree in leaves.items()}
        writer.save_checkpointables_async(
            step,
            leaves,
            force=True,
            metrics=None if score is None else {"score": score},
            custom_metadata=_sealed(Saved(tables, score, self._frozen)),
        )

    def _opened(self, state: TrainState) -> ocp.training.Checkpointer:
        """The writer; the frozen parameters are written when it opens."""
        if self._writer is None:
            self._frozen = self._write_frozen(flat(state, (FROZEN,)))
            self._writer = ocp.training.Checkpointer(
                self.folder / "steps", preservation_policy=self._keep, cleanup_tmp_directories=True
            )
        return self._writer

    def _write_frozen(self, leaves: dict[str, jax.Array]) -> int:
        table, path = integrity.table(leaves), self.folder / FROZEN
        digest = integrity.digest(table)
        if leaves and not path.exists():
            seal = _sealed(Saved({FROZEN: table}, None, digest))
            ocp.save_checkpointables(path, {FROZEN: leaves}, custom_metadata=seal)
        elif leaves and describe(path).frozen != digest:
            raise DataError(f"{path} holds the frozen parameters of another run.")
        return digest

    def wait(self) -> None:
        """Returns when the last checkpoint is on the disk."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.wait()
