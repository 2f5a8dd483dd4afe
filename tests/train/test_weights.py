"""Weights in files: what is written comes back, what does not fit is named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mtl_vision import parallel, rules
from mtl_vision.errors import DataError
from mtl_vision.train import weights
from mtl_vision.train.state import TrainState, create_state
from tests.parity import networks, records
from tests.train import toy

FROZEN = (("backbone/.*", False), (".*", True))
TASKS = [t.name for group in toy.GROUPS.values() for t in group]


def start(seed=0):
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    made = create_state(
        lambda: toy.Toy(norm=True, seed=seed),
        trainable=FROZEN,
        tx=toy.chain(),
        mesh=mesh,
        key=jax.random.key(0),
        ema=True,
    )
    return made.state


def test_what_a_run_trained_comes_back(tmp_path):
    state, file = start(), tmp_path / "x.safetensors"
    moved = jax.tree.map(lambda x: x + 1, state.ema)
    moved = dataclasses.replace(state, ema=moved, step=state.step + 7)
    weights.export(file, moved, {"seed": 0})
    assert not any(name.startswith("trainable/backbone") for name in load_file(file))
    assert list(tmp_path.iterdir()) == [file]
    assert weights.config_of(file) == {"seed": 0}
    found = weights.load(file, state, TASKS)
    assert int(found.step) == 7
    for tree in (found.trainable, found.ema):
        jax.tree.map(np.testing.assert_array_equal, tree, moved.ema)
    jax.tree.map(np.testing.assert_array_equal, found.frozen, state.frozen)


def test_other_frozen_parameters_are_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    weights.export(file, start(), {})
    with pytest.raises(DataError, match="trained on other frozen parameters"):
        weights.load(file, start(seed=1), TASKS)


def test_arrays_that_do_not_fit_are_all_named(tmp_path):
    state, file = start(), tmp_path / "x.safetensors"
    heads = dict(state.trainable["decoder"])
    fewer = dataclasses.replace(state, ema={"decoder": {"nyud_v2": heads["nyud_v2"]}})
    weights.export(file, fewer, {})
    with pytest.raises(DataError) as e:
        weights.load(file, state, TASKS)
    missing = [p for p in rules.flatten(state.trainable) if "pascal" in p]
    assert missing and all(f"trainable/{p} is missing" in str(e.value) for p in missing)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": "{"},
        {"config": "[" * 10**5},
        {"config": "[]"},
        {"step": "seven"},
        {"step": str(2**40)},
        {"step": None},
    ],
)
def test_a_file_that_misdescribes_itself_is_one_error(tmp_path, changes):
    file = tmp_path / "x.safetensors"
    weights.export(file, start(), {})
    with safe_open(file, "numpy") as f:
        metadata = {k: v for k, v in (f.metadata() | changes).items() if v is not None}
    save_file(load_file(file), file, metadata=metadata)
    with pytest.raises(DataError, match="does not say what it holds"):
        weights.config_of(file)
    with pytest.raises(DataError, match="does not say what it holds"):
        weights.load(file, start(), TASKS)


def test_a_released_checkpoint_fills_the_whole_model(tmp_path):
    record = records.records("mtlora")[0]
    network = networks.load(record, np.float32)
    names = [f"{networks.DATASET}/{kind}" for kind in networks.kinds_of(network.meta)]
    trees = (getattr(network, field) for field in weights.WHOLE)
    blank = (jax.tree.map(jnp.zeros_like, tree) for tree in trees)
    state = TrainState(0, *blank, opt=(), ema=(), key=())
    file = tmp_path / "mtlora.npz"
    arrays = records.group(network.arrays, "param")
    np.savez(file, **arrays)
    found = weights.load(file, state, names)
    for field in weights.WHOLE:
        expected = rules.flatten(getattr(network, field))
        for path, value in rules.flatten(getattr(found, field)).items():
            np.testing.assert_array_equal(value, expected[path], err_msg=path)
    lost = next(name for name in arrays if name.endswith("qkv.linear.weight"))
    np.savez(file, extra=np.zeros(1), **{k: v for k, v in arrays.items() if k != lost})
    with pytest.raises(DataError, match=r"1 arrays unused \(extra\); 1 missing \(backbone"):
        weights.load(file, state, names)
    with pytest.raises(DataError, match="heads of one dataset"):
        weights.load(file, state, ["a/semseg", "b/depth"])
