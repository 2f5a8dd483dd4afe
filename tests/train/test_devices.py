"""The joint step of a real model gives the same numbers on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision import build, parallel, rules
from mtl_vision.check import check
from mtl_vision.train import setup
from tests import tiny

# Plain descent at rate 1: the parameters after the step hold the gradient.
SGD = dict(name="sgd", lr=1.0, lr_batch=0, clip_norm=0.0, weight_decay=0.0, momentum=0.0)
SGD |= dict(decay=(), lr_scale=((".*", 1.0),), accumulate=1, per_task="vmap", ema=0.0)
SGD |= dict(aggregator={"name": "sum"}, weighting={"name": "equal"}, sam={"name": "none"})


def one_step(devices=None, preset="dp", slices=1, tensor=1):
    mesh = dict(preset=preset, slices=slices, tensor=tensor)
    values = tiny.values(
        data__batch=8, mesh=mesh, optim=SGD, schedule={"name": "constant"}, eval__batch=8
    )
    values["backbone"] |= {"embed": 16, "drop_path": 0.2}
    cfg = check(values)
    with pytest.MonkeyPatch.context() as patch:
        if devices:
            patch.setattr(jax, "devices", lambda *args: devices)
        mesh, start = setup.start(cfg)
    planned = setup.planned(cfg, mesh)
    assert planned.shardings == start.shardings
    assert jax.tree.map(jnp.shape, planned.state) == jax.tree.map(jnp.shape, start.state)
    before = {p: np.asarray(x) for p, x in rules.flatten(start.state.trainable).items()}
    batch = parallel.to_global(next(build.train_batches(cfg, 0)), mesh)
    state, metrics = setup.train_step(cfg, mesh, start)(start.state, batch)
    after = rules.flatten(state.trainable)
    gradient = {path: x - np.asarray(after[path]) for path, x in before.items()}
    stats = {path: np.asarray(x) for path, x in rules.flatten(state.stats).items()}
    return jax.device_get(metrics), gradient, stats, after


@pytest.fixture(scope="module")
def reference():
    return one_step(jax.devices()[:1])


@pytest.mark.devices8
@pytest.mark.parametrize("slices, tensor", [pytest.param(4, 1, marks=pytest.mark.slow), (2, 4)])
def test_eight_devices_give_the_numbers_of_one(reference, slices, tensor):
    metrics, gradient, stats, after = one_step(preset="hybrid", slices=slices, tensor=tensor)
    for name, value in reference[0].items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    for expected, actual in ((reference[1], gradient), (reference[2], stats)):
        for path, x in expected.items():
            atol = 1e-5 * max(np.abs(x).max(), 1.0)
            np.testing.assert_allclose(actual[path], x, rtol=1e-4, atol=atol, err_msg=path)
    qkv = after["backbone/stages/0/blocks/0/attn/qkv/kernel"]
    assert not qkv.sharding.is_fully_replicated
