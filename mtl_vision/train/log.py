"""What a run leaves to read: metrics.jsonl, TensorBoard, pictures, a line on the console."""

import json
import logging
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from mtl_vision import files

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file that is either whole or the old one."""
    with files.whole(path) as file:
        file.write_text(json.dumps(value, indent=2) + "\n")


def environment(root: pathlib.Path) -> dict[str, Any]:
    """Returns the versions of Python and the packages, and the commit of the code at `root`."""
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], stderr=subprocess.DEVNULL)
        status = subprocess.check_output([*git, "status", "--porcelain"], stderr=subprocess.DEVNULL)
        code = {"commit": commit.decode().strip(), "clean": not status.strip()}
    except (OSError, subprocess.CalledProcessError):
        code = {"commit": "unknown", "clean": False}
    return {"python": sys.version.split()[0], **{p: version(p) for p in PACKAGES}, **code}


def version(package: str) -> str:
    """Returns the version of an installed package, or ``absent``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


class Log:
    """Writers of one run; does nothing on hosts other than the first.

    Scalars go to ``metrics.jsonl`` (one object a line, always flushed) and TensorBoard, arrays to
    ``metrics.jsonl`` alone; pictures to TensorBoard and ``panels/<name>_<step>.png``.
    """

    def __init__(self, workdir: pathlib.Path, *, step: int, active: bool = True):
        """Opens the files for a run that goes on after `step`; later lines are dropped."""
        self.active, self.workdir = active, workdir
        if not active:
            return
        self.file = workdir / "metrics.jsonl"
        keep_until(self.file, step)
        self.board = board(workdir / "tensorboard", step)

    def scalars(self, step: int, values: Mapping[str, float | np.ndarray]) -> None:
        """Writes one line of numbers, and of small arrays as nested lists."""
        if not self.active:
            return
        line = {"step": step, **{k: np.asarray(v, float).tolist() for k, v in values.items()}}
        with self.file.open("a") as f:
            f.write(json.dumps(line) + "\n")
        numbers = {k: v for k, v in values.items() if np.ndim(v) == 0}
        for name, value in numbers.items() if self.board else ():
            self.board.add_scalar(name, float(value), step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Writes one ``[H, W, 3]`` uint8 picture."""
        if not self.active:
            return
        from PIL import Image

        folder = self.workdir / "panels"
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"{name}_{step:06d}.png")
        if self.board:
            self.board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes."""
        if self.active and self.board:
            self.board.close()


def board(folder: pathlib.Path, step: int) -> Any:
    """Returns TensorBoard's writer, or None and a warning where tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        logging.warning("tensorboardX is not installed: no TensorBoard files, only metrics.jsonl.")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def keep_until(file: pathlib.Path, step: int) -> None:
    """Drops the lines of `file` that were written after `step`, and a half-written last one."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    with files.whole(file) as new:
        new.write_text("".join(kept))


class Progress:
    """A live line: step, images/s, losses, time to go. One line a call where nobody watches."""

    def __init__(
        self, *, steps: int, start: int, images: int, stream: Any = None, active: bool = True
    ):
        """`images` are those of one step, `start` the step the run goes on from."""
        self.steps, self.images, self.active = steps, images, active
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.last_step, self.last_time = start, time.monotonic()

    def show(self, step: int, losses: Mapping[str, float]) -> float:
        """Prints the state after `step`; returns images per second since the last call."""
        now = time.monotonic()
        seconds = max(now - self.last_time, 1e-9)
        per_second = (step - self.last_step) / seconds
        self.last_step, self.last_time = step, now
        left = (self.steps - step) / per_second if per_second else float("inf")
        text = (
            f"step {step}/{self.steps}  {per_second * self.images:.1f} img/s  "
            f"eta {duration(left)}  " + "  ".join(f"{k} {v:.3g}" for k, v in losses.items())
        )
        if not self.active:
            return per_second * self.images
        end = "\r" if self.live and step < self.steps else "\n"
        self.stream.write(("\x1b[2K" if self.live else "") + text + end)
        self.stream.flush()
        return per_second * self.images


def duration(seconds: float) -> str:
    """Returns ``1h02m``, ``3m05s`` or ``12s``."""
    if not np.isfinite(seconds):
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{s:02d}s" if minutes else f"{s}s"


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Returns rows as aligned text; the first is the heading, columns in `right` end flush."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(rows[0]), "  ".join("-" * w for w in widths), *map(line, rows[1:])])
