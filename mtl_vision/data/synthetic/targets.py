"""Label maps from what the rays met."""

import cv2
import numpy as np

from mtl_vision.data.synthetic.labels import IGNORE


def ignore_borders(labels: np.ndarray, objects: np.ndarray, share: float) -> np.ndarray:
    """Sets a band along the borders of objects to 255, as annotators do.

    Args:
      labels: [H, W] uint8 classes.
      objects: [H, W] int32, equal within one object.
      share: width of the band as a share of the image's shorter side; at least one pixel.
    """
    width = max(1, round(share * min(labels.shape))) + 1
    kernel = np.ones((width, width), np.uint8)
    ids = objects.astype(np.float32)
    border = cv2.dilate(ids, kernel) != cv2.erode(ids, kernel)
    return np.where(border, np.uint8(IGNORE), labels)


def salient(objects: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Mask [H, W] uint8 of the objects that dominate the image.

    An object's weight is its visible area, each pixel counted with
    ``exp(-2 (x^2 + y^2))`` for x, y in [-1, 1] from the middle of the image. Salient are the
    heaviest object and those of at least half its weight, if they cover 1 % of the image.

    Args:
      objects: [H, W] int32 object numbers.
      candidates: [n] bool, by object number: True for things, False for surroundings.
    """
    H, W = objects.shape
    y = (np.arange(H) + 0.5) / H * 2 - 1
    x = (np.arange(W) + 0.5) / W * 2 - 1
    central = np.multiply.outer(np.exp(-2 * y**2), np.exp(-2 * x**2))
    n = len(candidates)
    flat = objects.ravel()
    area = np.bincount(flat, minlength=n) / flat.size
    weight = np.bincount(flat, central.ravel(), minlength=n) * (candidates & (area >= 0.01))
    chosen = (weight > 0) & (weight >= 0.5 * weight.max())
    return chosen.take(objects).astype(np.uint8)


def depth_holes(depth: np.ndarray, blind: np.ndarray, focal: float) -> np.ndarray:
    """Where a structured-light sensor has no reading: bool [H, W].

    The projector stands 7.5 cm to the right of the camera. With disparity d, a point at column x
    is hidden from it if some x' > x has ``d(x') - x' > d(x) - x``. Blind surfaces, the image
    border (one part in a hundred) and depths outside [0.5, 10] m have no reading either.

    Args:
      depth: [H, W] float32 metres.
      blind: [H, W] bool, glass and black gloss.
      focal: pixels.
    """
    H, W = depth.shape
    shift = 0.075 * focal / np.maximum(depth, 0.1) - np.arange(W, dtype=np.float32)
    furthest = np.maximum.accumulate(shift[:, ::-1], 1)[:, ::-1]
    hidden = np.zeros((H, W), bool)
    hidden[:, :-1] = furthest[:, 1:] > shift[:, :-1] + 0.5
    rim = max(1, round(0.01 * min(H, W)))
    holes = hidden | blind | (depth < 0.5) | (depth > 10)
    holes[:rim] = holes[-rim:] = True
    holes[:, :rim] = holes[:, -rim:] = True
    return holes
