"""A run that is killed without warning, and started again by the same command."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np

from mtl_vision import rules
from mtl_vision.check import check
from mtl_vision.train import folder, setup
from tests import tiny
from tests.conftest import XLA_FLAGS

# How often the run is killed, each time somewhere else.
KILLS = int(os.environ.get("MTL_VISION_KILLS", "1"))
STEPS = 12

CONFIG = """
import sys
sys.path.insert(0, {root!r})
import ml_collections
from tests import tiny

def get_config():
    return ml_collections.ConfigDict(
        tiny.small(run__steps={steps}, run__save_every=2, run__eval_every=6)
    )
"""


def start(tmp_path, workdir):
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(root=str(tiny.ROOT), steps=STEPS))
    command = [sys.executable, "scripts/train.py", f"--config={config}", f"--workdir={workdir}"]
    environment = os.environ | {"XLA_FLAGS": XLA_FLAGS, "PYTHONPATH": str(tiny.ROOT)}
    with (tmp_path / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=tiny.ROOT, env=environment, stdout=log, stderr=log)


def last_step(workdir):
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"]
    except (OSError, ValueError, IndexError):
        return 0


def state_of(workdir, monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)
    cfg = check(folder.read(workdir))
    _, made = setup.start(cfg)
    leaves = rules.flatten(setup.saved_state(workdir, made.state, None))
    leaves["key"] = jax.random.key_data(leaves["key"])
    return {path: np.asarray(x) for path, x in leaves.items()}


def test_a_killed_run_ends_bit_for_bit_like_one_that_was_not(tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(tmp_path, whole)
    assert process.wait() == 0, (tmp_path / "log").read_text()

    chance = random.Random(0)
    for kill in range(KILLS):
        at = chance.uniform(kill, kill + 1) * STEPS / KILLS  # a moment of its own for each
        process = start(tmp_path, killed)
        while last_step(killed) < at and process.poll() is None:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start(tmp_path, killed)
    assert process.wait() == 0, (tmp_path / "log").read_text()

    final = [json.loads((w / "final_metrics.json").read_text()) for w in (whole, killed)]
    assert final[0] == final[1]
    lines = [(w / "metrics.jsonl").read_text().splitlines() for w in (whole, killed)]
    assert [json.loads(x)["step"] for x in lines[0]] == [json.loads(x)["step"] for x in lines[1]]
    expected, actual = state_of(whole, monkeypatch), state_of(killed, monkeypatch)
    assert expected["step"] == STEPS
    for path, x in expected.items():
        np.testing.assert_array_equal(actual[path], x, err_msg=path)
