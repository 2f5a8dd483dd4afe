import numpy as np
import pytest

from mtl_vision.viz import contact
from mtl_vision.viz.contact import CELL, GAP, MARGIN, Cell

RED = np.full((30, 40, 3), (255, 0, 0), np.uint8)


@pytest.mark.parametrize(
    "shape, expected",
    [((300, 400), (162, 216)), ((900, 300), (162, 54)), ((1, 2), (108, 216)), ((9, 900), (2, 216))],
)
def test_small_pictures_fit_their_cell(shape, expected):
    assert contact.small(np.zeros((*shape, 3), np.uint8)).shape == (*expected, 3)


def test_the_largest_classes_are_named_in_their_colors():
    ids = np.array([[1] * 7 + [0] * 2 + [2]] * 50)
    ids[0, 0] = 3  # less than half a percent
    names = ("wall", "floor", "door", "lamp")
    expected = (("#800000", "floor 70 %"), ("#000000", "wall 20 %"), ("#008000", "door 10 %"))
    assert contact.shares(ids, names) == expected
    assert contact.shares(ids, names, most=4)[-1] == ("#808000", "lamp < 1 %")
    many = names + ("",) * 36  # of sets without background no class is black
    assert contact.shares(ids * 0, many) == (("#800000", "wall 100 %"),)


def test_a_sheet_has_a_cell_per_photo_and_task():
    row = {
        ("", "photo"): Cell(RED, ((None, "a very long name " * 9),)),
        ("set", "depth"): Cell(RED),
    }
    picture = contact.sheet([row, row], "title")
    assert picture.shape[1] == 2 * MARGIN + 2 * CELL[0] + GAP
    assert (picture == (255, 0, 0)).all(-1).sum() == 4 * 30 * 40
    dark = (picture < 200).all(-1)
    assert (
        not dark[:, :MARGIN].any() and not dark[:, MARGIN + CELL[0] : MARGIN + CELL[0] + GAP].any()
    )
