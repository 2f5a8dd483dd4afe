"""Preferences at which a front is evaluated, and its table."""

import numpy as np
import pytest

from mtl_vision.errors import ConfigError
from mtl_vision.fronts import preferences, report


def test_many_tasks_have_their_corners_the_centre_and_draws():
    found = np.asarray(preferences(4, 7))
    np.testing.assert_array_equal(found[:4], np.eye(4))
    np.testing.assert_array_equal(found[4], np.full(4, 0.25))
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    assert found.shape == (7, 4) and (found[5:] > 0).all()
    assert preferences(2, 3).tolist() == [[0, 1], [0.5, 0.5], [1, 0]]
    with pytest.raises(ConfigError, match="--front=4: 4 tasks need 5"):
        preferences(4, 4)


def test_the_table_marks_what_is_best():
    found = {
        "tasks": ["a/semseg/mIoU", "a/normals/mean"],
        "preferences": [[1.0, 0.0], [0.0, 1.0]],
        "scores": [[60.0, 20.0], [40.0, 30.0]],
        "best": [True, False],
        "hypervolume": 1.0,
    }
    lines = report(found).splitlines()
    assert lines[0].split() == ["preference", "semseg", "normals", "best"]
    assert lines[2].split() == ["1.00", "0.00", "60.000", "20.000", "*"]
    assert lines[3].split() == ["0.00", "1.00", "40.000", "30.000"]
    assert lines[-1] == "hypervolume 1.0000 of 1"
