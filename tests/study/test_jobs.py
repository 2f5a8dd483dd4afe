"""Runs of a study: checked first, finished ones left, failures named."""

import json
import shlex
import sys

import pytest

from mtl_vision.errors import ConfigError, RunError
from mtl_vision.study import jobs
from mtl_vision.train import folder
from tests import tiny

# ml_collections loads config files with it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
QUICKSTART = str(tiny.ROOT / "configs" / "quickstart.py")


def job(name, *overrides):
    return jobs.Job(name, QUICKSTART, overrides)


def test_a_job_is_the_config_with_its_overrides():
    found = jobs.values(job("a", "optim.lr=0.5", "seed=3", "optim.aggregator.name=pcgrad"))
    assert (found["optim"]["lr"], found["seed"]) == (0.5, 3)
    assert found["optim"]["aggregator"] == {"name": "pcgrad"}


@pytest.mark.parametrize(
    ("override", "named"),
    [("optim.rate=1", "rate"), ("optim.lr=abc", "lr"), ("optim.aggregator.name=x", "aggregator")],
)
def test_a_wrong_override_is_said_before_anything_runs(tmp_path, override, named):
    with pytest.raises(ConfigError, match=f"second.*{named}"):
        jobs.check_all([job("first"), job("second", override)], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("adapter.name=phm", "adapter.ratio=5"), "ratio"),
        (("trainable=((r'head.*',True),(r'.*',False),(r'neck.*',True))",), "trainable"),
        (("optim.lr_scale=((r'.*',1.0),(r'backbone/.*',0.1))",), "lr_scale"),
    ],
)
def test_what_cannot_be_built_is_said_before_anything_runs(tmp_path, overrides, named):
    with pytest.raises(ConfigError, match=f"second: .*{named}"):
        jobs.check_all([job("first"), job("second", *overrides)], tmp_path)
    assert not list(tmp_path.iterdir())


def test_finished_runs_are_left_and_strangers_refused(tmp_path):
    two = [job("a", "seed=1"), job("b", "seed=2")]
    folder.claim(tmp_path / "a", jobs.values(two[0]), tiny.ROOT)
    assert jobs.check_all(two, tmp_path) == two
    (tmp_path / "a" / "final_metrics.json").write_text("{}")
    assert jobs.check_all(two, tmp_path) == two[1:]
    with pytest.raises(RunError, match="seed"):
        jobs.check_all([job("a", "seed=5")], tmp_path)


def test_runs_all_and_names_those_that_fail(tmp_path, monkeypatch):
    code = "import sys; print('error: no data'); sys.exit(sys.argv[1] == 'b')"
    monkeypatch.setattr(jobs, "command", lambda job, out: [sys.executable, "-c", code, job.name])
    said = []
    with pytest.raises(RunError, match=r"1 of 3 runs failed: b \(error: no data\)"):
        jobs.run([job("a"), job("b"), job("c")], tmp_path, parallel=2, say=said.append)
    assert sorted(line.split()[1] for line in said) == ["a:", "b:", "c:"]
    assert (tmp_path / "c" / "train.log").read_text() == "error: no data\n"


def test_workers_share_out_the_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5")
    assert jobs.shares(1) == [({}, frozenset())]
    assert [share.environment for share in jobs.shares(2)] == [
        {"CUDA_VISIBLE_DEVICES": "0,5"},
        {"CUDA_VISIBLE_DEVICES": "2"},
    ]
    with pytest.raises(ConfigError, match="3 GPUs"):
        jobs.shares(4)


def test_without_gpus_workers_share_out_the_cores(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(jobs.os, "sched_getaffinity", lambda pid: {4, 7, 9})
    monkeypatch.setattr(jobs.pathlib.Path, "glob", lambda self, pattern: [])
    assert [share.cores for share in jobs.shares(2)] == [{4, 9}, {7}]
    assert [share.cores for share in jobs.shares(5)] == [{4}, {7}, {9}, set(), set()]


def test_job_lists_are_commands(tmp_path):
    text = jobs.job_list([job("a", "data.root='x y'"), job("b")], tmp_path)
    first = shlex.split(text.splitlines()[0])
    assert first[1:] == [
        str(tiny.ROOT / "scripts/train.py"),
        f"--config={QUICKSTART}",
        "--config.data.root='x y'",
        f"--workdir={tmp_path / 'a'}",
    ]
    script = jobs.slurm_array([job("a"), job("b")], tmp_path / "jobs.txt")
    assert "#SBATCH --array=1-2\n" in script and str(tmp_path / "jobs.txt") in script
    assert json.dumps(text)  # plain text
