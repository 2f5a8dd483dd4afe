"""Checkpoints of a run: asynchronous, whole or absent, checked leaf by leaf when read.

The folder holds ``steps/<step>``, each with the items ``model`` (trained parameters, their moving
average, statistics) and ``training`` (optimizer, step, key), and ``frozen``, the frozen
parameters, written once; `archive` says what such a folder is.
"""

import contextlib
import logging
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from mtl_vision import hosts, rules
from mtl_vision.errors import DataError, UserError
from mtl_vision.train import integrity
from mtl_vision.train.archive import Damage, Saved, check_same, describe, read, sealed
from mtl_vision.train.state import TrainState

ITEMS = {"model": ("trainable", "stats", "ema"), "training": ("step", "opt", "key")}
FROZEN = "frozen"


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


def best_step(folder: pathlib.Path) -> int | None:
    """Returns the step with the highest score, or None if no checkpoint has one."""
    scores = {}
    for step in steps(folder):
        with contextlib.suppress(Damage):
            if (score := describe(path_of(folder, step)).score) is not None:
                scores[step] = score
    return max(scores, key=scores.get) if scores else None


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
        check_same(path, saved.items.get(item, {}), wanted[item])
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
        check_same(path, saved.items.get(FROZEN, {}), mine)
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
        self.folder, self._writer, self._writing = folder.absolute(), None, None
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
          DataError: the folder holds another run's frozen parameters, or cannot be written.
        """
        step, score = int(state.step), score if score is not None and math.isfinite(score) else None
        with self._written():
            writer = self._opened(state)
        if any(step == saved.step for saved in writer.checkpoints):
            return
        leaves = {item: flat(state, fields) for item, fields in ITEMS.items()}
        leaves = {item: tree for item, tree in leaves.items() if tree}
        tables = {item: integrity.table(tree) for item, tree in leaves.items()}
        with self._written():
            self._writing = writer.save_checkpointables_async(
                step,
                leaves,
                force=True,
                metrics=None if score is None else {"score": score},
                custom_metadata=sealed(Saved(tables, score, self._frozen)),
            )

    def check(self) -> None:
        """Returns at once; raises DataError if the last save could not be written."""
        if self._writing is None:
            return
        with contextlib.suppress(TimeoutError), self._written():  # it is still being written
            self._writing.result(timeout=0)
            self._writing = None

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Turns what orbax raises where it cannot write into DataError."""
        try:
            yield
        except (UserError, TimeoutError):
            raise
        except Exception as e:
            if hosts.lost(e):
                raise
            reason = (str(e).splitlines() or [type(e).__name__])[0][:300]
            raise DataError(
                f"{self.folder} cannot be written: {reason}. The checkpoints there are whole. Mend "
                f"that and start the same command again."
            ) from e

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
            seal = sealed(Saved({FROZEN: table}, None, digest))
            ocp.save_checkpointables(path, {FROZEN: leaves}, custom_metadata=seal)
        elif leaves and describe(path).frozen != digest:
            raise DataError(f"{path} holds the frozen parameters of another run.")
        return digest

    def wait(self) -> None:
        """Returns when the last checkpoint is on the disk.

        Raises:
          DataError: it could not be written.
        """
        writing, self._writing = self._writing, None
        writer, self._writer = self._writer, None
        with self._written():
            try:
                if writing is not None:
                    writing.result()
            finally:
                if writer is not None:
                    writer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        # What ended the run is not hidden by what follows from it.
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
            self.wait()
