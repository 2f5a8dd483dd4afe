import numpy as np
import pytest

from mtl_vision.viz import colors, panels
from mtl_vision.viz.colors import signed
from mtl_vision.viz.conflicts import heat_map


def test_the_palette_is_that_of_voc():
    palette = colors.class_palette(21)
    # background, aeroplane, person, tvmonitor, as in the development kit
    assert palette[[0, 1, 15, 20]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
    ]
    assert len(np.unique(colors.class_palette(41), axis=0)) == 41


def test_classes_of_sets_without_background_are_not_black():
    picture = colors.colorize("semseg", np.zeros((1, 1), np.uint8), classes=40)
    assert picture.tolist() == [[[128, 0, 0]]]


@pytest.mark.parametrize("kind", ["semseg", "depth", "normals", "edge", "sal", "human_parts"])
def test_every_kind_has_a_picture_and_shows_what_is_ignored(kind):
    value = np.ones((2, 3, 3) if kind == "normals" else (2, 3), np.float32)
    mask = np.array([[True, True, False]] * 2)
    picture = colors.colorize(kind, value, mask, classes=7)
    assert picture.shape == (2, 3, 3) and picture.dtype == np.uint8
    assert (picture[:, 2] == colors.IGNORED).all() and (picture[:, 0] != colors.IGNORED).any()


def test_depth_grows_from_blue_to_red():
    near, far = colors.colorize("depth", np.array([[0.6, 9.0]]))[0].astype(int)
    assert near[2] > near[0] and far[0] > far[2]


def test_normalisation_is_undone():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    normalised = ((image / 255 - panels.MEAN) / panels.STD).astype(np.float32)
    np.testing.assert_allclose(panels.to_rgb(normalised), image, atol=1)


def test_a_sheet_holds_all_cells():
    cell = np.zeros((10, 20, 3), np.uint8)
    sheet = panels.sheet([[("a", cell), ("b", cell)], [("c", cell)]], side=30)
    assert sheet.shape == (2 * (30 + 16 + 4) + 4, 2 * (60 + 4) + 4, 3)
    assert (sheet[4 + 16 : 4 + 16 + 30, 4 : 4 + 60] == 0).all()


def test_heat_map_of_conflicts():
    angles = np.array([[1.0, -1.0], [-1.0, 1.0]])
    picture = heat_map(angles, ("a/semseg", "a/depth"), np.ones(2), np.ones(2))
    found = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
    assert {tuple(signed(np.array(v)).tolist()) for v in (-1.0, 1.0)} <= found
    red, blue = (signed(np.array(v)).astype(int) for v in (-0.5, 0.5))
    assert red[0] > red[2] and blue[2] > blue[0]
    assert signed(np.array(0.0)).tolist() == [255, 255, 255]
