"""What the evaluation tools will read: names, sizes, bits, rounding."""

import cv2
import numpy as np
import pytest
import scipy.io

from mtl_vision.errors import DataError
from mtl_vision.predictions import Writer, native

INFO = {"id": ["a", "b"], "size": [(3, 4), (2, 4)]}


def write(tmp_path, protocol, **preds):
    with Writer(tmp_path, "nyud_v2", list(preds), protocol=protocol) as writer:
        writer.add(INFO, preds)
    return tmp_path / "nyud_v2"


def test_padding_is_cropped_and_values_are_rounded_towards_zero(tmp_path):
    """Images of 3 x 4 and 2 x 4 on 4 x 4: rows 0 to 2, and rows 1 and 2."""
    rows = np.arange(4, dtype=np.float32)[:, None].repeat(4, 1)
    stack = np.stack([rows, rows])
    folder = write(
        tmp_path,
        "B",
        semseg=stack.astype(np.uint8),
        edge=stack / 4,
        depth=stack / 3,
        normals=np.stack([-stack, stack * 0, stack], -1) / 4,
    )
    assert sorted(p.name for p in folder.iterdir()) == ["depth", "edge", "normals", "semseg"]

    def png(kind, name):
        return cv2.imread(str(folder / kind / f"{name}.png"), cv2.IMREAD_UNCHANGED)

    np.testing.assert_array_equal(png("semseg", "a"), [[0] * 4, [1] * 4, [2] * 4])
    np.testing.assert_array_equal(png("semseg", "b"), [[1] * 4, [2] * 4])
    edge = png("edge", "b")  # 255/4 = 63.75, 127.5
    assert edge.dtype == np.uint8 and edge[:, 0].tolist() == [63, 127]
    depth = scipy.io.loadmat(folder / "depth" / "b.mat")["depth"]
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, (stack / 3)[1, 1:3])
    # Red is x: (-1/4 + 1) 127.5 = 95.6, 127.5, (1/4 + 1) 127.5 = 159.4; OpenCV reads BGR.
    assert png("normals", "b")[0, 0].tolist() == [159, 127, 95]


def test_a_squashed_prediction_comes_back_as_astmt_resizes_it():
    classes = np.array([[1, 2], [3, 4]], np.uint8)
    np.testing.assert_array_equal(
        native("semseg", classes, (2, 4), "A"), [[1, 1, 2, 2], [3, 3, 4, 4]]
    )
    soft = np.array([[0, 100]], np.float32)  # places -0.25, 0.25, 0.75, 1.25
    np.testing.assert_allclose(native("edge", soft, (1, 4), "A"), [[0, 25, 75, 100]])


def test_a_folder_with_files_is_refused(tmp_path):
    write(tmp_path, "B", semseg=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(DataError, match="semseg is not empty .*new folder"):
        Writer(tmp_path, "nyud_v2", ["semseg"], protocol="B")


def test_a_disk_that_fails_is_said(tmp_path):
    writer = Writer(tmp_path, "nyud_v2", ["semseg"], protocol="B")
    (tmp_path / "nyud_v2" / "semseg").rmdir()
    with pytest.raises(DataError, match="semseg.*a.png cannot be written: No such file"), writer:
        writer.add(INFO, {"semseg": np.zeros((2, 4, 4), np.uint8)})
