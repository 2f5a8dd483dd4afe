import json
import subprocess
import sys

import pytest

from mtl_vision.errors import DataError, RunError
from mtl_vision.train import folder
from tests import tiny

VALUES = {"seed": 0, "run": {"steps": 10, "log_every": 1}, "data": {"root": "a", "x": {"root": ""}}}


def changed(**fields):
    return {**VALUES, **fields}


def test_the_first_run_records_its_config(tmp_path):
    folder.claim(tmp_path / "run", VALUES, tmp_path)
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["config"] == VALUES
    assert saved["environment"]["jax"] and saved["environment"]["commit"] == "unknown"
    assert folder.read(tmp_path / "run") == VALUES


@pytest.mark.parametrize(
    "values",
    [
        VALUES,
        changed(run={"steps": 10, "log_every": 5}),
        changed(data={"root": "b", "x": {"root": "c"}}),
    ],
)
def test_a_run_goes_on_where_no_number_changes(tmp_path, values):
    folder.claim(tmp_path, VALUES, tmp_path)
    folder.claim(tmp_path, values, tmp_path)


@pytest.mark.parametrize(
    "values, message",
    [
        (changed(seed=1), "seed: 0 there, 1 now"),
        (changed(run={"steps": 20, "log_every": 1}), "run.steps: 10 there, 20 now"),
        (changed(extra=(1, 2)), "extra: '(absent)' there, [1, 2] now"),
    ],
)
def test_another_config_is_refused_and_nothing_changes(tmp_path, values, message):
    folder.claim(tmp_path, VALUES, tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(RunError, match="belongs to another config") as e:
        folder.claim(tmp_path, values, tmp_path)
    assert message in str(e.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_tuples_and_lists_are_the_same_config(tmp_path):
    folder.claim(tmp_path, changed(size=(1, 2)), tmp_path)
    folder.claim(tmp_path, changed(size=[1, 2]), tmp_path)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(DataError, match="no run folder"):
        folder.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_config_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match="cannot be read"):
        folder.read(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(DataError, match="cannot be used"):
        folder.claim(tmp_path / "run", VALUES, tmp_path)


def test_a_folder_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(DataError, match="cannot be used"), folder.alone(tmp_path):
        pass


def test_two_commands_do_not_train_in_one_folder(tmp_path):
    code = (
        "import pathlib, sys\n"
        "from mtl_vision.errors import RunError\n"
        "from mtl_vision.train import folder\n"
        "try:\n"
        "    with folder.alone(pathlib.Path(sys.argv[1])):\n"
        "        print('alone')\n"
        "except RunError as e:\n"
        "    print(e)\n"
    )
    again = [sys.executable, "-c", code, tmp_path]
    with folder.alone(tmp_path):
        assert "is in use" in subprocess.check_output(again, text=True, cwd=tiny.ROOT)
    assert subprocess.check_output(again, text=True, cwd=tiny.ROOT) == "alone\n"
