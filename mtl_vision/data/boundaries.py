"""Thin boundaries of a label map, as the PASCAL-Context edge labels are made."""

import functools

import cv2
import numpy as np

# Neighbours x1..x8 counter-clockwise from east, as (row, column) steps.
_STEPS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def boundaries(labels: np.ndarray) -> np.ndarray:
    """Where the Laplacian of `labels` is not zero, thinned to lines of one pixel.

    The kernel is [[0, 1, 0], [1, -4, 1], [0, 1, 0]] with reflected borders, as in the loaders of
    facebookresearch/astmt.

    Args:
      labels: [H, W] integers.

    Returns: [H, W] uint8 in {0, 1}.
    """
    ids = np.pad(labels.astype(np.int64), 1, mode="reflect")
    around = ids[:-2, 1:-1] + ids[2:, 1:-1] + ids[1:-1, :-2] + ids[1:-1, 2:]
    return thin(around != 4 * ids[1:-1, 1:-1])


def thin(mask: np.ndarray) -> np.ndarray:
    """Thins a binary mask [H, W] until nothing changes; equals `skimage.morphology.thin`.

    Guo and Hall's parallel algorithm with two half-passes (Commun. ACM 32(3), 1989). Pixels
    outside the image count as 0.
    """
    mask = mask.astype(np.uint8)
    tables = _tables()
    while True:
        before = mask
        for table in tables:
            mask = mask & cv2.LUT(_codes(mask), table)
        if np.array_equal(mask, before):
            return mask


def _codes(mask: np.ndarray) -> np.ndarray:
    """Bit k of a pixel's code is its neighbour x_(k+1)."""
    kernel = np.zeros((3, 3), np.float32)
    for bit, (dy, dx) in enumerate(_STEPS):
        kernel[1 + dy, 1 + dx] = 1 << bit
    return cv2.filter2D(mask, -1, kernel, borderType=cv2.BORDER_CONSTANT)


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """For each half-pass and code: 1 if the pixel stays, 0 if it is deleted."""
    tables = np.ones((2, 256), np.uint8)
    for code in range(256):
        x = [bool(code >> k & 1) for k in range(8)]
        x = [False, *x, x[0]]  # x[1]..x[9]
        ends = sum(not x[2 * i - 1] and (x[2 * i] or x[2 * i + 1]) for i in range(1, 5))
        n1 = sum(x[2 * k - 1] or x[2 * k] for k in range(1, 5))
        n2 = sum(x[2 * k] or x[2 * k + 1] for k in range(1, 5))
        if ends == 1 and 2 <= min(n1, n2) <= 3:
            tables[0, code] = (x[2] or x[3] or not x[8]) and x[1]
            tables[1, code] = (x[6] or x[7] or not x[4]) and x[5]
    return tables[0], tables[1]
