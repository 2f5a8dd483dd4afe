"""Synthetic scenes as sources: rendered when asked for, or once into memory.

Worker processes import this module and what it imports, which is numpy and OpenCV only.
"""

import contextlib
import os
import pathlib
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtl_vision.data import records
from mtl_vision.data.synthetic import scenes
from mtl_vision.errors import DataError

Packed = dict[str, Any]


@dataclass(frozen=True)
class SceneSource:
    """Scenes of one split, rendered on access.

    Attributes:
      domain: ``synth_pascal`` or ``synth_nyud``.
      split: ``train``, ``val`` or ``test``.
      count: number of scenes.
      size: (H, W).
      kinds: labels wanted.
      seed: another seed is another dataset.
    """

    domain: str
    split: str
    count: int
    size: tuple[int, int]
    kinds: tuple[str, ...]
    seed: int = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        return records.unpack_example(self.packed(index), self.kinds)

    def packed(self, index: int) -> dict:
        """The example as it is stored, see `records.pack`."""
        if not 0 <= index < self.count:
            raise IndexError(f"{self.domain}/{self.split} has {self.count} scenes, not {index}.")
        seed = scenes.seed_of(self.domain, self.split, self.seed)
        return scenes.render_packed(self.domain, seed, index, self.size, self.kinds)

    def __iter__(self) -> Iterator[dict]:
        return (self[i] for i in range(self.count))


@dataclass(frozen=True)
class MemorySource:
    """Examples held in memory, labels packed as `records.pack` does."""

    ids: Sequence[str]
    arrays: Packed  # ``image`` and kinds: [count, H, W, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        example = {k: v[index] for k, v in self.arrays.items()} | {"id": self.ids[index]}
        return records.unpack_example(example, [k for k in self.arrays if k != "image"])


def render_all(
    source: SceneSource, *, encode: bool = False, processes: int | None = None, quiet: bool = False
) -> Iterator[Packed]:
    """Renders all scenes in order, on all cores, holding only a few at a time.

    Args:
      source: what to render.
      encode: give PNG files, not arrays; see `records.encode`.
      processes: number of workers; 0 renders in this process, None takes one per core.
      quiet: no progress bar.
    """
    from tqdm import tqdm

    count = len(source)
    if processes is None:
        processes = min(os.cpu_count() or 1, count // 16)
    label = f"{source.domain} {source.split}"
    with tqdm(total=count, desc=label, unit="image", disable=quiet or count == 0) as bar:
        if processes > 1:
            items = _parallel(source, encode, processes)
        else:
            items = (rendered(source, i, encode) for i in range(count))
        for item in items:
            bar.update()
            yield item


def rendered(source: SceneSource, index: int, encode: bool) -> Packed:
    """One scene, as arrays or as PNG files."""
    return records.encode(source.packed(index)) if encode else source.packed(index)


def _parallel(source: SceneSource, encode: bool, processes: int) -> Iterator[Packed]:
    """Takes turns with the workers, so that scenes arrive in order; a full pipe makes them wait."""
    with contextlib.ExitStack() as stack:
        workers = [_start((source, encode, i, processes), stack) for i in range(processes)]
        for i in range(len(source)):
            item = workers[i % processes].get()
            if item is None:
                raise DataError(f"a process that rendered {source.domain} ended before scene {i}.")
            yield item


def _start(task: tuple, stack: contextlib.ExitStack) -> queue.Queue:
    """Starts a worker and a thread that reads a few scenes ahead."""
    command = [sys.executable, "-m", "mtl_vision.data.synthetic.worker"]
    root = str(pathlib.Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
    with process.stdin as stdin:
        pickle.dump(task, stdin)
    ready: queue.Queue = queue.Queue(maxsize=4)

    def read() -> None:
        with process.stdout as stdout, contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:
                ready.put(pickle.load(stdout))
        ready.put(None)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()

    def end() -> None:
        process.kill()
        while thread.is_alive():  # it may wait for room
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.01)
        process.wait()

    stack.callback(end)
    return ready


def in_memory(
    domain: str,
    split: str,
    count: int,
    size: tuple[int, int],
    kinds: tuple[str, ...],
    *,
    seed: int = 0,
    processes: int | None = None,
    quiet: bool = False,
) -> MemorySource:
    """The scenes of `SceneSource`, rendered once; takes about 12 bytes a pixel.

    Args are those of `SceneSource` and of `render_all`.
    """
    source = SceneSource(domain, split, count, tuple(size), tuple(kinds), seed)
    ids, arrays = [], {}
    for index, item in enumerate(render_all(source, processes=processes, quiet=quiet)):
        ids.append(item.pop("id"))
        for key, value in item.items():
            if index == 0:
                arrays[key] = np.empty((count, *value.shape), value.dtype)
            arrays[key][index] = value
    return MemorySource(tuple(ids), arrays)
