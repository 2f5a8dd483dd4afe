"""Strategies of per-task gradients, in double precision, against the plainest Jacobian."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision import optim, rules
from mtl_vision.models import mtl
from mtl_vision.optim import rows as R
from mtl_vision.train import gradients as G
from mtl_vision.train import per_task as P
from mtl_vision.train.step import parts_of
from tests.train import toy

KINDS = {name: [t.kind for t in group] for name, group in toy.GROUPS.items()}
TASKS = [t.name for group in toy.GROUPS.values() for t in group]
KEY = jax.random.key(0)
W, OWN = np.array([0.5, 2.0, 0.0, 1.5]), np.array([1.0, 0.0, 3.0, 0.5])


@pytest.fixture(autouse=True)
def double(x64):
    """Every test, so that what they share is in double precision too."""


@functools.cache
def problem():
    """Returns (parts_of, params, stats, batch, owners)."""
    model = toy.Toy(norm=True, mix=True)
    owners = {k: R.Owner(*v) for k, v in mtl.owners(model, KINDS).items()}
    params = mtl.parameters(model)
    graphdef, *trees = mtl.split(model, dict.fromkeys(params, True))
    trained, frozen, stats = jax.tree.map(lambda x: x.astype(jnp.float64), trees)
    made = partial(parts_of, graphdef=graphdef, frozen=frozen, groups=toy.GROUPS)
    return made, trained, stats, toy.batch(), owners


@functools.cache
def jacobian():
    """Rows of all leaves, ``[T, *shape]``, and the aux, by plain reverse mode."""
    made, params, stats, batch, _ = problem()
    found = jax.jit(jax.jacrev(lambda p: G.forward(made(p, batch, KEY), p, stats), has_aux=True))(
        params
    )
    return found


@functools.cache
def taken(name, accumulate=1, apart=True):
    """Returns what a strategy gives: rows, or the Gramian and the sum with weights W and OWN."""
    made, params, stats, batch, owners = problem()
    strategy = optim_strategies(owners, apart)[name]

    def run(params):
        updates, aux = strategy(made, params, stats, batch, KEY, accumulate)
        if isinstance(updates, R.Deferred):
            updates = updates.gram, updates.combine(jnp.asarray(W), jnp.asarray(OWN))
        return updates, aux

    return jax.jit(run)(params)


def optim_strategies(owners, apart=True):
    common = dict(owners=owners, apart=apart)
    found = {k: G.additive(partial(P.per_task, **common, pull=k)) for k in P.PULLS}
    for gram in ("rows", "features"):
        found[gram] = G.additive(partial(P.two_pass, **common, gram=gram))
    found["joint"] = partial(G.joint, owners=owners, tasks=TASKS)
    found["independent_halves"] = partial(P.independent_halves, **common, tasks=TASKS)
    return found


def assert_close(actual, expected, rtol=1e-9, atol=1e-9):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), actual, expected)


def combined():
    """The weighted sum of the plain Jacobian: W on shared leaves, OWN on a task's own."""
    owners = problem()[-1]
    rows, _ = jacobian()
    summed = jax.tree.map(lambda g: g.sum(0), rows)
    shared = R.weighted_sum(jnp.asarray(W), R.shared_part(rows, owners))
    return R.either(shared, R.scale_own(summed, owners, jnp.asarray(OWN), TASKS))


def test_heads_are_owned_and_the_backbone_is_shared():
    owners = problem()[-1]
    paths = {
        f"decoder/{d}/{k}/{p}" for d, ks in KINDS.items() for k in ks for p in ("kernel", "bias")
    }
    assert set(owners) == paths
    assert owners["decoder/nyud_v2/depth/bias"] == (("nyud_v2/depth",), None)


def test_no_other_task_reaches_an_owned_leaf():
    rows, _ = jacobian()
    flat, owners = rules.flatten(rows), problem()[-1]
    for path, owner in owners.items():
        others = [i for i, name in enumerate(TASKS) if name not in owner.tasks]
        assert not np.any(flat[path][jnp.array(others)]), path
        assert np.any(flat[path])


@pytest.mark.parametrize(
    "pull, apart", [*((pull, True) for pull in P.PULLS), ("vmap", False), ("scan", False)]
)
def test_exact_strategies_give_the_jacobian(pull, apart):
    owners = problem()[-1]
    (rows, aux), (plain, expected) = taken(pull, apart=apart), jacobian()
    assert_close(R.shared_part(rows, owners), R.shared_part(plain, owners))
    assert_close(
        R.own_part(rows, owners), jax.tree.map(lambda g: g.sum(0), R.own_part(plain, owners))
    )
    assert_close(aux, expected)


@pytest.mark.parametrize("name, apart", [("rows", True), ("rows", False), ("features", True)])
def test_two_passes_give_the_weighted_sum(name, apart):
    (gram, summed), aux = taken(name, apart=apart)
    assert_close(summed, combined())
    assert_close(aux, jacobian()[1])
    exact = R.gramian(R.shared_part(jacobian()[0], problem()[-1]))
    if name == "rows":
        assert_close(gram, exact)
    else:  # of the features: no product between datasets, and not that of the parameters
        assert not np.any(gram[:2, 2:]) and np.all(jnp.diagonal(gram) > 0)
        assert not np.allclose(gram[:2, :2], exact[:2, :2], rtol=0.1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_backward_pass_takes_the_weights_of_losses(accumulate):
    owners = problem()[-1]
    (gram, summed), (values, _) = taken("joint", accumulate)
    assert gram is None
    if accumulate == 1:
        # A weight of zero takes the task's own gradient with it.
        owned = R.own_part(jax.tree.map(lambda g: g.sum(0), jacobian()[0]), owners)
        expected = R.scale_own(owned, owners, jnp.asarray(OWN * (W != 0)), TASKS)
        assert_close(R.own_part(summed, owners), expected)
        assert_close(R.shared_part(summed, owners), R.shared_part(combined(), owners))
        assert_close(values, jacobian()[1][0])
    else:
        rows, _ = taken("vmap", accumulate)
        shared = R.weighted_sum(jnp.asarray(W), R.shared_part(rows, owners))
        assert_close(R.shared_part(summed, owners), shared)


def test_halves_are_two_mini_batches():
    made, params, stats, batch, owners = problem()
    (gram, summed), _ = taken("independent_halves")
    cut = [jax.tree.map(lambda x, i=i: x[i::2], batch) for i in range(2)]
    rows = [
        jax.jit(jax.jacrev(lambda p, b=b, k=k: G.forward(made(p, b, k), p, stats)[0]))(params)
        for b, k in zip(cut, jax.random.split(KEY), strict=True)
    ]
    shared = [R.shared_part(r, owners) for r in rows]
    assert_close(gram, R.gramian(*shared))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *shared)
    assert_close(R.shared_part(summed, owners), R.weighted_sum(jnp.asarray(W), mean))


@pytest.mark.parametrize("pull, apart", [("scan", True), ("scan", False), ("passes", True)])
def test_every_task_at_a_point_of_its_own(pull, apart):
    made, params, stats, batch, owners = problem()

    def point(t):
        return jax.tree.map(lambda x: x * (1 + 0.1 * t), params)

    def row(t):
        return jax.grad(lambda p: G.forward(made(p, batch, KEY), p, stats)[0][t])(point(t))

    def run():
        how = dict(owners=owners, apart=apart, pull=pull)
        taken = P.at_points(made, point, stats, batch, KEY, 1, **how)
        return taken[0], [row(t) for t in range(len(TASKS))]

    found, rows = jax.jit(run)()
    rows = jax.tree.map(lambda *x: jnp.stack(x), *rows)
    own = R.own_part(jax.tree.map(lambda g: g.sum(0), rows), owners)
    assert_close(found, R.either(R.shared_part(rows, owners), own))


def test_points_are_the_same_for_all_micro_batches():
    made, params, stats, batch, owners = problem()
    each = partial(P.at_points, made, lambda t: params, stats, batch, KEY, owners=owners)
    rows = G.additive(partial(P.per_task, owners=owners))
    found, expected = jax.jit(lambda: (each(2)[0], rows(made, params, stats, batch, KEY, 2)[0]))()
    assert_close(found, expected)


def test_a_frozen_backbone_leaves_gradients_of_the_decoder():
    model = toy.Toy()
    trains = {path: path.startswith("decoder") for path in mtl.parameters(model)}
    graphdef, params, frozen, stats = mtl.split(model, trains)
    made = partial(parts_of, graphdef=graphdef, frozen=frozen, groups=toy.GROUPS)
    owners = problem()[-1]
    vmapped = optim_strategies(owners)["vmap"]
    plain, rows = jax.jit(
        lambda p: [s(made, p, stats, toy.batch(), KEY, 1)[0] for s in (G.PLAIN, vmapped)]
    )(params)
    assert rows.keys() == {"decoder"}
    assert_close(rows, plain, rtol=1e-5, atol=1e-6)
    assert optim.norm(plain) > 0
