"""Thin boundaries of a label map, as the PASCAL-Context edge labels are made."""

import numpy as np

from mtl_vision.metrics.thinning import thin


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
    return thin(around != 4 * ids[1:-1, 1:-1]).astype(np.uint8)
