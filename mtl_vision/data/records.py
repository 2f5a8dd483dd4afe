"""Examples in files: labels as small integer images, tfds datasets of them, and their sources.

A label is stored as an 8- or 16-bit image: classes as they are, depth in millimetres, normals as
``round(127 n) + 128`` with (128, 128, 128) for undefined (0.2 degrees off on average). The images
are PNG, so nothing is lost after that. Depth and normals of real datasets are files of `coding`.
Reading and preparing need no TensorFlow.
"""

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mtl_vision.data import coding, png
from mtl_vision.errors import DataError

MAX_DEPTH = 65.535  # metres
# Pixels as they are stored, without the camera's turn.
RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
AS_IT_IS = cv2.IMREAD_UNCHANGED


def pack(kind: str, label: np.ndarray) -> np.ndarray:
    """Label of `kind` as stored: uint8 [H, W], depth uint16 [H, W], normals uint8 [H, W, 3]."""
    if kind == "depth":
        return np.round(np.clip(label, 0, MAX_DEPTH) * 1000).astype(np.uint16)
    if kind == "normals":
        return (np.round(label * 127) + 128).astype(np.uint8)
    return label.astype(np.uint8)


def unpack(kind: str, stored: np.ndarray) -> np.ndarray:
    """The inverse: depth float32 in metres, normals float32 of unit length or zero."""
    if kind == "depth":
        return stored.astype(np.float32) / np.float32(1000)
    return _normals(stored) if kind == "normals" else stored


def _normals(stored: np.ndarray) -> np.ndarray:
    """In memory the planes lie one after another: quicker here, and what the transforms want."""
    planes = np.empty((3, *stored.shape[:2]), np.float32)
    for plane, part in zip(planes, cv2.split(stored), strict=True):
        np.subtract(part, np.float32(128), out=plane)
    x, y, z = planes
    length = x * x
    length += y * y
    length += z * z
    np.sqrt(np.maximum(length, 1, out=length), out=length)
    planes *= np.divide(1, length, out=length)
    return np.moveaxis(planes, 0, -1)


def unpack_example(packed: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    """An example of `id`, `image` and packed labels, with the labels unpacked."""
    plain = {"id": packed["id"], "image": packed["image"]}
    return plain | {kind: unpack(kind, packed[kind]) for kind in kinds}


def encode(packed: Mapping[str, Any]) -> dict[str, Any]:
    """Turns the arrays of a packed example into PNG files."""
    return {k: v if isinstance(v, str) else png.encode(k, v) for k, v in packed.items()}


def features(kinds: Sequence[str], *, coded: bool = False) -> Any:
    """The tfds features of a dataset with these labels; sizes may differ between images.

    Args:
      kinds: labels.
      coded: depth and normals are files of `coding`, not images of `pack`.
    """
    import tensorflow_datasets as tfds

    def image(channels: int, dtype: Any = np.uint8) -> Any:
        shape = (None, None, channels)
        return tfds.features.Image(shape=shape, dtype=dtype, encoding_format="png")

    file = tfds.features.Scalar(np.object_, doc="a PNG, see mtl_vision.data.coding")
    special = {"depth": image(1, np.uint16), "normals": image(3)}
    special = dict.fromkeys(special, file) if coded else special
    labels = {kind: special.get(kind, image(1)) for kind in kinds}
    return tfds.features.FeaturesDict({"id": tfds.features.Text(), "image": image(3), **labels})


def folder(root: str | pathlib.Path, name: str, config: str) -> pathlib.Path:
    """The newest version of a prepared dataset.

    Raises:
      DataError: there is none.
    """
    place = pathlib.Path(root).expanduser() / name / config
    versions = sorted(place.glob("*.*.*/dataset_info.json"), key=_version)
    if not versions:
        raise DataError(f"{name}/{config} is not prepared in {str(root)!r}.")
    return versions[-1].parent


def _version(path: pathlib.Path) -> tuple[int, ...]:
    parts = path.parent.name.split(".")
    return tuple(int(p) if p.isdigit() else -1 for p in parts)


def check(
    root: str | pathlib.Path,
    name: str,
    config: str,
    split: str,
    kinds: Sequence[str],
    *,
    command: str,
) -> None:
    """Looks whether a dataset is there and has the split and the labels.

    Raises:
      DataError: it is not, or has not; the message ends with `command`.
    """
    try:
        place = folder(root, name, config)
    except DataError as error:
        raise DataError(f"{error} Run: {command}") from error
    info = builder(place).info
    if split not in info.splits or not info.splits[split].num_examples:
        has = ", ".join(info.splits)
        raise DataError(f"{place} has no split {split!r}, only {has}. Run: {command}")
    missing = [kind for kind in kinds if kind not in info.features]
    if missing:
        raise DataError(f"{place} has no {missing[0]!r} labels. Delete it and run: {command}")


def builder(place: pathlib.Path) -> Any:
    """The tfds builder of a prepared dataset.

    Raises:
      DataError: the folder cannot be read.
    """
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(place)
    except Exception as error:
        raise DataError(f"{place} cannot be read: {error}. Delete it and prepare again.") from error


@dataclass(frozen=True)
class TfdsSource:
    """One split of a prepared dataset.

    Labels that were not asked for are not decoded. The files are opened on first use, in every
    process anew.

    Attributes:
      place: (root, name, config) of the dataset.
      split: its name, or a tfds slice such as ``train[:10%]``.
      kinds: labels wanted.
    """

    place: tuple[str, str, str]
    split: str
    kinds: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return TfdsSource, (self.place, self.split, self.kinds)

    @functools.cached_property
    def _opened(self) -> tuple[Any, frozenset[str]]:
        """The records with all files as they are, and the kinds whose files are of `coding`."""
        import tensorflow_datasets as tfds

        cv2.setNumThreads(1)
        made = builder(folder(*self.place))
        # tfds decodes a picture of one channel three times as slowly as `_decoded`.
        pictures = {k for k, f in made.info.features.items() if isinstance(f, tfds.features.Image)}
        skip = {k: tfds.decode.SkipDecoding() for k in pictures}
        records = made.as_data_source(split=self.split, decoders=skip)
        return records, frozenset(set(made.info.features) - pictures)

    def __len__(self) -> int:
        return len(self._opened[0])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns one example.

        Raises:
          DataError: the record is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self._where} has {len(self)} records, not {index}.")
        try:
            records, coded = self._opened
            record = records[index]
            plain = {"id": record["id"].decode(), "image": _decoded(record["image"], RGB)}
            return plain | {
                kind: coding.decode(kind, record[kind])
                if kind in coded
                else unpack(kind, _decoded(record[kind], RGB if kind == "normals" else AS_IT_IS))
                for kind in self.kinds
            }
        except Exception as error:
            raise DataError(
                f"{self._where}: record {index} of {len(self)} is damaged "
                f"({type(error).__name__}: {error}). Prepare the dataset again."
            ) from error

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    @property
    def _where(self) -> str:
        root, name, config = self.place
        return f"{name}/{config} in {str(root)!r}, split {self.split!r}"


def _decoded(data: bytes, how: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    if image is None:
        raise ValueError("a picture cannot be decoded")
    return image
