"""Predictions as files, in the folders that the published evaluation tools read.

``<folder>/<dataset>/<kind>/<id>.png``, at the size of the image: SEISM's scripts take
``<folder>/<dataset>`` as their path, as those of ASTMT and its successors do.

| kind | file |
|---|---|
| semseg, human_parts | 8 bit, the class |
| edge, sal | 8 bit, 255 times the probability |
| normals | 8 bit RGB, ``(n + 1) * 127.5`` |
| depth | ``.mat`` with a variable ``depth``, float32 metres |

What is not a class is rounded towards zero. A squashed prediction (protocol A) is resized as ASTMT
does, to the nearest pixel for classes and linearly for the rest, before it is rounded; a padded one
(protocol B) is cropped.
"""

import io
import os
import pathlib
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from mtl_vision import files
from mtl_vision.errors import DataError

CLASSES = ("semseg", "human_parts")
WAITING = 256  # files that may wait to be written


def shown(kind: str, value: np.ndarray) -> np.ndarray:
    """Returns what a file holds before it is rounded, from what `tasks.post` gives."""
    if kind in ("edge", "sal"):
        return value * np.float32(255)
    return (value + 1) * np.float32(127.5) if kind == "normals" else value


def native(kind: str, value: np.ndarray, size: tuple[int, int], protocol: str) -> np.ndarray:
    """Brings one prediction ``[H, W, ...]`` from the canvas back to the size of its image.

    Args:
      kind: of the task.
      value: as `shown` gives it.
      size: (H, W) of the image.
      protocol: ``A`` squashed the image to the canvas, ``B`` padded it.
    """
    import cv2

    height, width = size
    if protocol == "B":
        top, left = ((a - b) // 2 for a, b in zip(value.shape, size, strict=False))
        return value[top : top + height, left : left + width]
    how = cv2.INTER_NEAREST if kind in CLASSES else cv2.INTER_LINEAR
    return cv2.resize(value, (width, height), interpolation=how)


def encoded(kind: str, value: np.ndarray) -> tuple[str, bytes]:
    """Returns the ending of the file's name and its content."""
    import cv2
    import scipy.io

    if kind == "depth":
        file = io.BytesIO()
        scipy.io.savemat(file, {"depth": np.ascontiguousarray(value, np.float32)})
        return "mat", file.getvalue()
    value = np.clip(value, 0, 255).astype(np.uint8)
    done, data = cv2.imencode(".png", value[..., ::-1] if value.ndim == 3 else value)
    assert done
    return "png", data.tobytes()


class Writer:
    """Writes the predictions of one dataset in other threads; a context."""

    def __init__(
        self,
        folder: pathlib.Path,
        dataset: str,
        kinds: Sequence[str],
        *,
        protocol: str,
        fresh: bool = True,
    ):
        """Makes ``<folder>/<dataset>/<kind>`` for all kinds.

        Args:
          folder, dataset, kinds: of the files.
          protocol: see `native`.
          fresh: whether the folders must be empty: the tools count what is there. Of several hosts
            the first one looks.

        Raises:
          DataError: one cannot be made, or holds other files.
        """
        self.folder, self.protocol = folder / dataset, protocol
        for kind in kinds:
            place = self.folder / kind
            try:
                place.mkdir(parents=True, exist_ok=True)
                there = next(place.iterdir(), None)
            except OSError as e:
                raise DataError(f"{place} cannot be made: {e.strerror}.") from e
            if there and fresh:
                raise DataError(f"{place} is not empty ({there.name}); give a new folder.")
        self.pool, self.waiting = ThreadPoolExecutor(os.cpu_count() or 1), deque()

    def add(self, info: Mapping[str, Any], preds: Mapping[str, np.ndarray]) -> None:
        """Adds a batch.

        Args:
          info: ``id`` and ``size`` of this host's images, as `data.pipeline` gives them.
          preds: ``{kind: [B, H, W, ...]}``, what `tasks.post` gives.
        """
        for b, (name, size) in enumerate(zip(info["id"], info["size"], strict=True)):
            for kind, value in preds.items():
                self.waiting.append(self.pool.submit(self._write, kind, name, value[b], size))
        while len(self.waiting) > WAITING:
            self._done(self.waiting.popleft())

    def _write(self, kind, name, value, size):
        value = native(kind, shown(kind, value), size, self.protocol)
        ending, data = encoded(kind, value)
        path = self.folder / kind / f"{name}.{ending}"
        with files.whole(path) as file:
            file.write_bytes(data)

    def _done(self, future: Future) -> None:
        try:
            future.result()
        except OSError as e:
            raise DataError(f"{e.filename} cannot be written: {e.strerror}.") from e

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: Any, *error: object) -> None:
        self.pool.shutdown(cancel_futures=kind is not None)
        while self.waiting and kind is None:
            self._done(self.waiting.popleft())
