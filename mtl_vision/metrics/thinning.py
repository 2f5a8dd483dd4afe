"""Thinning of binary maps, one at a time or many at once. numpy only."""

import numpy as np


def thin(mask: np.ndarray) -> np.ndarray:
    """Thins binary maps to lines of one pixel, until nothing changes.

    Guo and Hall's parallel algorithm with two half-passes (Commun. ACM 32(3), 1989); equals
    ``skimage.morphology.thin``. Pixels outside the map count as 0.

    Args:
      mask: bool ``[H, W]``, or unsigned integers ``[H, W, N]`` whose every bit is a map of its own:
        the rule is logic on whole words, so 64 maps cost little more than one.

    Returns: a new array like `mask`.
    """
    H, W, *rest = mask.shape
    maps = np.zeros((H + 2, W + 2, *(rest or [1])), mask.dtype)
    maps[1:-1, 1:-1] = mask.reshape(H, W, -1)
    flat = maps.reshape((H + 2) * (W + 2), -1)
    east, south = 1, W + 2
    around = np.array(
        [east, east - south, -south, -east - south, -east, south - east, south, south + east]
    )
    everywhere = np.flatnonzero(flat.any(1))
    changed, active, half = [everywhere, everywhere], everywhere, 0
    while changed[0].size or changed[1].size:
        gone = _deletable([flat[active + step] for step in around], half) & flat[active]
        hit = gone.any(1)
        pixels = active[hit]
        flat[pixels] ^= gone[hit]
        # Only a pixel next to a deletion of the last two half-passes can have become deletable.
        changed = [changed[1], pixels]
        active = _neighbours(changed, around, flat)
        half = 1 - half
    return maps[1:-1, 1:-1].reshape(mask.shape)


def _neighbours(changed: list[np.ndarray], around: np.ndarray, flat: np.ndarray) -> np.ndarray:
    near = np.zeros(len(flat), bool)
    for step in around:
        for pixels in changed:
            near[pixels + step] = True
    near = np.flatnonzero(near)
    return near[flat[near].any(1)]


def _deletable(x: list[np.ndarray], half: int) -> np.ndarray:
    """The rule of a half-pass; x1..x8 are the neighbours, counter-clockwise from east."""
    x1, x2, x3, x4, x5, x6, x7, x8 = x
    ends = [~a & (b | c) for a, b, c in ((x1, x2, x3), (x3, x4, x5), (x5, x6, x7), (x7, x8, x1))]
    a, b, c, d = ends
    one_end = ((a ^ b) & ~(c | d)) | ((c ^ d) & ~(a | b))
    two_1, four_1 = _two_and_four(x1 | x2, x3 | x4, x5 | x6, x7 | x8)
    two_2, four_2 = _two_and_four(x2 | x3, x4 | x5, x6 | x7, x8 | x1)
    keep = (x6 | x7 | ~x4) & x5 if half else (x2 | x3 | ~x8) & x1
    return one_end & two_1 & two_2 & ~(four_1 & four_2) & ~keep


def _two_and_four(a, b, c, d) -> tuple[np.ndarray, np.ndarray]:
    """Where at least two of four are set, and where all are."""
    return (a & b) | (c & d) | ((a | b) & (c | d)), a & b & c & d
