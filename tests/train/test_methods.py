"""Methods of multi-task optimization inside the compiled step, on a small model."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision import optim, parallel, rules
from mtl_vision.config import Component
from mtl_vision.models import mtl
from mtl_vision.optim.loss_weightings import LOSS_WEIGHTINGS
from mtl_vision.optim.methods import AGGREGATORS, first_link, methods
from mtl_vision.optim.rows import Owner
from mtl_vision.train import gradients as G
from mtl_vision.train import per_task as P
from mtl_vision.train.step import jit_train_step
from tests.train import toy
from tests.train.test_gradients import KINDS, TASKS

OWNERS = {k: Owner(*v) for k, v in mtl.owners(toy.Toy(), KINDS).items()}
ADAMW = optim.OPTIMIZERS["adamw"](eps=1e-3)
FLAT = optim.SCHEDULES["constant"](lr=1e-2, steps=10)


def strategies(made, per_task="vmap"):
    """What `train.setup` chooses, for the small model."""
    held = G.additive(partial(P.per_task, owners=OWNERS, pull=per_task))
    joined = partial(G.joint, owners=OWNERS, tasks=TASKS)
    halves = partial(P.independent_halves, owners=OWNERS, tasks=TASKS)
    again = {"losses": joined, "cross": halves}.get(made.need, held)
    first = {"sam": joined, "samo": joined, "task_sam": held}.get(made.sam, again)
    return dict(gradients=first, again=again, each=partial(P.at_points, owners=OWNERS))


@functools.cache
def run(
    aggregator="sum",
    weighting="equal",
    sam="none",
    devices=1,
    steps=2,
    clip=1.0,
    norm=True,
    broken=False,
):
    """Returns the host copies of (state before, state after, metrics)."""
    named = (Component(name, {}) for name in (aggregator, weighting, sam))
    made = methods(*named, watch=1)
    first = first_link(made, TASKS, OWNERS)
    tx = optim.chain(
        ADAMW,
        FLAT,
        first=first,
        weighting=made.weighting,
        tasks=TASKS,
        owners=OWNERS,
        clip_norm=clip,
    )
    sizes = dict(data=4, fsdp=2) if devices == 8 else dict(devices=jax.devices()[:1])
    mesh = parallel.make_mesh(**sizes)
    begin = toy.start(mesh, tx, norm=norm)
    taken, traces = strategies(made), []
    gradients = taken.pop("gradients")

    def counted(*args):
        traces.append(args)
        return gradients(*args)

    step = jit_train_step(
        mesh,
        begin.shardings,
        graphdef=begin.graphdef,
        groups=toy.GROUPS,
        tx=tx,
        gradients=counted,
        **taken,
    )
    before, state = jax.device_get(begin.state.trainable), begin.state
    for seed in range(steps):
        rows = toy.batch(seed=seed)
        if broken:
            rows["nyud_v2"]["labels"]["depth"][0, 2, 2] = np.inf
        state, metrics = step(state, parallel.to_global(rows, mesh))
    assert len(traces) == 1  # compiled once
    return before, jax.device_get(state.trainable), jax.device_get(metrics)


def assert_same(found, expected, rtol=1e-3, atol=2e-5):
    found, expected = rules.flatten(found), rules.flatten(expected)
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=rtol, atol=atol, err_msg=path)


@pytest.mark.devices8
@pytest.mark.parametrize(
    "names",
    [
        ("cagrad", "equal", "task_sam"),
        pytest.param(("graddrop",), marks=pytest.mark.slow),
        pytest.param(("pcgrad", "uw", "sam"), marks=pytest.mark.slow),
        pytest.param(("moco", "famo"), marks=pytest.mark.slow),
    ],
)
def test_eight_devices_give_the_parameters_of_one(names):
    # CAGrad gives the weakest task here a weight of 70; a bias before a norm, whose gradient is
    # nothing but rounding, would show it.
    norm = "cagrad" not in names
    (_, one, metrics), (_, eight, other) = run(*names, norm=norm), run(*names, norm=norm, devices=8)
    assert metrics["finite"] and other["finite"]
    assert_same(eight, one)
    assert_same(other, metrics, rtol=1e-3, atol=1e-4)


def test_the_sum_by_rows_is_the_plain_gradient():
    before, after, metrics = run("sum")
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    tx = optim.chain(ADAMW, FLAT, clip_norm=1.0)
    begin = toy.start(mesh, tx, norm=True)
    step = jit_train_step(mesh, begin.shardings, graphdef=begin.graphdef, groups=toy.GROUPS, tx=tx)
    state = begin.state
    for seed in range(2):
        state, expected = step(state, parallel.to_global(toy.batch(seed=seed), mesh))
    assert_same(after, jax.device_get(state.trainable))
    assert "tasks/gram" not in expected
    assert np.all(metrics["tasks/weight"] == 1)
    np.testing.assert_allclose(metrics["norm/gradient"], expected["norm/gradient"], rtol=1e-4)


def test_a_broken_task_changes_nothing_and_is_named():
    before, after, metrics = run("imtl_g", steps=1, broken=True)
    assert not metrics["finite"]
    assert_same(after, before, rtol=0, atol=0)
    losses = {t: metrics[f"loss/{t}"] for t in TASKS}
    assert [t for t, v in losses.items() if not np.isfinite(v)] == ["nyud_v2/depth"]


@pytest.mark.parametrize("weighting", ["gls", "famo"])
def test_weights_of_losses_are_those_of_the_method(weighting):
    _, _, metrics = run("sum", weighting, steps=1)
    values = jnp.array(
        [metrics[f"loss/{t.name}"] * t.weight for g in toy.GROUPS.values() for t in g]
    )
    method = LOSS_WEIGHTINGS[weighting]()
    w, _ = method.update(values, method.init(4), key=jax.random.key(0))
    np.testing.assert_allclose(metrics["tasks/loss_weight"], w, rtol=1e-4)
    assert metrics["tasks/gram"].shape == (4, 4)


@pytest.mark.parametrize("name", [n for n in AGGREGATORS if n not in ("sum", "pcgrad")])
def test_every_aggregator_takes_a_step(name):
    before, after, metrics = run(name, steps=1)
    assert metrics["finite"]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before["backbone"], after["backbone"])
    assert all(jax.tree.leaves(moved)), name
