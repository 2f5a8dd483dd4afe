"""A dataset of one's own: images and label PNGs in folders, read as they are.

    <root>/<name>/<config>/
      train.txt, val.txt      ids, one a line
      images/<id>.jpg         or .jpeg or .png
      <kind>/<id>.png         for every kind, as large as the image

A class map has 8 bits and one channel: the class, 255 where it is ignored. Depth has 16 bits, whole
millimetres, 0 where it is missing. Normals have 8 bits, ``round(127 n) + 128`` as RGB.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

from mtl_vision.data import records
from mtl_vision.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png")
TWO = {"edge", "sal"}  # kinds with the classes 0 and 1
Classes = Mapping[str, Sequence[str]]


def entry(
    name: str, kinds: Sequence[str], *, classes: Classes | None = None, split: str = "val"
) -> dict[str, Any]:
    """Returns the fields of the `Dataset` for a folder.

    Args:
      name: of the dataset and its folder.
      kinds: what it labels, in the order of `tasks.KINDS`.
      classes: names of the classes of ``semseg`` and ``human_parts``, 0 first.
      split: what to report.
    """
    classes = dict(classes or {})
    labels = {kind: len(classes.get(kind, "01" if kind in TWO else "")) for kind in kinds}
    return dict(
        name=name,
        kinds=tuple(kinds),
        tasks=partial(_tasks, name, tuple(kinds), classes),
        source=partial(_source, name, labels),
        check=partial(_checked, name, labels),
        split=split,
    )


def _tasks(name: str, kinds: Sequence[str], classes: Classes, protocol: str) -> dict[str, Any]:
    from mtl_vision.tasks import TASKS

    options = {kind: {"classes": names} for kind, names in classes.items()}
    return {kind: TASKS[kind](name, protocol, **options.get(kind, {})) for kind in kinds}


def _source(name, labels, root, config, split, kinds) -> "FolderSource":
    place = pathlib.Path(root).expanduser() / name / config
    files = tuple(_listed(place, split, kinds))
    return FolderSource(place, files, tuple(kinds), tuple(labels[kind] for kind in kinds))


def _checked(name, labels, root, config, split, kinds) -> None:
    _source(name, labels, root, config, split, kinds)


def _listed(place: pathlib.Path, split: str, kinds: Sequence[str]) -> Iterator[str]:
    """Yields the images' names, after a look at whether every image has its labels.

    Raises:
      DataError: a folder, the list, an image or a label is missing; the first one is named.
    """
    listing = place / f"{split}.txt"
    if not listing.is_file():
        raise DataError(f"{listing} is missing; it lists the ids of the split, one a line.")
    there = {}
    for folder in ("images", *kinds):
        if not (place / folder).is_dir():
            raise DataError(f"{place / folder} is missing; see docs/datasets.md for the layout.")
        there[folder] = set(os.listdir(place / folder))
    ids = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
    if not ids:
        raise DataError(f"{listing} lists no ids.")
    lost = []
    for one in ids:
        found = [one + ending for ending in ENDINGS if one + ending in there["images"]]
        lost += [] if found else [place / "images" / f"{one}.jpg"]
        lost += [place / k / f"{one}.png" for k in kinds if f"{one}.png" not in there[k]]
        if not lost:
            yield found[0]
    if lost:
        raise DataError(f"{len(lost)} files of the split {split!r} are missing, first {lost[0]}.")


@dataclass(frozen=True)
class FolderSource:
    """One split of such a folder.

    Attributes:
      place: the folder.
      files: names of the images.
      kinds: labels wanted.
      classes: how many classes each of them has, 0 for depth and normals.
    """

    place: pathlib.Path
    files: tuple[str, ...]
    kinds: tuple[str, ...]
    classes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns one example; see docs/datasets.md.

        Raises:
          DataError: a file cannot be decoded, or does not fit the image or the classes.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.place} has {len(self)} images, not {index}.")
        path = self.place / "images" / self.files[index]
        image = _decoded(path, records.RGB)
        example = {"id": path.stem, "image": image}
        for kind, classes in zip(self.kinds, self.classes, strict=True):
            label = self.place / kind / f"{path.stem}.png"
            example[kind] = _label(label, kind, classes, image.shape[:2])
        return example

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))


def _label(path: pathlib.Path, kind: str, classes: int, size: tuple[int, int]) -> np.ndarray:
    stored = _decoded(path, cv2.IMREAD_UNCHANGED)
    dtype, shape = np.dtype(np.uint16 if kind == "depth" else np.uint8), size
    if kind == "normals":
        shape = (*size, 3)
    if stored.dtype != dtype or stored.shape != shape:
        raise DataError(
            f"{path} has {stored.dtype} pixels of shape {stored.shape}, expected {dtype} {shape}."
        )
    if classes:
        known = stored[stored != 255]
        if known.size and known.max() >= classes:
            raise DataError(
                f"{path} holds the class {known.max()}; {kind} has the classes 0 to {classes - 1}, "
                "and 255 where it is ignored."
            )
    if kind == "normals":
        stored = cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)
    return records.unpack(kind, stored)


def _decoded(path: pathlib.Path, how: int) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e.strerror}.") from e
    image = cv2.imdecode(np.frombuffer(data, np.uint8), how) if data else None
    if image is None:
        raise DataError(f"{path} is no image that can be decoded.")
    return image
