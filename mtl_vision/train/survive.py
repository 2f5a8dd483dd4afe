"""What a run does when it is asked to stop, and when its numbers are no numbers."""

import json
import os
import pathlib
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils

from mtl_vision import hosts
from mtl_vision.errors import DataError, RunError
from mtl_vision.train.log import write_json

ASKED = (signal.SIGTERM, signal.SIGUSR1)
ROLLBACKS = "rollbacks.json"
# Rollbacks to the same checkpoint, and skipped steps in a row, after which a run ends.
MOST_ROLLBACKS, MOST_SKIPPED = 3, 10


class NotFinite(RunError):
    """A loss, gradient or update that is not finite, at `step`."""

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


class Signals:
    """Turns SIGTERM and SIGUSR1 into a question that the loop asks.

    With several processes a signal to one is enough: JAX's runtime tells the others, and all get
    True at the same question. They must ask equally often.
    """

    def __init__(self) -> None:
        self._several, self._seen, self._questions = jax.process_count() > 1, False, 0
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        """Says whether the run is to save and end now."""
        if not self._several:
            return self._seen
        self._questions += 1
        return multihost_utils.reached_preemption_sync_point(self._questions)

    def _note(self, number: int, frame: object) -> None:
        if self._several:  # JAX listens to SIGTERM alone
            os.kill(os.getpid(), signal.SIGTERM)
        self._seen = True

    def __enter__(self) -> "Signals":
        for number in ASKED[1:] if self._several else ASKED:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def in_a_row(finite: list[bool], before: int) -> int:
    """Returns how many steps up to the last were not finite, `before` of them earlier ones.

    Raises:
      RunError: more than MOST_SKIPPED.
    """
    for one in finite:
        before = 0 if one else before + 1
        if before > MOST_SKIPPED:
            raise RunError(
                f"{before} steps in a row are not finite and were skipped. Lower config.optim.lr, "
                f"set config.optim.clip_norm, or look at the data."
            )
    return before


def next_batch(workdir: pathlib.Path, step: int) -> int:
    """Returns the number of the batch that comes after `step`, which rollbacks have moved on.

    Raises:
      DataError: their file cannot be read.
    """
    at = step
    for back in _rollbacks(workdir):
        if back["step"] <= step:
            at = back["batch"] + step - back["step"]
    return at


def note_rollback(workdir: pathlib.Path, to: int, batch: int, reason: NotFinite) -> None:
    """Writes down that the run goes on from step `to` with batch number `batch`.

    Raises:
      RunError: it went back there too often.
    """
    before = _rollbacks(workdir)
    if sum(back["step"] == to for back in before) >= MOST_ROLLBACKS:
        raise RunError(f"{reason} The run went back to step {to} {MOST_ROLLBACKS} times already.")
    hosts.barrier("rollbacks read")
    if hosts.first():
        back = {"step": to, "batch": batch, "reason": str(reason)}
        write_json(workdir / ROLLBACKS, [*before, back])
    hosts.barrier("rollback noted")


def _rollbacks(workdir: pathlib.Path) -> list[dict[str, Any]]:
    file = workdir / ROLLBACKS
    try:
        return json.loads(file.read_text()) if file.exists() else []
    except (OSError, json.JSONDecodeError) as e:
        raise DataError(f"{file} cannot be read: {e}. Restore it, or use a new folder.") from e
