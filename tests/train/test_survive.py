"""Runs that are stopped, meet numbers that are none, or a disk that is full."""

import json
import os
import resource
import signal

import jax
import numpy as np
import pytest

from mtl_vision import build, rules
from mtl_vision.check import check
from mtl_vision.errors import DataError, Requeue, RunError
from mtl_vision.train import checkpoint, folder, loop, setup, survive
from tests import tiny


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)


def run(workdir, **fields):
    values = tiny.small(run__panels=0, **fields)
    folder.claim(workdir, values, tiny.ROOT)
    return loop.train(check(values), workdir)


def state_of(workdir):
    cfg = check(folder.read(workdir))
    leaves = rules.flatten(setup.saved_state(workdir, setup.start(cfg)[1].state, None))
    leaves["key"] = jax.random.key_data(leaves["key"])
    return {path: np.asarray(x) for path, x in leaves.items()}


def same(a, b):
    expected, actual = state_of(a), state_of(b)
    for path, x in expected.items():
        np.testing.assert_array_equal(actual[path], x, err_msg=path)


def feed(patch, order=None, *, bad=()):
    """Gives the run the batches in another order, those in `bad` without numbers."""
    real = build.train_batches

    def batches(cfg, first):
        for i in (order or range(10**6))[first:]:
            batch = next(real(cfg, i))
            if i in bad:
                batch["synth_nyud"]["image"][:] = np.nan
            yield batch

    patch.setattr(build, "train_batches", batches)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *args: first)
        workdir = tmp_path_factory.mktemp("whole")
        return workdir, run(workdir)


def test_a_signal_saves_and_the_same_command_goes_on(whole, tmp_path, monkeypatch):
    reference, final = whole
    rhythm, shown = dict(run__save_every=4, run__log_every=3), loop.look_at_tasks
    before = [signal.getsignal(number) for number in survive.ASKED]
    for number, step in zip(survive.ASKED, (3, 4), strict=True):

        def stop(*args, number=number, **options):
            os.kill(os.getpid(), number)
            return shown(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "look_at_tasks", stop)
            with pytest.raises(Requeue, match=f"Step {step} is saved"):
                run(tmp_path, **rhythm)
        assert step in checkpoint.steps(tmp_path / "checkpoints")
    assert [signal.getsignal(number) for number in survive.ASKED] == before
    assert run(tmp_path, **rhythm) == final
    same(reference, tmp_path)


def test_a_signal_in_the_last_evaluation_ends_it(whole, tmp_path, monkeypatch):
    reference, final = whole
    with monkeypatch.context() as patch:
        patch.setattr(
            loop.Signals, "asked", lambda self: (tmp_path / "checkpoints/steps/6").exists()
        )
        with pytest.raises(Requeue, match="The state is saved"):
            run(tmp_path)
    assert run(tmp_path) == final


@pytest.mark.slow
def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path, monkeypatch):
    feed(monkeypatch, bad=(2, 3))
    run(tmp_path, run__not_finite="skip", run__log_every=1)
    assert [line["skipped"] for line in lines(tmp_path)] == [0, 0, 1, 2, 2, 2]
    assert "loss/total" not in lines(tmp_path)[2] and "loss/total" in lines(tmp_path)[4]
    state = state_of(tmp_path)
    assert state["step"] == 6 and all(np.isfinite(x).all() for x in state.values())


def test_too_many_skipped_steps_in_a_row_end_the_run():
    assert survive.in_a_row([False, True, False, False], 4) == 2
    assert survive.in_a_row([False], 9) == 10
    with pytest.raises(RunError, match="11 steps in a row"):
        survive.in_a_row([False, False], 9)


@pytest.mark.slow
def test_rolling_back_leaves_the_batch_out(tmp_path, monkeypatch):
    back, straight = tmp_path / "back", tmp_path / "straight"
    with monkeypatch.context() as patch:
        feed(patch, bad=(3,))
        run(back, run__not_finite="roll_back")
    assert [
        (b["step"], b["batch"]) for b in json.loads((back / survive.ROLLBACKS).read_text())
    ] == [(2, 4)]
    with monkeypatch.context() as patch:
        feed(patch, (0, 1, 4, 5, 6, 7))
        run(straight)
    same(straight, back)
    assert [line["step"] for line in lines(back)] == [2, 4, 6]


def test_the_batch_after_a_step_follows_the_rollbacks(tmp_path):
    assert survive.next_batch(tmp_path, 5) == 5
    reason = survive.NotFinite(9, "step 9 is not finite.")
    survive.note_rollback(tmp_path, 4, 9, reason)
    assert [survive.next_batch(tmp_path, step) for step in (3, 4, 6)] == [3, 9, 11]
    survive.note_rollback(tmp_path, 4, 12, reason)
    survive.note_rollback(tmp_path, 4, 13, reason)
    assert survive.next_batch(tmp_path, 6) == 15
    with pytest.raises(RunError, match="step 9 .* went back to step 4 3 times"):
        survive.note_rollback(tmp_path, 4, 14, reason)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_at_the_next_step(whole, tmp_path, monkeypatch):
    reference, final = whole
    limits, taken = resource.getrlimit(resource.RLIMIT_FSIZE), []
    real = loop.survive.in_a_row

    def fill(finite, before):  # after step 2, before its checkpoint is written
        if not taken:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        taken.append(finite)
        return real(finite, before)

    try:
        with monkeypatch.context() as patch, pytest.raises(DataError, match="too large.*start the"):
            patch.setattr(survive, "in_a_row", fill)
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.steps(tmp_path / "checkpoints") == []
    assert run(tmp_path) == final
    same(reference, tmp_path)


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(DataError, match="metrics.jsonl cannot be used: Is a directory"):
        run(tmp_path)
