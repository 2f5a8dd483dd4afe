"""The picture of a front: the better a score, the bluer its cell."""

import numpy as np

from mtl_vision.viz.fronts import CELL, GAP, LINE, chart


def test_better_scores_are_bluer_whatever_their_sign():
    preferences = np.array([[1.0, 0.0], [0.0, 1.0]])
    picture = chart(
        preferences,
        np.array([[60.0, 20.0], [40.0, 10.0]]),
        np.array([1, -1]),
        ("a/semseg", "a/normals"),
    )
    assert picture.shape == (2 * GAP + 3 * LINE, 2 * GAP + 2 * CELL, 3)

    def cell(p, t):  # red of the upper left corner of a cell
        return int(picture[GAP + (p + 1) * LINE + 1, GAP + t * CELL + 1, 0])

    assert cell(0, 0) == cell(1, 1) == 80 and cell(1, 0) == cell(0, 1) == 255
