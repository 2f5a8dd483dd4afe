"""Compilations are shared: `compiled` keeps one step for each set of options."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision import losses, optim, parallel, rules
from mtl_vision.models import mtl
from mtl_vision.train.gradients import accumulated
from mtl_vision.train.step import best_params, compact, jit_eval_step, jit_train_step
from tests.train import toy

MESHES = [
    dict(data=8),
    dict(data=4, fsdp=2),
    dict(data=2, tensor=4),
    dict(data=2, fsdp=2, tensor=2),
]
NYUD = {"nyud_v2": toy.GROUPS["nyud_v2"]}
SGD = optim.chain(
    optim.OPTIMIZERS["sgd"](momentum=0.0), optim.SCHEDULES["constant"](lr=0.1, steps=5)
)


def mesh_of(sizes):
    return parallel.make_mesh(**sizes) if sizes else parallel.make_mesh(devices=jax.devices()[:1])


@functools.cache
def full(sizes=()):
    """Everything on: batch norm, dropout, AdamW, moving average. Returns (start, step)."""
    mesh, tx = mesh_of(dict(sizes)), toy.chain()
    begin = toy.start(mesh, tx, norm=True, rate=0.3, ema=True)
    average = optim.averaging(0.75, "plain")
    return begin, compiled(mesh, begin, tx=tx, average=average)


@functools.cache
def plain(sizes=(), pair=True, accumulate=1):
    """Gradient descent on a model without batch statistics. Returns (start, step)."""
    mesh = mesh_of(dict(sizes))
    begin = toy.start(mesh, SGD)
    groups = toy.GROUPS if pair else NYUD
    return begin, compiled(mesh, begin, tx=SGD, groups=groups, accumulate=accumulate)


def compiled(mesh, begin, *, groups=toy.GROUPS, **fields):
    return jit_train_step(mesh, begin.shardings, graphdef=begin.graphdef, groups=groups, **fields)


def copy(state):
    """The step uses its state up."""
    return jax.tree.map(jnp.copy, state)


def run(begin, step, steps=1):
    """Returns the state after some steps, and the last metrics, on the host."""
    state, metrics = copy(begin.state), None
    for i in range(steps):
        state, metrics = step(state, global_batch(begin, seed=i))
    return jax.device_get(state), jax.device_get(metrics)


def global_batch(begin, **fields):
    return parallel.to_global(toy.batch(**fields), begin.shardings.step.mesh)


def assert_trees_close(actual, expected, rtol=1e-4, atol=1e-5):
    actual, expected = rules.flatten(actual), rules.flatten(expected)
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        found = actual[path]
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            found, value = jax.random.key_data(found), jax.random.key_data(value)
        np.testing.assert_allclose(found, value, rtol=rtol, atol=atol, err_msg=path)


def test_one_step_by_hand():
    begin, step = plain()
    params, rows = jax.device_get(begin.state.trainable), toy.batch()

    @jax.jit
    def loss(params):
        model, total = mtl.merge(begin.graphdef, params, {}, {}), 0.0
        for dataset, group in toy.GROUPS.items():
            part = rows[dataset]
            preds = model(part["image"], dataset=dataset)
            for t in group:
                label, mask = part["labels"][t.kind], part["masks"][t.kind]
                total += t.weight * losses.mean(*t.loss(preds[t.kind], label, mask))
        return total

    value, grads = jax.value_and_grad(loss)(params)
    state, metrics = run(begin, step)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    assert_trees_close(state.trainable, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(metrics["loss/total"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["norm/gradient"], optim.norm(grads), rtol=1e-5)
    np.testing.assert_allclose(metrics["norm/update"], 0.1 * optim.norm(grads), rtol=1e-5)
    np.testing.assert_allclose(metrics["lr"], 0.1, rtol=1e-6)
    assert metrics["finite"] and state.step == 1


@pytest.mark.devices8
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_any_mesh_equals_one_device(sizes):
    # The state includes Adam's first moment, which after one step is a tenth of the gradient.
    for steps in (1, 2):
        state, metrics = run(*full(tuple(sizes.items())), steps)
        alone, expected = run(*full(), steps)
        assert_trees_close(state, alone)
        assert_trees_close(metrics, expected)


@pytest.mark.devices8
def test_state_lives_where_the_rules_say():
    begin, step = full(tuple(MESHES[-1].items()))
    state, _ = step(copy(begin.state), global_batch(begin))
    leaves = rules.flatten(state)
    kernel = leaves["trainable/backbone/fc1/kernel"].sharding
    assert kernel.spec == parallel.P("fsdp", "tensor")
    owned = [p for p in leaves if p.endswith("backbone/fc1/kernel")]
    assert len(owned) == 4  # the parameter, its average, two moments
    assert all(leaves[p].sharding == kernel for p in owned)


def test_compiles_once():
    begin, step = full()
    run(begin, step, 3)
    assert step._cache_size() == 1


def test_same_seed_same_run_bit_for_bit():
    begin, step = full()
    (first, _), (again, _) = run(begin, step, 2), run(begin, step, 2)
    assert_trees_close(first, again, rtol=0, atol=0)
    other = jax.device_put(jax.random.key(1), begin.shardings.key)
    _, changed = step(dataclasses.replace(copy(begin.state), key=other), global_batch(begin))
    assert changed["loss/total"] != run(begin, step)[1]["loss/total"]


@pytest.mark.devices8
def test_micro_batches_equal_the_whole_batch():
    state, metrics = run(*plain(tuple(MESHES[-1].items()), accumulate=2))
    whole, expected = run(*plain())
    assert_trees_close(state, whole)
    assert_trees_close(metrics, expected)


@pytest.mark.devices8
def test_micro_batches_keep_rows_on_their_devices():
    def total(params, stats, batch, key):
        return params * batch["x"].sum(), ({"x": batch["x"].sum()}, stats)

    rows = parallel.to_global({"x": np.arange(16.0)}, mesh_of(MESHES[0]))
    args = (jnp.ones(()), {}, rows, jax.random.key(0))
    text = jax.jit(accumulated, static_argnums=(0, 5)).lower(total, *args, 2).compile().as_text()
    assert "all-reduce" in text
    assert not any(op in text for op in ("all-gather", "all-to-all", "collective-permute"))


def test_statistics_pass_through_datasets_in_order():
    begin, step = full()
    state, _ = run(begin, step)
    model = mtl.merge(begin.graphdef, *best_params(begin.state))
    for dataset in toy.GROUPS:
        model(toy.batch()[dataset]["image"], dataset=dataset, key=jax.random.key(0))
    assert_trees_close(state.stats, mtl.statistics(model), atol=1e-6)


def test_one_dataset_equals_its_entry_of_a_pair():
    state, metrics = run(*plain(pair=False))
    begin, step = plain()
    _, paired = run(begin, step)
    assert not any("pascal" in name for name in metrics)
    for name in ("loss/nyud_v2/depth", "loss/nyud_v2/normals"):
        np.testing.assert_allclose(metrics[name], paired[name], rtol=1e-6)
    other = begin.state.trainable["decoder"]["pascal_context"]
    assert_trees_close(state.trainable["decoder"]["pascal_context"], other, rtol=0, atol=0)


@pytest.mark.devices8
@pytest.mark.parametrize("kind", ["whole", "micro"])
def test_step_that_is_not_finite_changes_nothing(kind):
    begin, step = full() if kind == "whole" else plain(tuple(MESHES[-1].items()), accumulate=2)
    rows = toy.batch()
    rows["nyud_v2"]["image"][3, 1, 1, 0] = np.nan
    broken = parallel.to_global(rows, begin.shardings.step.mesh)
    state, metrics = step(copy(begin.state), broken)
    programs = step._cache_size()
    assert not metrics["finite"]
    assert_trees_close(state, begin.state, rtol=0, atol=0)
    state, metrics = step(state, global_batch(begin))
    assert metrics["finite"] and state.step == 1 and step._cache_size() == programs


def test_average_follows_the_parameters():
    begin, step = full()
    state, _ = run(begin, step)
    expected = jax.tree.map(
        lambda p, q: 0.75 * p + 0.25 * q, begin.state.trainable, state.trainable
    )
    assert_trees_close(state.ema, expected, rtol=1e-6, atol=1e-7)
    assert best_params(state)[0] is state.ema


def test_frozen_parameters_stay():
    begin = toy.start(mesh_of({}), SGD, trainable=(("backbone/.*", False), (".*", True)))
    step = compiled(mesh_of({}), begin, tx=SGD, groups=NYUD)
    assert set(begin.state.frozen) == {"backbone"} and set(begin.state.trainable) == {"decoder"}
    state, _ = run(begin, step)
    assert_trees_close(state.frozen, begin.state.frozen, rtol=0, atol=0)
    before, after = begin.state.trainable["decoder"], state.trainable["decoder"]
    assert (after["nyud_v2"]["depth"]["bias"] != before["nyud_v2"]["depth"]["bias"]).all()


@pytest.mark.devices8
def test_compiled_and_eager_starts_are_equal():
    eager, _ = full(tuple(MESHES[-1].items()))
    mesh = mesh_of(MESHES[-1])
    jitted = toy.start(mesh, toy.chain(), norm=True, rate=0.3, ema=True, jitted=True)
    assert_trees_close(jitted.state, eager.state, rtol=1e-6, atol=1e-7)
    same = jax.tree.map(lambda a, b: a.sharding == b.sharding, jitted.state, eager.state)
    assert jax.tree.all(same)


@pytest.mark.devices8
def test_evaluation_ignores_filler_rows_and_equals_one_device():
    rows = toy.batch()["pascal_context"]
    rows["valid"][6:] = False
    rows["masks"] = {k: m & rows["valid"][:, None, None] for k, m in rows["masks"].items()}
    noise = rows | {"image": rows["image"] + 7.0 * ~rows["valid"][:, None, None, None]}
    found = []
    for sizes in ({}, MESHES[-1]):
        begin, _ = full(tuple(sizes.items()))
        mesh = begin.shardings.step.mesh
        step = jit_eval_step(
            mesh,
            begin.shardings,
            graphdef=begin.graphdef,
            dataset="pascal_context",
            group=toy.GROUPS["pascal_context"],
            predict=compact,
        )
        found.append(step(*best_params(begin.state), parallel.to_global(rows, mesh)))
        again = step(*best_params(begin.state), parallel.to_global(noise, mesh))
        assert_trees_close(again[0], found[-1][0], rtol=0, atol=0)
    assert_trees_close(found[1][0], found[0][0])
    sums, pictures, gates = found[0]
    assert not gates
    assert sums.keys() == {"semseg", "edge"}
    assert pictures["semseg"].shape == (8, 4, 6) and pictures["semseg"].dtype == jnp.uint8
    assert pictures["edge"].dtype == jnp.uint8 and pictures["edge"].max() > 1
