"""The two families of transforms in the literature, put together from the steps.

A (ASTMT, Vandenhende, MTLoRA): flip, turn and enlarge, squash to one size.
B (ATRC, InvPT, TaskPrompter, MLoRE): enlarge, crop, flip, distort colours, pad to one size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

from mtl_vision.data.transforms import color, geometry
from mtl_vision.data.transforms.maps import IGNORE, Maps, Transformed, pack, unpack
from mtl_vision.errors import ConfigError, lookup

REDRAWS = 10  # of a crop that one class fills


@dataclass(frozen=True)
class Augment:
    """What training draws at random. The defaults draw nothing; every field is a switch.

    Attributes:
      flip: mirror every other image.
      rotate: largest angle in degrees, drawn uniformly to both sides; protocol A only.
      scales: ``(lowest, highest)`` enlargement, or the list to choose from; ``()`` for none.
      discrete: `scales` is a list to choose from.
      max_share: redraw a crop in which one class takes this share of the labelled pixels or more,
        up to ten times, if semseg is loaded; 1 takes any crop. Protocol B only.
      distort: photometric distortion.
    """

    flip: bool = False
    rotate: float = 0.0
    scales: tuple[float, ...] = ()
    discrete: bool = False
    max_share: float = 1.0
    distort: bool = False


A_PASCAL = Augment(flip=True, rotate=20.0, scales=(0.75, 1.25))
A_NYUD = Augment(flip=True, scales=(1.0, 1.2, 1.5), discrete=True)
B = Augment(flip=True, scales=(0.5, 2.0), max_share=0.75, distort=True)


def train_transform(
    protocol: str,
    *,
    size: tuple[int, int],
    kinds: Sequence[str],
    augment: Augment,
    normals_sign: Sequence[int] = (1, 1, 1),
) -> Callable[[Mapping[str, Any], np.random.Generator], Transformed]:
    """Returns ``(example, rng) -> transformed``, picklable, without state of its own.

    Args:
      protocol: "A" or "B".
      size: (H, W) of everything that comes out.
      kinds: labels wanted.
      augment: what is drawn, for example `A_PASCAL`, `A_NYUD` or `B`.
      normals_sign: see `maps.unpack`.

    Raises:
      ConfigError: an augmentation that the protocol does not have.
    """
    if not augment.discrete and len(augment.scales) not in (0, 2):
        raise ConfigError(
            f"scales={augment.scales} needs (lowest, highest), discrete=True and a list, or ()."
        )
    if protocol == "A" and augment.max_share != 1:
        raise ConfigError(f"max_share={augment.max_share} needs crops; protocol A has none. Use 1.")
    if protocol == "B" and augment.rotate != 0:
        raise ConfigError(f"rotate={augment.rotate}: protocol B does not rotate. Use 0.")
    return partial(
        lookup({"A": _train_a, "B": _train_b}, protocol, "protocol"),
        size=tuple(size),
        kinds=tuple(kinds),
        augment=augment,
        normals_sign=tuple(normals_sign),
    )


def eval_transform(
    protocol: str,
    *,
    size: tuple[int, int],
    kinds: Sequence[str],
    normals_sign: Sequence[int] = (1, 1, 1),
) -> Callable[[Mapping[str, Any]], Transformed]:
    """Returns ``example -> transformed`` without any chance; arguments as in `train_transform`."""
    return partial(
        lookup({"A": _eval_a, "B": _eval_b}, protocol, "protocol"),
        size=tuple(size),
        kinds=tuple(kinds),
        normals_sign=tuple(normals_sign),
    )


def _train_a(example, rng, *, size, kinds, augment, normals_sign):
    maps = unpack(example, kinds, normals_sign)
    if augment.flip and rng.random() < 0.5:
        maps = geometry.flip(maps)
    maps = geometry.rotate_and_scale(maps, draw_angle(rng, augment), draw_scale(rng, augment))
    maps = _pixels(geometry.squash(maps, size))
    return _finish(example, maps, kinds, size, rng if augment.distort else None)


def _train_b(example, rng, *, size, kinds, augment, normals_sign):
    maps = unpack(example, kinds, normals_sign)
    maps = geometry.rescale(maps, draw_scale(rng, augment))
    semseg = cv2.extractChannel(maps["index"][0], 0) if "semseg" in kinds else None
    corner = draw_corner(
        rng, maps["image"][0].shape, size, semseg=semseg, max_share=augment.max_share
    )
    maps = _pixels(geometry.crop(maps, corner, size))
    if augment.flip and rng.random() < 0.5:
        maps = geometry.flip(maps)
    return _finish(example, maps, kinds, size, rng if augment.distort else None)


def _eval_a(example, *, size, kinds, normals_sign):
    maps = geometry.squash(unpack(example, kinds, normals_sign), size)
    return _finish(example, _pixels(maps), kinds, size)


def _eval_b(example, *, size, kinds, normals_sign):
    return _finish(example, _pixels(unpack(example, kinds, normals_sign)), kinds, size)


def _pixels(maps: Maps) -> Maps:
    """The image as one uint8 plane ``[H, W, 3]``, in which what follows moves it."""
    return maps | {"image": [color.quantise(maps["image"])]}


def _finish(example, maps: Maps, kinds, size, rng=None) -> Transformed:
    """Colours, normalisation, padding and masks; `rng` is None without distortion."""
    (image,) = maps["image"]
    H, W, _ = image.shape
    if H > size[0] or W > size[1]:
        raise ConfigError(f"size={size} is smaller than the image {example['id']}, {(H, W)}.")
    if rng is not None:
        image = color.distort(image, color.draw_distortion(rng))
    maps = geometry.pad(maps | {"image": [color.normalise(image)]}, size)
    labels, masks = pack(maps, kinds)
    return {
        "id": example["id"],
        "image": maps["image"][0],
        "labels": labels,
        "masks": masks,
        "size": example["image"].shape[:2],
    }


def draw_angle(rng: np.random.Generator, augment: Augment) -> float:
    """Draws the angle of `geometry.rotate_and_scale` in degrees, before `draw_scale`."""
    return 2 * augment.rotate * rng.random() - augment.rotate if augment.rotate else 0.0


def draw_scale(rng: np.random.Generator, augment: Augment) -> float:
    """Draws an enlargement: uniform between two bounds, or one of a list."""
    if not augment.scales:
        return 1.0
    if augment.discrete:
        return augment.scales[int(rng.random() * len(augment.scales))]
    lowest, highest = augment.scales
    return lowest + (highest - lowest) * rng.random()


def draw_corner(
    rng: np.random.Generator,
    shape: tuple[int, int],
    size: tuple[int, int],
    *,
    semseg: np.ndarray | None = None,
    max_share: float = 1.0,
) -> tuple[int, int]:
    """Draws the (top, left) corner of a crop, uniform over all that fit (ATRC's RandomCrop).

    Args:
      shape: (H, W) of the image.
      size: (H, W) of the crop; a side that is longer than the image's has corner 0.
      semseg: uint8 ``[H, W]``, 255 where unlabelled, or None to take the first draw.
      max_share: see `Augment`. The eleventh draw is taken unseen.
    """

    def draw():
        top, left = (int(rng.integers(max(n - m, 0) + 1)) for n, m in zip(shape, size, strict=True))
        return top, left

    corner = draw()
    if semseg is None or max_share >= 1:
        return corner
    for _ in range(REDRAWS):
        (window,) = geometry.crop({"semseg": [semseg]}, corner, size)["semseg"]
        if varied(window, max_share):
            break
        corner = draw()
    return corner


def varied(semseg: np.ndarray, max_share: float) -> bool:
    """Whether two classes or more are labelled, none on `max_share` of the labelled pixels."""
    counts = cv2.calcHist([semseg], [0], None, [256], [0, 256]).ravel()[:IGNORE]
    return np.count_nonzero(counts) > 1 and float(counts.max()) / float(counts.sum()) < max_share
