"""What the files of a dataset's archive are called, and what becomes of each of them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from mtl_vision.data import coding, png, sources
from mtl_vision.errors import DataError

LIST = "list"  # the part that names the ids of a split
SAME_SHAPE = 0.005  # sides of 425x560 and 480x640, two crops, are 0.012 apart


class Converted(NamedTuple):
    """A file as it is kept: content, (H, W) or None, and a word about it."""

    data: bytes
    shape: tuple[int, int] | None = None
    note: str = ""


class Part(NamedTuple):
    """One kind of file.

    name: of the part; two kinds of file that give the same have one name.
    pattern: regex of the end of its path, with the id as its only group.
    convert: content of the file -> what is kept of it; raises DataError.
    """

    name: str
    pattern: str
    convert: Callable[[bytes], Converted]


@dataclass(frozen=True)
class Layout:
    """One dataset as its archive holds it.

    Attributes:
      dataset: its name.
      archives: what the published files are called.
      counts: ids of every split.
      parts: kinds of file, the lists of ids among them.
      needs: the parts that a kind of label is made of; of ``a|b`` the first that is there.
      join: ``(parts, kinds) -> labels``, files as `records.TfdsSource` reads them.
      variants: by name, the file type of each part; empty if there is only one.
    """

    dataset: str
    archives: str
    counts: Mapping[str, int]
    parts: Sequence[Part]
    needs: Mapping[str, Sequence[str]]
    join: Callable[[Mapping[str, Converted], Sequence[str]], dict[str, bytes]]
    variants: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Match(NamedTuple):
    """What a file is: the index of its part, the id, and the folders above."""

    index: int
    id: str
    above: str


def match(layout: Layout, name: str) -> Match | None:
    """Returns what a file of this path is, None for one that the dataset does not have."""
    path = name.replace("\\", "/").removeprefix("./")
    if "__MACOSX" in path or path.rpartition("/")[2].startswith("._"):
        return None
    for index, part in enumerate(layout.parts):
        if found := re.fullmatch(rf"(?:(.*)/)?{part.pattern}", path):
            return Match(index, found[2], found[1] or "")
    return None


def fits(shape: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether a label is its image at some scale, the image being one."""
    (h, w), (H, W) = shape, image
    return abs(h * W - w * H) <= SAME_SHAPE * h * W


def fit(kind: str, label: Converted, image: tuple[int, int]) -> bytes:
    """A label's file at the size of its image, as the loaders do it: cubic for normals, nearest for
    the others.

    Raises:
      DataError: the sides of label and image are not in proportion.
    """
    if label.shape == image:
        return label.data
    if not fits(label.shape, image):
        raise DataError(f"{kind} is {_by(label.shape)}, its image {_by(image)}")
    size = image[::-1]
    if kind == "normals":
        normals = cv2.resize(coding.decode(kind, label.data), size, interpolation=cv2.INTER_CUBIC)
        return coding.encode_normals(np.clip(normals, -1, 1))
    if kind == "depth":
        metres = coding.decode(kind, label.data)
        return coding.encode_depth(cv2.resize(metres, size, interpolation=cv2.INTER_NEAREST))
    plane = png.decode(label.data)
    return png.encode(kind, cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST))


def id_list(data: bytes) -> Converted:
    """The ids of a split, one a line."""
    return Converted("\n".join(sources.ids(data)).encode())


def image(data: bytes, max_side: int = sources.MAX_SIDE) -> Converted:
    """A photo, as it is if it can be."""
    picture = sources.photo(data, max_side)
    return Converted(picture, sources.shape(picture))


def plane(label: np.ndarray, note: str = "") -> Converted:
    """A map of classes, uint8 [H, W], as it is kept."""
    return Converted(png.encode("semseg", label), label.shape, note)


def only(label: np.ndarray, allowed: np.ndarray, what: str) -> np.ndarray:
    """Holds a map of integers to the allowed values.

    Args:
      label: [H, W].
      allowed: bool table by value.
      what: the expected values, in words.
    """
    if label.ndim != 2:
        raise DataError(f"holds an array of shape {label.shape}, expected (H, W)")
    if not np.array_equal(label, np.round(label)):
        raise DataError(f"holds {label[label != np.round(label)][0]}, expected {what}")
    inside = (label >= 0) & (label < len(allowed))
    legal = inside & allowed[np.where(inside, label, 0).astype(np.int64)]
    if not legal.all():
        raise DataError(f"holds {label[~legal][0]}, expected {what}")
    return label


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
