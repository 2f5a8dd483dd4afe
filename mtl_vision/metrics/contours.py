"""From maps of edge probability, labels or edges to contours. numpy and scipy only.

After the MATLAB readers of prismformore/Boundary-Detection-Evaluation-Tools (SEISM).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mtl_vision.metrics.thinning import thin

TRIANGLE = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1], np.float32) / 25
HED = np.concatenate([[0.001], np.arange(1, 100) / 100, [0.999]]).astype(np.float32)
STEPS = (np.arange(1, 100) / 100).astype(np.float32)


class Reader(NamedTuple):
    """How a map of probabilities becomes one contour map per threshold.

    thresholds: float32 ``[T]``, ascending.
    contours: uint8 ``[H, W]`` -> uint64 ``[H, W, N]``, bit t is the contour map of threshold t,
      before thinning.
    """

    thresholds: np.ndarray
    contours: Callable[[np.ndarray], np.ndarray]


def suppress(strength: np.ndarray) -> np.ndarray:
    """Non-maximum suppression of an edge map, float32 ``[H, W]`` in 0..1, H and W at least 2.

    The direction across an edge comes from second derivatives of the map, smoothed by a triangle
    of radius 4. A pixel stays if 1.01 times its value is at least those one pixel away on either
    side; within five pixels of the border it is scaled by distance / 5 (P. Dollar's edgesNms).
    """
    smooth = strength
    for axis in (0, 1):
        smooth = ndimage.correlate1d(smooth, TRIANGLE, axis, mode="reflect")
    dy, dx = np.gradient(smooth)
    dyy, dxy = np.gradient(dy)
    # The angle is atan(up / right); its sine and cosine up to a common sign, which does not matter.
    right = np.gradient(dx, axis=1) + np.float32(1e-5)
    up = dyy * np.sign(-dxy)
    pixels = np.flatnonzero(strength)
    own, right, up = (x.reshape(-1)[pixels] for x in (strength, right, up))
    length = np.maximum(np.hypot(right, up), np.float32(1e-30))
    right, up = right / length, up / length
    y, x = np.divmod(pixels, strength.shape[1])
    stays = np.ones(len(pixels), bool)
    for sign in (-1, 1):
        stays &= own * np.float32(1.01) >= _sample(strength, y + sign * up, x + sign * right)
    kept = np.zeros_like(strength)
    kept.reshape(-1)[pixels[stays]] = own[stays]
    return kept * _ramp(strength.shape[0])[:, None] * _ramp(strength.shape[1])


def _sample(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear samples; places outside are moved to the border."""
    H, W = image.shape
    y, x = np.clip(y, 0, H - 1.001), np.clip(x, 0, W - 1.001)
    top, left = y.astype(np.int32), x.astype(np.int32)
    y, x = (y - top).astype(np.float32), (x - left).astype(np.float32)
    flat, at = image.reshape(-1), top * W + left
    upper = flat[at] + (flat[at + 1] - flat[at]) * x
    lower = flat[at + W] + (flat[at + W + 1] - flat[at + W]) * x
    return upper + (lower - upper) * y


def _ramp(size: int) -> np.ndarray:
    place = np.arange(size)
    return np.minimum(np.minimum(place, place[::-1]) / 5, 1).astype(np.float32)


def _packed(strength: np.ndarray, thresholds: np.ndarray, side: str) -> np.ndarray:
    """Bit t of a pixel: its strength is above (`side` left) or at least (right) threshold t."""
    T, N = len(thresholds), -(-len(thresholds) // 64)
    below = np.arange(64 * N) < np.arange(T + 1)[:, None]
    words = np.packbits(below, axis=1, bitorder="little").view(np.uint64)  # [T + 1, N]
    packed = np.zeros((*strength.shape, N), np.uint64)
    some = strength > 0
    packed[some] = words[np.searchsorted(thresholds, strength[some], side)]
    return packed


def _probability(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(255)


READERS = {
    # InvPT, TaskPrompter: read_one_cont_png with the thresholds of HED.txt.
    "cont": Reader(HED, lambda image: _packed(suppress(_probability(image)), HED, "left")),
    # Vandenhende et al.: read_one_png with 99 thresholds, no suppression.
    "plain": Reader(STEPS, lambda image: _packed(_probability(image), STEPS, "right")),
}


def label_boundaries(labels: np.ndarray) -> np.ndarray:
    """Returns the thin boundaries of a label map ``[H, W]``, bool.

    A pixel is on a boundary if it differs from its right, lower or lower right neighbour; the
    result is thinned.
    """
    found = np.zeros(labels.shape, bool)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[:-1] |= labels[:-1] != labels[1:]
    found[:-1, :-1] |= labels[:-1, :-1] != labels[1:, 1:]
    return thin(found)


# What the true map holds -> thin boundaries, bool [H, W].
TRUTHS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "edge": lambda truth: thin(truth > 0),
    "labels": label_boundaries,
}
