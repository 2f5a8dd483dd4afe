import dataclasses
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision import optim, parallel, rules
from mtl_vision.errors import DataError
from mtl_vision.train import checkpoint
from mtl_vision.train.checkpoint import Checkpoints, load, load_latest, steps
from mtl_vision.train.state import abstract
from mtl_vision.train.step import jit_train_step
from mtl_vision.train.transfer import init_from
from tests.conftest import XLA_FLAGS
from tests.train import toy

# Where one read of several fails, orbax closes its event loop on the others, which complain.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

RULES = ((".*embed/.*", False), (".*", True))


def one_device():
    return parallel.make_mesh(devices=jax.devices()[:1])


def start(mesh=None, seed=0, **fields):
    fields = dict(trainable=RULES, ema=True, norm=True) | fields
    return toy.start(mesh or one_device(), toy.chain(), seed=seed, **fields)


@pytest.fixture(scope="module")
def begin():
    return start()


def at(state, step):
    """The state with another step, and other numbers in the parameters."""
    changed = jax.tree.map(lambda x: x + step, state.trainable)
    return dataclasses.replace(state, step=jnp.int32(step), trainable=changed)


def write(folder, *states, scores=None, **fields):
    with Checkpoints(folder, **fields) as checkpoints:
        for i, state in enumerate(states):
            checkpoints.save(state, score=scores[i] if scores else None)


def raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def assert_same(actual, expected):
    actual, expected = rules.flatten(actual), rules.flatten(expected)
    assert actual.keys() == expected.keys()
    for path, x in expected.items():
        assert actual[path].dtype == x.dtype, path
        np.testing.assert_array_equal(raw(actual[path]), raw(x), err_msg=path)


def other_numbers(state):
    """Another run's start: none of its leaves are those of `state`."""

    def change(x):
        return jax.random.key(9) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x + 1

    return jax.tree.map(change, state)


def array_files(folder, step, item):
    """Files with the data of a checkpoint's arrays, largest first."""
    found = (folder / "steps" / str(step) / item).rglob("d/*")
    return sorted(found, key=lambda f: f.stat().st_size, reverse=True)


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 0x10
    file.write_bytes(bytes(content))


def test_round_trip_is_bit_exact(tmp_path, begin):
    write(tmp_path, at(begin.state, 3))
    restored = Checkpoints(tmp_path).restore(other_numbers(begin.state))
    assert_same(restored, at(begin.state, 3))


def test_folder_may_be_relative(tmp_path, begin, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = pathlib.Path("run/checkpoints")
    write(folder, at(begin.state, 1))
    restored = load(folder, abstract(begin.state), 1)
    assert_same(restored, at(begin.state, 1))
    assert init_from(folder, begin.state)[1].missing == []


def test_frozen_parameters_are_written_once(tmp_path, begin):
    write(tmp_path, at(begin.state, 1), at(begin.state, 2))
    assert (tmp_path / "frozen").is_dir()
    description = checkpoint.describe(tmp_path / "steps" / "2")
    assert not any("embed" in path for leaves in description.items.values() for path in leaves)


@pytest.mark.devices8
def test_restores_onto_another_mesh_from_shapes(tmp_path, begin):
    write(tmp_path, at(begin.state, 1))
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    there = start(mesh)
    restored, _ = load_latest(tmp_path, abstract(there.state))
    assert_same(restored, at(begin.state, 1))
    same = jax.tree.map(lambda x, y: x.sharding == y, restored, there.shardings)
    assert jax.tree.all(same)


def test_resumed_run_equals_the_uninterrupted_one(tmp_path):
    begin, mesh, traced = start(rate=0.5), one_device(), []

    def average(*args):
        traced.append(1)
        return optim.averaging(0.9)(*args)

    step = jit_train_step(
        mesh,
        begin.shardings,
        graphdef=begin.graphdef,
        groups={"nyud_v2": toy.GROUPS["nyud_v2"]},
        tx=toy.chain(),
        average=average,
    )
    batches = [parallel.to_global(toy.batch(seed=i), mesh) for i in range(4)]
    state = jax.tree.map(jnp.copy, begin.state)
    with Checkpoints(tmp_path) as checkpoints:
        for i, batch in enumerate(batches):
            state, _ = step(state, batch)
            if i == 1:
                checkpoints.save(state)  # the next step uses up what is being written
    resumed = Checkpoints(tmp_path).restore(begin.state)
    for batch in batches[int(resumed.step) :]:
        resumed, _ = step(resumed, batch)
    assert_same(resumed, state)
    assert len(traced) == 1  # what was read fits the step as it is compiled


@pytest.mark.parametrize("item", ["model", "training"])
def test_flipped_byte_is_found_and_the_step_before_taken(tmp_path, begin, item, caplog):
    write(tmp_path, at(begin.state, 1), at(begin.state, 2))
    file = array_files(tmp_path, 2, item)[0]
    flip(file, file.stat().st_size // 2)
    with caplog.at_level(logging.WARNING):
        restored = Checkpoints(tmp_path).restore(begin.state)
    assert_same(restored, at(begin.state, 1))
    assert "Checkpoint 2 is damaged and passed over" in caplog.text
    assert (tmp_path / "steps" / "2.damaged").is_dir() and steps(tmp_path) == [1]
    write(tmp_path, at(begin.state, 2))
    assert_same(Checkpoints(tmp_path).restore(begin.state), at(begin.state, 2))


def test_no_flipped_byte_changes_a_number_unseen(tmp_path, begin):
    write(tmp_path / "whole", at(begin.state, 1))
    files = [f for f in (tmp_path / "whole" / "steps").rglob("*") if f.stat().st_size]
    files = [f.relative_to(tmp_path / "whole") for f in files if f.is_file()]
    rng = np.random.default_rng(0)
    found = 0
    for trial in range(24):
        folder = tmp_path / "broken"
        shutil.copytree(tmp_path / "whole", folder)
        file = folder / files[trial % len(files)]
        flip(file, rng.integers(file.stat().st_size))
        try:
            assert_same(load(folder, begin.state, 1), at(begin.state, 1))
        except DataError:
            found += 1
        shutil.rmtree(folder)
    assert found > 0


@pytest.mark.parametrize("what", ["truncated", "description", "a list", "no text", "emptied"])
def test_broken_files_are_passed_over(tmp_path, begin, what):
    write(tmp_path, at(begin.state, 1), at(begin.state, 2))
    if what == "truncated":
        file = array_files(tmp_path, 2, "model")[0]
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif what == "description":
        file = tmp_path / "steps" / "2" / "_CHECKPOINT_METADATA"
        file.write_text(file.read_text().replace("float32", "float33", 1))
    elif what in ("a list", "no text"):
        file = tmp_path / "steps" / "2" / "_CHECKPOINT_METADATA"
        file.write_bytes({"a list": b"[1]", "no text": b"\xff\0"}[what])
    else:
        shutil.rmtree(tmp_path / "steps" / "2" / "model")
    restored, passed = load_latest(tmp_path, begin.state)
    assert_same(restored, at(begin.state, 1))
    assert passed.keys() == {2}


def test_all_damaged_is_an_error(tmp_path, begin):
    write(tmp_path, at(begin.state, 1))
    flip(array_files(tmp_path, 1, "model")[0], 40)
    with pytest.raises(DataError, match="all 1 checkpoints in .* are damaged; 1: "):
        Checkpoints(tmp_path).restore(begin.state)


def test_damaged_frozen_parameters_are_an_error(tmp_path, begin):
    write(tmp_path, at(begin.state, 1))
    file = max((tmp_path / "frozen").rglob("d/*"), key=lambda f: f.stat().st_size)
    flip(file, file.stat().st_size // 2)
    assert_same(load(tmp_path, begin.state, 1), at(begin.state, 1))  # it has them already
    with pytest.raises(DataError, match="frozen parameters of all checkpoints"):
        load(tmp_path, abstract(begin.state), 1)


def test_other_frozen_parameters_are_refused(tmp_path, begin):
    write(tmp_path, at(begin.state, 1))
    other = jax.tree.map(lambda x: x + 1, begin.state.frozen)
    with pytest.raises(DataError, match="frozen parameters of another run"):
        write(tmp_path, dataclasses.replace(at(begin.state, 2), frozen=other))


def test_other_model_is_explained(tmp_path, begin):
    write(tmp_path, at(begin.state, 1))
    wider = start(width=16)
    message = (
        r"checkpoint .*1 is of another model: ema/backbone/fc1/bias is \(16,\) in the "
        r"checkpoint, \(32,\) in the model; .* and \d+ more. Use the config"
    )
    with pytest.raises(DataError, match=message):
        Checkpoints(tmp_path).restore(wider.state)
    with pytest.raises(DataError, match="backbone/norm/bias is not in the model"):
        Checkpoints(tmp_path).restore(start(norm=False).state)


def test_no_checkpoint_leaves_the_state(tmp_path, begin):
    assert Checkpoints(tmp_path).restore(begin.state) is begin.state
    assert load_latest(tmp_path, begin.state) is None and steps(tmp_path) == []


def test_keeps_the_newest_and_the_best(tmp_path, begin):
    states = [at(begin.state, i) for i in range(1, 7)]
    scores = [0.1, 0.9, float("nan"), 0.3, None, 0.2]
    write(tmp_path, *states, scores=scores, keep=2, keep_best=1)
    assert steps(tmp_path) == [2, 5, 6]
    assert checkpoint.best_step(tmp_path) == 2
    with Checkpoints(tmp_path, keep=2, keep_best=1) as again:  # as a resumed run does
        again.save(at(begin.state, 7), score=0.95)
        again.save(at(begin.state, 8), score=0.5)
    assert steps(tmp_path) == [7, 8] and checkpoint.best_step(tmp_path) == 7


def test_model_alone_keeps_the_rest(tmp_path, begin):
    write(tmp_path, at(begin.state, 4))
    restored = load(tmp_path, begin.state, 4, items=("model",))
    assert_same(restored.trainable, at(begin.state, 4).trainable)
    assert_same((restored.step, restored.opt), (begin.state.step, begin.state.opt))


def test_same_step_is_written_once(tmp_path, begin):
    write(tmp_path, at(begin.state, 1), at(begin.state, 1))
    assert steps(tmp_path) == [1]


def test_init_takes_what_fits_by_path(tmp_path, begin):
    write(tmp_path, at(begin.state, 5))
    other = start(seed=3, trainable=((".*", True),))  # trains what was frozen there
    target = dataclasses.replace(
        other.state, trainable=jax.tree.map(lambda x: x - 50.0, other.state.trainable)
    )
    skip = ("decoder/nyud_v2/depth/.*",)
    state, unmatched = init_from(tmp_path, target, skip=skip)
    # The source's moving average, not its parameters.
    assert_same(state.trainable["backbone"]["fc1"], begin.state.ema["backbone"]["fc1"])
    assert_same(state.trainable["backbone"]["embed"], begin.state.frozen["backbone"]["embed"])
    assert_same(state.stats, begin.state.stats)
    depth = target.trainable["decoder"]["nyud_v2"]["depth"]
    assert_same(state.trainable["decoder"]["nyud_v2"]["depth"], depth)
    assert_same(state.ema, state.trainable)
    assert_same((state.step, state.opt, state.key), (target.step, target.opt, target.key))
    names = ["decoder/nyud_v2/depth/bias", "decoder/nyud_v2/depth/kernel"]
    assert sorted(unmatched.missing) == sorted(unmatched.unused) == names


def test_init_with_another_shape_is_refused(tmp_path, begin):
    write(tmp_path, at(begin.state, 1))
    message = (
        r"14 arrays do not fit, first backbone/embed/bias, which is \(8,\) there and \(16,\) here"
    )
    with pytest.raises(DataError, match=message):
        init_from(tmp_path, start(width=16).state)
    with pytest.raises(DataError, match="no whole checkpoint"):
        init_from(tmp_path / "empty", begin.state)


KILLED = """
import os, pathlib, signal, sys
import jax, jax.numpy as jnp
from mtl_vision import parallel
from mtl_vision.train.checkpoint import Checkpoints
from mtl_vision.train.state import TrainState

place = jax.sharding.NamedSharding(parallel.make_mesh(), parallel.P())
big = {"x": jnp.zeros((4_000_000,))}
def state(step):
    made = TrainState(jnp.int32(step), {"x": big["x"] + step}, {}, {}, (), (), jax.random.key(0))
    return jax.device_put(made, place)
checkpoints = Checkpoints(pathlib.Path(sys.argv[1]))
checkpoints.save(state(1))
checkpoints.save(state(2))  # waits for the first
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_while_saving_leaves_the_step_before(tmp_path):
    environment = os.environ | {"XLA_FLAGS": XLA_FLAGS}
    root = pathlib.Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, env=environment, check=False
    )
    assert run.returncode == -9
    assert any("tmp" in f.name for f in (tmp_path / "steps").iterdir())
    place = jax.sharding.NamedSharding(one_device(), parallel.P())
    like = checkpoint.TrainState(
        jnp.int32(0), {"x": jnp.zeros(4_000_000)}, {}, {}, (), (), jax.random.key(1)
    )
    like = jax.device_put(like, place)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(like)
        assert restored.step == 1 and (restored.trainable["x"] == 1).all()
        checkpoints.save(dataclasses.replace(restored, step=jnp.int32(2)))
    assert steps(tmp_path) == [1, 2]
    assert not any("tmp" in f.name for f in (tmp_path / "steps").iterdir())
