"""Photos through a model and back: where pixels land, whose files are touched, what is said."""

import json

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from mtl_vision import build
from mtl_vision.check import check
from mtl_vision.data.transforms import eval_transform
from mtl_vision.errors import DataError
from mtl_vision.predict import album
from mtl_vision.predict.album import Album
from mtl_vision.predict.canvas import at_size, canvas, uncovered, winners
from mtl_vision.predict.run import Reader, predictions
from mtl_vision.report import page
from mtl_vision.viz import panels
from mtl_vision.viz.contact import Cell
from tests import tiny

CFG = check(tiny.values())
GROUPS = build.groups(CFG)
TASKS = {task.name: task for group in GROUPS.values() for task in group}
SIZE = (48, 64)
PHOTOS = [(48, 64), (20, 30), (31, 5), (300, 400), (401, 299), (37, 700), (1, 1), (600, 1)]


def ramp(shape):
    """A smooth photo whose colours say where a pixel is: red from left to right, green down."""
    H, W = shape
    y, x = ((np.arange(n) + 0.5) / n for n in (H, W))
    planes = np.broadcast_to(x, (H, W)), np.broadcast_to(y[:, None], (H, W)), np.full((H, W), 0.5)
    return (np.stack(planes, -1) * 255).round().astype(np.uint8)


@pytest.mark.parametrize("protocol", ["A", "B"])
@pytest.mark.parametrize("shape", PHOTOS)
def test_what_is_seen_at_a_pixel_comes_back_to_it(protocol, shape):
    photo = ramp(shape)
    made = canvas(photo, protocol, SIZE)
    assert made.image.shape == (*SIZE, 3) and made.image.dtype == np.float32
    sides = list(zip(shape, SIZE, strict=True))
    factor = min(1, *((2 if protocol == "A" else 1) * kept / n for n, kept in sides))
    for channel, (n, kept) in enumerate(reversed(sides)):
        seen = panels.to_rgb(made.image)[..., channel].astype(np.float32)
        back = at_size(TASKS["synth_nyud/depth"], uncovered(seen, made.shape), shape)
        assert back.shape == shape
        error = np.abs(back - photo[..., channel])
        pixel = 255 / max(min(kept, round(n * factor)), 1)  # what is left of the photo, at least
        assert error.max() <= pixel / 2 + 3
        assert error[error.shape[0] // 4 : -(error.shape[0] // 4) or None].mean() <= pixel / 6 + 2


def test_a_photo_that_fits_is_what_the_evaluation_sees():
    photo = ramp((40, 50))
    for protocol in ("A", "B"):
        evaluated = eval_transform(protocol, size=SIZE, kinds=())({"id": "", "image": photo})
        np.testing.assert_array_equal(canvas(photo, protocol, SIZE).image, evaluated["image"])


def test_classes_are_those_with_the_largest_enlarged_score():
    scores = np.random.default_rng(0).normal(size=(6, 8, 5)).astype(np.float32)
    np.testing.assert_array_equal(winners(scores, (6, 8)), scores.argmax(-1))
    scores[..., 3] = -9  # wins nowhere
    large = np.stack([cv2.resize(scores[..., k], (40, 33)) for k in range(5)], -1)
    np.testing.assert_array_equal(winners(scores, (33, 40)), large.argmax(-1))


def test_normals_keep_their_length():
    normals = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    found = at_size(TASKS["synth_nyud/normals"], normals, (50, 33))
    assert found.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float32), axis=-1), 1, atol=2e-3)


def echo(name, batches):
    """A stand-in for a model: depth is the red of the canvas, the rest is constant."""

    def step(images):
        batches.append(images.shape)
        constant = {
            t.kind: np.ones((*images.shape[:3], t.channels if t.names else 3), np.float32)
            for t in GROUPS[name]
        }
        flat = {k: np.full(images.shape[:3], 0.5, np.float32) for k in ("edge", "sal")}
        return constant | flat | {"depth": images[..., 0]}

    return step


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, shape in enumerate([(40, 60), (9, 7), (90, 120)]):
        Image.fromarray(ramp(shape)).save(folder / f"{i}.png")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff cut")
    return sorted(folder.iterdir())


def opened(file):
    return cv2.imread(str(file), cv2.IMREAD_UNCHANGED)


def fill(out, photos, about=None):
    """Writes an album of the stand-in; returns what failed and the batches that it saw."""
    batches, failed = [], {}
    steps = {name: echo(name, batches) for name in GROUPS}
    made = Album(out, GROUPS, photos)
    sizes = {name: CFG.datasets[name].size for name in GROUPS}
    for found in predictions(steps, GROUPS, Reader("B", sizes, 2), photos, failed):
        made.add(found)
    made.finish("three photos", failed, about or {"step": 3})
    return failed, batches


def test_an_album_has_every_task_of_every_photo_at_its_size(tmp_path, photos):
    failed, batches = fill(tmp_path / "out", photos)
    assert [p.name for p in failed] == ["cut.jpg"]
    sizes = [CFG.datasets[name].size for name in GROUPS]
    assert batches == [(2, *size, 3) for size in sizes] * 2  # one shape per dataset
    said = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert said["photos"]["2"]["size"] == [90, 120] and list(said["failed"]) == [str(photos[-1])]
    for i, (H, W) in enumerate([(40, 60), (9, 7), (90, 120)]):
        for task in TASKS.values():
            folder = tmp_path / "out" / str(i)
            assert opened(folder / album.picture_of(task)).shape == (H, W, 3)
            file = folder / album.array_of(task)
            value = opened(file) if task.names else np.load(file)
            assert value.shape[:2] == (H, W)
            assert str(value.dtype) in said["tasks"][task.name]["array"]
    written = {str(f.relative_to(tmp_path / "out")) for f in (tmp_path / "out").rglob("*.*")}
    assert written == {*said["files"], "predictions.json"}
    text = (tmp_path / "out" / "index.html").read_text()
    assert text.count("<section") == 3 and 'href="0/synth_nyud_depth.png"' in text
    sheet = opened(tmp_path / "out" / "sheet.png")
    assert sheet.shape[1] == 2 * 28 + 10 * (216 + 10) - 10


def test_files_of_others_are_not_touched(tmp_path, photos):
    out = tmp_path / "out"
    (out / "0").mkdir(parents=True)
    mine = out / "0" / "synth_nyud_depth.npy"
    mine.write_text("mine")
    (out / "letter.txt").write_text("mine")
    with pytest.raises(DataError, match="0/synth_nyud_depth.npy is there and was not written by"):
        fill(out, photos)
    assert mine.read_text() == "mine" and len(list(out.iterdir())) == 2
    mine.unlink()
    (out / "1").write_text("mine")
    with pytest.raises(DataError, match="out/1 is there"):
        fill(out, photos)
    (out / "1").unlink()
    fill(out, photos)
    fill(out, photos[1:], {"step": 4})  # its own files it writes again
    assert (out / "letter.txt").read_text() == "mine"
    said = json.loads((out / "predictions.json").read_text())
    assert said["step"] == 4 and "0/synth_nyud_depth.npy" in said["files"]


@pytest.mark.parametrize("content", ["{", "[]", '{"files": []}', '{"format": 1, "files": 2}'])
def test_a_list_that_is_none_is_an_error(tmp_path, photos, content):
    (tmp_path / "predictions.json").write_text(content)
    with pytest.raises(DataError, match="is not a list of predictions"):
        fill(tmp_path, photos)


def test_an_album_needs_a_folder(tmp_path, photos):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="cannot be used"):
        fill(tmp_path / "out" / "deep", photos)


def test_the_batch_is_no_larger_than_the_photos(monkeypatch):
    from mtl_vision import parallel
    from mtl_vision.predict.run import reader

    mesh = parallel.make_mesh(data=2, devices=jax.devices()[:2])
    for count, batch in ((1, 2), (3, 4), (9, 4)):
        assert reader(CFG, mesh, ["synth_nyud"], count).batch == batch


def test_the_page_shows_names_as_text():
    cell = Cell(np.zeros((3, 4, 3), np.uint8), (("#800000", "<b> & co"),))
    figure = album.figure(("set", "depth"), cell, "a/b's.png")
    template = page.environment().get_template("predictions.html")
    text = template.render(title="<title>", sections=[[figure]])
    assert "&lt;b&gt; &amp; co" in text and "<h1>&lt;title&gt;</h1>" in text
    assert 'href="a/b&#39;s.png"' in text and "data:image/jpeg;base64," in text
