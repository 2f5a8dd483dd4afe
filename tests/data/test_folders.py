"""A dataset of one's own: the example of docs/datasets.md, and what may be wrong with a folder."""

import pathlib
import re
import types

import cv2
import jax
import numpy as np
import pytest

from mtl_vision.check import check
from mtl_vision.data import DATASETS, Dataset, folders, records
from mtl_vision.errors import DataError
from mtl_vision.train import loop
from tests import tiny

KINDS = ("semseg", "depth", "normals", "sal")
CLASSES = {"semseg": ("soil", "plant", "path")}


def make(root: pathlib.Path, size=(24, 32), count=5):
    """A folder of gardens: a path that crosses soil, and plants beside it."""
    rng = np.random.default_rng(0)
    H, W = size
    for split, ids in {"train": range(count - 2), "val": range(count - 2, count)}.items():
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text("".join(f"g{i}\n" for i in ids))
        for i in ids:
            semseg = np.zeros(size, np.uint8)
            semseg[:, W // 3 : W // 2] = 2
            semseg[H // 2 :, W // 2 :] = 1
            semseg[0] = 255
            normals = np.zeros((*size, 3), np.float32)
            normals[1:] = (0, 0.6, -0.8)
            labels = {"semseg": semseg, "sal": (semseg == 1).astype(np.uint8), "normals": normals}
            labels["depth"] = rng.integers(0, 9000, size).astype(np.float32) / 1000
            image = 80 * np.minimum(semseg, 3)[..., None] + rng.integers(0, 15, (*size, 3))
            for kind, label in {"images": image, **labels}.items():
                (root / kind).mkdir(exist_ok=True)
                stored = image if kind == "images" else records.pack(kind, label)
                stored = np.ascontiguousarray(stored[..., ::-1] if stored.ndim == 3 else stored)
                stored = stored.astype(np.uint8 if kind == "images" else stored.dtype)
                assert cv2.imwrite(str(root / kind / f"g{i}.png"), stored)


def source(root, kinds=KINDS, split="train"):
    own = folders.entry("garden", KINDS, classes=CLASSES)
    return own["source"](str(root), "", split, kinds)


def test_what_the_files_hold_comes_out(tmp_path):
    make(tmp_path / "garden")
    examples = source(tmp_path)
    assert len(examples) == 3 and [e["id"] for e in examples] == ["g0", "g1", "g2"]
    one = examples[0]
    assert one["image"].shape == (24, 32, 3) and one["image"].dtype == np.uint8
    assert one["semseg"][0, 0] == 255 and one["semseg"][12:, 20].tolist() == [1] * 12
    assert one["depth"].dtype == np.float32 and 0 < one["depth"].max() < 9
    np.testing.assert_allclose(one["normals"][5, 5], (0, 0.6, -0.8), atol=0.005)
    assert not one["normals"][0].any()
    assert set(source(tmp_path, ("sal",))[1]) == {"id", "image", "sal"}


def damage(root, case):
    file = root / "semseg" / "g1.png"
    if case == "label":
        file.unlink()
        (root / "sal" / "g2.png").unlink()
    elif case == "image":
        (root / "images" / "g1.png").unlink()
    elif case == "list":
        (root / "train.txt").unlink()
    elif case == "empty":
        (root / "train.txt").write_text("\n")
    elif case == "folder":
        (root / "depth").rename(root / "depths")
    elif case == "class":
        cv2.imwrite(str(file), np.full((24, 32), 3, np.uint8))
    elif case == "size":
        cv2.imwrite(str(file), np.zeros((24, 31), np.uint8))
    elif case == "bits":
        cv2.imwrite(str(root / "depth" / "g1.png"), np.zeros((24, 32), np.uint8))
    elif case == "cut":
        file.write_bytes(file.read_bytes()[:20])


@pytest.mark.parametrize(
    "case, text",
    [
        ("label", r"2 files of the split 'train' are missing, first .*semseg/g1.png"),
        ("image", r"1 files .*images/g1.jpg"),
        ("list", r"train.txt is missing; it lists the ids"),
        ("empty", r"train.txt lists no ids"),
        ("folder", r"garden/depth is missing"),
        ("class", r"semseg/g1.png holds the class 3; semseg has the classes 0 to 2"),
        ("size", r"semseg/g1.png has uint8 pixels of shape \(24, 31\), expected uint8 \(24, 32\)"),
        ("bits", r"depth/g1.png has uint8 pixels .*expected uint16"),
        ("cut", r"semseg/g1.png is no image"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_with_the_file(tmp_path, case, text):
    make(tmp_path / "garden")
    damage(tmp_path / "garden", case)
    with pytest.raises(DataError, match=text):
        list(source(tmp_path))


def blocks() -> list[str]:
    text = (tiny.ROOT / "docs" / "datasets.md").read_text()
    section = text.split("## Your own dataset")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_the_example_of_the_documentation_trains(tmp_path, monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)
    monkeypatch.syspath_prepend(str(tiny.ROOT))
    file, line, config = (compile(code, "datasets.md", "exec") for code in blocks())
    garden, configured = types.ModuleType("garden"), {}
    exec(file, garden.__dict__)
    monkeypatch.setitem(DATASETS, "garden", None)  # gone again after the test
    exec(line, {"DATASETS": DATASETS, "Dataset": Dataset, "garden": garden})
    exec(config, configured)
    make(tmp_path / "garden", size=(30, 40))
    values = configured["get_config"]().to_dict()
    # Smaller and shorter than the command says.
    small = tiny.values()
    values |= {k: small[k] for k in ("backbone", "decoder", "mesh", "schedule")}
    values["data"] |= {"root": str(tmp_path), "batch": 2, "workers": 0}
    values["data"]["garden"]["size"] = (32, 40)
    values["eval"] |= {"batch": 2, "workers": 0}
    values["schedule"]["warmup"] = 1
    values["run"] |= {"steps": 2, "log_every": 1, "eval_every": 0}
    final = loop.train(check(values), tmp_path / "run")
    assert final["images"] == {"garden": 2}
    assert {"garden/semseg/mIoU", "garden/sal/maxF_invpt"} <= final["metrics"].keys()
