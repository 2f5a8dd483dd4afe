"""Photos of every kind come out upright, as 8-bit RGB; what is none is named."""

import numpy as np
import pytest
from PIL import Image

from mtl_vision.data import photos
from mtl_vision.errors import DataError

RAMP = np.linspace(0, 255, 20).round().astype(np.uint8).reshape(4, 5)
COLORS = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
GREY = np.repeat(RAMP[..., None], 3, -1)


def saved(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    "name, image, expected",
    [
        ("a.png", Image.fromarray(COLORS), COLORS),
        ("a.bmp", Image.fromarray(COLORS), COLORS),
        ("a.tif", Image.fromarray(COLORS), COLORS),
        ("a.png", Image.fromarray(RAMP), GREY),
        ("a.gif", Image.fromarray(RAMP), GREY),
        ("a.png", Image.fromarray(RAMP > 99), np.where(GREY > 99, 255, 0)),
        ("a.png", Image.fromarray(RAMP.astype(np.uint16) * 257), GREY),
        ("a.tif", Image.fromarray(RAMP.astype(np.int32) * 257), GREY),
        ("a.png", Image.fromarray(COLORS).quantize(20), COLORS),
        ("a.png", Image.fromarray(np.dstack([COLORS, RAMP * 0])), COLORS * 0 + 255),
        ("a.png", Image.fromarray(np.dstack([COLORS, RAMP * 0 + 255])), COLORS),
        ("a.png", Image.fromarray(np.dstack([RAMP, RAMP * 0 + 255]), "LA"), GREY),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, name, image, expected):
    photo = photos.read(saved(tmp_path / name, image))
    assert photo.dtype == np.uint8
    np.testing.assert_array_equal(photo, expected)


def test_jpegs_are_turned_as_the_camera_was_held(tmp_path):
    upright = Image.fromarray(np.kron(COLORS, np.ones((16, 16, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    file = saved(tmp_path / "a.jpg", upright.rotate(90, expand=True), exif=exif, quality=98)
    assert np.abs(photos.read(file).astype(int) - np.asarray(upright))[8::16, 8::16].max() < 12


@pytest.mark.parametrize("content", [b"", b"no photo", b"\x89PNG\r\n\x1a\n", "cut"])
def test_what_is_no_photo_is_named(tmp_path, content):
    file = saved(tmp_path / "a.png", Image.effect_noise((64, 64), 90))
    file.write_bytes(file.read_bytes()[:900] if content == "cut" else content)
    with pytest.raises(DataError, match=r"a\.png is no photo: .") as e:
        photos.read(file)
    assert "\n" not in str(e.value)


def test_floats_and_bombs_are_refused(tmp_path, monkeypatch):
    file = saved(tmp_path / "a.tif", Image.fromarray(RAMP.astype(np.float32)))
    with pytest.raises(DataError, match="its values are floats"):
        photos.read(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    with pytest.raises(DataError, match="a.png is no photo: .*exceeds limit"):
        photos.read(saved(tmp_path / "a.png", Image.fromarray(COLORS)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12)  # Pillow warns of it, and reads it
    assert photos.read(tmp_path / "a.png").shape == (4, 5, 3)


def test_folders_files_and_patterns(tmp_path):
    for name in ("b.JPG", "a.png", "a.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "deep").mkdir()
    found, others = photos.find([str(tmp_path), str(tmp_path / "a.*")])
    assert [f.name for f in found] == ["a.jpg", "a.png", "b.JPG"]
    assert [f.name for f in others] == ["notes.txt"]
    assert photos.names(found) == ["a_jpg", "a_png", "b"]
    assert photos.names([tmp_path / "x.png", tmp_path / "deep" / "X.png"]) == ["x_png", "X_png_2"]
    assert photos.names([tmp_path / "sheet.png.jpg"]) == ["sheet_png"]
    for place, text in (("deep", "holds no photos"), ("c.png", "does not exist")):
        with pytest.raises(DataError, match=text):
            photos.find([str(tmp_path / place)])
