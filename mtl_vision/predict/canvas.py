"""Photos onto the size that a model has, and what it says back to theirs.

A photo goes through the evaluation transform of every dataset's protocol onto the one size that
the config gives the dataset, so one program per dataset is compiled, whatever the photos. In
protocol B a photo that is larger is first shrunk to fit, its aspect kept, and the rest is padding;
a smaller one is not enlarged, as in the evaluation. In protocol A it is squashed to the size, as in
the evaluation, after it was shrunk to fit twice that size. Shrinking takes means of areas. What the
model says is enlarged linearly to the photo's own size, of a class its score, among the classes
that win anywhere; so a photo of the model's size gets what the evaluation sees.
"""

from typing import NamedTuple

import cv2
import numpy as np

from mtl_vision.data.transforms import eval_transform
from mtl_vision.tasks import Task

LARGEST = {"A": 2, "B": 1}  # sides of a photo over those of the model, before the transform


class Canvas(NamedTuple):
    """A photo as a dataset's model takes it.

    image: float32 ``[H, W, 3]``, normalised.
    shape: (h, w) of the part in the middle that is not padding.
    """

    image: np.ndarray
    shape: tuple[int, int]


def canvas(photo: np.ndarray, protocol: str, size: tuple[int, int]) -> Canvas:
    """Returns a photo, uint8 ``[H, W, 3]``, on a canvas of ``size = (H, W)``."""
    H, W = photo.shape[:2]
    factor = min(1.0, *(LARGEST[protocol] * n / m for n, m in zip(size, (H, W), strict=True)))
    if factor < 1:
        shape = max(round(W * factor), 1), max(round(H * factor), 1)
        photo = cv2.resize(photo, shape, interpolation=cv2.INTER_AREA)
    made = eval_transform(protocol, size=size, kinds=())({"id": "photo", "image": photo})
    return Canvas(made["image"], tuple(size) if protocol == "A" else photo.shape[:2])


def uncovered(value: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Cuts the padding off: ``[H, W, ...]`` -> ``[h, w, ...]``."""
    top, left = ((n - m) // 2 for n, m in zip(value.shape, shape, strict=False))
    return value[top : top + shape[0], left : left + shape[1]]


def enlarge(value: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes float32 ``[h, w]`` or ``[h, w, 3]`` linearly to ``size = (H, W)``."""
    value = np.ascontiguousarray(value, np.float32)
    return cv2.resize(value, size[::-1], interpolation=cv2.INTER_LINEAR)


def winners(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarges scores ``[h, w, K]``: the class with the largest, uint8 ``[H, W]``.

    One class at a time, of those that win somewhere in `scores`; the lower one of equal classes.
    """
    first, *others = np.unique(scores.argmax(-1))
    best, classes = enlarge(scores[..., first], size), np.full(size, first, np.uint8)
    for k in others:
        score = enlarge(scores[..., k], size)
        classes[score > best] = k
        np.maximum(best, score, out=best)
    return classes


def at_size(task: Task, value: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarges what the model says to ``size = (H, W)``.

    Args:
      task: whose output it is.
      value: of `predict_step`, ``[h, w, ...]``.
      size: of the photo.

    Returns: semseg and human_parts: classes, uint8 ``[H, W]``. depth: metres, float32 ``[H, W]``.
      edge and sal: probability, float16 ``[H, W]``. normals: unit vectors, float16 ``[H, W, 3]``,
      in the dataset's camera frame: x right, y down, z ahead.
    """
    if task.names:
        return winners(value, size)
    value = enlarge(value, size)
    if task.kind == "normals":
        value /= np.maximum(np.sqrt(np.einsum("hwc,hwc->hw", value, value)), 1e-12)[..., None]
    return value if task.kind == "depth" else value.astype(np.float16)
