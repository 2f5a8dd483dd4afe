"""SynthScenes on disk: what is read is what was rendered, and damage is noticed."""

import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from mtl_vision.data import DATASETS, SYNTHETIC, records, verify
from mtl_vision.data.synthetic import HUMAN_PARTS, KINDS, SEMSEG, SceneSource
from mtl_vision.data.synthetic.plans import plan, with_counts
from mtl_vision.errors import DataError
from mtl_vision.tasks import KINDS as ORDER

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = "32-6-1-2"
SCRIPT = [sys.executable, "scripts/prepare_data.py", "--config", CONFIG]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [*SCRIPT, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    done = run("--dataset", "synth_pascal,synth_nyud", "--data_dir", root, "--verify")
    assert done.returncode == 0, done.stderr
    assert "synth_nyud/32-6-1-2 train: verified" in done.stdout
    return root


@pytest.mark.parametrize("name", SYNTHETIC)
def test_files_give_what_was_rendered(prepared, name):
    kinds = DATASETS[name].kinds
    source = pickle.loads(pickle.dumps(DATASETS[name].source(prepared, CONFIG, "train", kinds)))
    rendered = SceneSource(name, "train", 6, plan(CONFIG).sizes[name], kinds)
    by_id = {e["id"]: e for e in source}
    assert len(by_id) == len(source) == 6
    for expected in rendered:
        example = by_id[expected["id"]]
        assert list(example) == list(expected)
        for key, value in expected.items():
            assert np.array_equal(value, example[key]), key
            assert key == "id" or value.dtype == example[key].dtype


def test_only_the_kinds_asked_for_are_read(prepared):
    source = DATASETS["synth_nyud"].source(prepared, CONFIG, "test", ("edge",))
    assert set(source[1]) == {"id", "image", "edge"}
    with pytest.raises(IndexError, match="has 2 records"):
        source[2]


def test_check_names_the_command(tmp_path, prepared):
    command = f"--dataset synth_nyud --config 128 --data_dir {tmp_path}"
    with pytest.raises(DataError, match=f"not prepared.*{command}"):
        DATASETS["synth_nyud"].check(tmp_path, "128", "train", ("depth",))
    with pytest.raises(DataError, match="no split 'dev', only .*train"):
        DATASETS["synth_nyud"].check(prepared, CONFIG, "dev", ("depth",))
    with pytest.raises(DataError, match="no 'sal' labels"):
        DATASETS["synth_nyud"].check(prepared, CONFIG, "train", ("sal",))
    DATASETS["synth_nyud"].check(prepared, CONFIG, "train", ("depth",))


def test_a_damaged_record_is_named(tmp_path):
    assert run("--dataset", "synth_pascal", "--data_dir", tmp_path).returncode == 0
    (file,) = tmp_path.glob("synth_pascal/*/*/*train.array_record*")
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 16] = bytes(b ^ 0xFF for b in data[middle : middle + 16])
    file.write_bytes(data)
    source = DATASETS["synth_pascal"].source(tmp_path, CONFIG, "train", ("semseg",))
    with pytest.raises(
        DataError, match=rf"synth_pascal/{CONFIG}.*'train': record \d+ of 6 is damaged"
    ):
        list(source)


def test_a_killed_preparation_leaves_nothing_complete(tmp_path):
    arguments = ["--dataset", "synth_pascal", "--data_dir", str(tmp_path), "--train", "4000"]
    process = subprocess.Popen(
        [*SCRIPT, *arguments], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    with process.stderr as progress:
        while "1/4000" not in progress.read(60):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(DataError, match="not prepared"):
        DATASETS["synth_pascal"].check(tmp_path, "32-4000-1-2", "train", ())
    assert run("--dataset", "synth_pascal", "--data_dir", tmp_path).returncode == 0
    DATASETS["synth_pascal"].check(tmp_path, CONFIG, "train", ())


def test_a_second_call_changes_nothing_and_draws_sheets(prepared, tmp_path):
    files = {p: p.stat().st_mtime_ns for p in prepared.rglob("*.array_record*")}
    arguments = ("--dataset", "synth_nyud", "--data_dir", prepared, "--inspect", tmp_path)
    done = run(*arguments, "--rows", "2")
    assert done.returncode == 0, done.stderr
    assert "already prepared" in done.stdout and "normals: mean" in done.stdout
    assert files == {p: p.stat().st_mtime_ns for p in prepared.rglob("*.array_record*")}
    height, width, _ = cv2.imread(str(tmp_path / f"synth_nyud_{CONFIG}_test.png")).shape
    assert height > 2 * 28 and width > 5 * 36
    assert "normals: mean" in (tmp_path / f"synth_nyud_{CONFIG}_test.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--dataset is missing; give one or more of synth_pascal, synth_nyud, "),
        (("--dataset", "synth_nyu"), "Did you mean 'synth_nyud'?"),
        (
            ("--dataset", "synth_nyud", "--config", "100"),
            "the SynthScenes config '100' is not known",
        ),
        (("--dataset", "synth_nyud", "--train", "0"), "train"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path):
    done = run(*arguments, "--data_dir", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_plans_by_name():
    assert plan("128").sizes == {"synth_pascal": (128, 128), "synth_nyud": (112, 144)}
    assert plan("512").sizes["synth_nyud"] == (448, 576)
    assert plan("64-5-6-7").counts == {"train": 5, "val": 6, "test": 7}
    assert with_counts(plan("64"), {"train": 9, "val": None, "test": None}).name == "64-9-200-500"
    with pytest.raises(DataError, match="fixed"):
        with_counts(plan("quickstart"), {"train": 9})
    with pytest.raises(DataError, match="not known"):
        plan("64-5-0-7")


@pytest.mark.parametrize("name", SYNTHETIC)
def test_tasks_of_a_dataset(name):
    made = DATASETS[name].tasks("B")
    assert tuple(made) == DATASETS[name].kinds == KINDS[name]
    assert list(made) == [k for k in ORDER if k in made]
    assert made["semseg"].names == SEMSEG[name]
    assert made["edge"].max_dist == {"synth_pascal": 0.0075, "synth_nyud": 0.011}[name]


def test_packing_keeps_what_files_can_hold():
    depth = np.array([[0, 0.5, 1.2344, 9.9996]], np.float32)
    packed = records.pack("depth", depth)
    assert packed.tolist() == [[0, 500, 1234, 10000]]
    assert np.array_equal(records.pack("depth", records.unpack("depth", packed)), packed)
    vectors = np.random.default_rng(0).standard_normal((50, 40, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[0] = 0
    back = records.unpack("normals", records.pack("normals", vectors))
    assert not back[0].any()
    np.testing.assert_allclose(np.linalg.norm(back[1:], axis=-1), 1, atol=1e-6)
    cosine = (back[1:] * vectors[1:]).sum(-1)
    assert np.rad2deg(np.arccos(np.clip(cosine, -1, 1))).mean() < 0.25


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("semseg", np.full((4, 4), 21, np.uint8), "holds class 21 of 21"),
        ("sal", np.full((4, 4), 2, np.uint8), "holds 2, expected 0 and 1"),
        ("depth", np.full((4, 4), -1, np.float32), "holds -1.0 m"),
        ("normals", np.full((4, 4, 3), 1.5, np.float32), "holds 1.5000, expected -1 to 1"),
        ("edge", np.zeros((4, 5), np.uint8), r"uint8 \(4, 5\), expected uint8 \(4, 4\)"),
    ],
)
def test_verify_names_what_is_wrong(kind, value, message):
    example = {"id": "a1", "image": np.zeros((4, 4, 3), np.uint8), kind: value}
    classes = {"semseg": SEMSEG["synth_pascal"], "human_parts": HUMAN_PARTS}
    with pytest.raises(DataError, match=f"a1: {kind} .*{message}"):
        verify.check_example(example, classes)
