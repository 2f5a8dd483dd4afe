"""Losses beside a task's own: intermediate predictions, and penalties that belong to no task."""

import jax
import jax.numpy as jnp
import numpy as np

from mtl_vision import optim, parallel
from mtl_vision.config import Component
from mtl_vision.optim.methods import first_link, methods
from mtl_vision.train.step import jit_train_step, task_loss
from tests.train import toy
from tests.train.test_gradients import TASKS
from tests.train.test_methods import FLAT, OWNERS, assert_same, strategies


def test_an_intermediate_prediction_has_the_loss_of_its_task_times_a_weight():
    rows, (depth, _) = toy.batch()["nyud_v2"], toy.GROUPS["nyud_v2"]
    rng = np.random.default_rng(0)
    final, between = (jnp.asarray(rng.normal(size=(8, 6, 4, 1)), jnp.float32) for _ in range(2))
    alone = [float(task_loss(depth, pred, rows, 1.0)) for pred in (final, between)]
    both = task_loss(depth, (final, between, between), rows, 0.25)
    np.testing.assert_allclose(both, alone[0] + 0.5 * alone[1], rtol=1e-6)


def one_step(names=(), *, balance):
    """Plain gradient descent by 1: the difference of the parameters is the gradient."""
    first, taken = None, {}
    if names:
        made = methods(*(Component(name, {}) for name in names))
        first = first_link(made, TASKS, OWNERS)
        taken = strategies(made)
    sgd = optim.OPTIMIZERS["sgd"](momentum=0.0)
    tx = optim.chain(sgd, FLAT, first=first)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    begin = toy.start(mesh, tx, balance=balance)
    before = jax.device_get(begin.state.trainable)
    step = jit_train_step(
        mesh, begin.shardings, graphdef=begin.graphdef, groups=toy.GROUPS, tx=tx, **taken
    )
    state, metrics = step(begin.state, parallel.to_global(toy.batch(), mesh))
    after = jax.device_get(state.trainable)
    change = jax.tree.map(lambda a, b: 100 * (a - b), before, after)
    return change, jax.device_get(metrics)


def test_a_penalty_of_every_dataset_enters_past_the_tasks_methods():
    without, _ = one_step(balance=0.0)
    plain, metrics = one_step(balance=1e4)
    penalties = [metrics[f"loss/{dataset}/penalty"] for dataset in toy.GROUPS]
    assert metrics["finite"] and min(penalties) > 0
    by_task = sum(t.weight * metrics[f"loss/{t.name}"] for g in toy.GROUPS.values() for t in g)
    np.testing.assert_allclose(metrics["loss/total"], by_task + sum(penalties), rtol=1e-6)
    extra = jax.tree.map(jnp.subtract, plain, without)
    assert np.abs(extra["backbone"]["fc1"]["kernel"]).max() > 0.01
    assert not np.any(extra["decoder"]["nyud_v2"]["depth"]["kernel"])
    summed, _ = one_step(("sum", "equal", "none"), balance=1e4)
    assert_same(summed, plain)
    method, _ = one_step(("imtl_g", "equal", "sam"), balance=0.0)
    both, _ = one_step(("imtl_g", "equal", "sam"), balance=1e4)
    assert_same(jax.tree.map(jnp.subtract, both, method)["backbone"], extra["backbone"])
