import io
import json
import sys

import numpy as np
import pytest

from mtl_vision.train import log


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scalars_are_lines_and_tensorboard_events(tmp_path):
    writer = log.Log(tmp_path, step=0)
    writer.scalars(5, {"loss": np.float32(0.5)})
    writer.picture(5, "panel", np.zeros((4, 6, 3), np.uint8))
    writer.close()
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 5, "loss": 0.5}]
    assert (tmp_path / "panels/panel_000005.png").exists()
    assert b"loss" in next((tmp_path / "tensorboard").iterdir()).read_bytes()


def test_going_on_drops_what_came_after_the_checkpoint(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"step": 4, "a')
    log.Log(tmp_path, step=2).close()
    assert [line["step"] for line in lines(file)] == [1, 2]


def test_other_hosts_write_nothing(tmp_path):
    writer = log.Log(tmp_path, step=0, active=False)
    writer.scalars(1, {"loss": 1.0})
    writer.picture(1, "x", np.zeros((2, 2, 3), np.uint8))
    writer.close()
    assert not list(tmp_path.iterdir())


def test_json_is_whole_or_old(tmp_path):
    path = tmp_path / "a.json"
    log.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        log.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_progress_counts_images_and_time_to_go(monkeypatch):
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    progress = log.Progress(steps=100, start=50, images=16, stream=stream)
    # 10 steps of 16 images in 2 s; 40 steps are left at 5 a second.
    assert progress.show(60, {"total": 0.25}) == pytest.approx(80)
    assert stream.getvalue() == "step 60/100  80.0 img/s  eta 8s  total 0.25\n"


@pytest.mark.parametrize("seconds, text", [(8, "8s"), (185, "3m05s"), (3725, "1h02m")])
def test_duration(seconds, text):
    assert log.duration(seconds) == text


def test_table_aligns():
    assert log.table([["a", "n"], ["bb", "1"], ["c", "22"]], right=(1,)) == (
        "a    n\n--  --\nbb   1\nc   22"
    )


def test_a_machine_without_tensorboard_still_logs(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    writer = log.Log(tmp_path, step=0)
    writer.scalars(1, {"loss": 1.0})
    writer.picture(1, "x", np.zeros((2, 2, 3), np.uint8))
    writer.close()
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]
    assert "tensorboardX is not installed" in caplog.text


def test_a_package_that_is_not_there_is_said_to_be_absent():
    assert log.version("no-such-package") == "absent" != log.version("numpy")
