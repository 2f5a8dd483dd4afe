from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_vision.errors import ConfigError
from mtl_vision.optim.aggregate import aggregate
from mtl_vision.optim.contracts import Weighting, stateless
from mtl_vision.optim.methods import AGGREGATORS
from mtl_vision.optim.rows import Deferred, Owner
from mtl_vision.optim.sam import sam, samo, task_sam

TASKS = ("x", "y", "z")
# `head` is y's; `lora` has a slice for z and one for x, along its second axis.
OWNERS = {"head": Owner(("y",)), "lora": Owner(("z", "x"), 1)}
SHAPES = {"a": (4,), "b": (2, 3), "head": (3,), "lora": (2, 2, 3)}
RANDOM = np.random.default_rng(0)
PARAMS = {k: jnp.asarray(RANDOM.normal(size=shape), jnp.float32) for k, shape in SHAPES.items()}
MIX = jnp.asarray(RANDOM.normal(size=(3, 5, 4)), jnp.float32)
SPY = optax.GradientTransformationExtraArgs(lambda _: (), lambda u, s, p=None, **extra: (u, u))
TOTAL = stateless(lambda gram, *, losses, key: jnp.ones(len(gram), gram.dtype))
UNIT = stateless(lambda gram, *, losses, key: jnp.diag(gram) ** -0.5)
ONE_AND_THREE = stateless(lambda gram, *, losses, key: jnp.array([1, 3], gram.dtype))


def losses(p):
    trunk = jnp.log(jnp.cosh(MIX @ p["a"])).sum(1) + jnp.sin(p["b"]).sum() * jnp.arange(1, 4)
    x = (p["lora"][:, 1] ** 2).sum() * p["a"][0]
    y = jnp.cos(p["head"] * p["a"][:3]).sum()
    z = (p["lora"][:, 0] ** 3).sum()
    return trunk + jnp.stack([x, y, z])


def task_grad(t, p):
    return jax.grad(lambda p: losses(p)[t])(p)


def in_turn(task_grad, tasks=3, owners=OWNERS):
    """What `task_sam` asks for, from the plain gradient of one task: ``(t, params) -> tree``."""

    def task_grads_fn(points):
        grads = [task_grad(t, points(t)) for t in range(tasks)]
        return {
            k: sum(g[k] for g in grads) if k in owners else jnp.stack([g[k] for g in grads])
            for k in grads[0]
        }

    return task_grads_fn


def rows_at(p):
    jac = jax.jacrev(losses)(p)
    return {k: g.sum(0) if k in OWNERS else g for k, g in jac.items()}


BALLS = {
    "split": {},
    "joint": {"norm": "joint", "rho_shared": 0.3, "rho_task": 0.1},
    "adaptive": {"adaptive": True, "rho_shared": 0.5, "rho_task": 0.2},
}
MERGED = [
    (mode, name) for mode in ("separate", "direct", "second", "each") for name in ("total", "unit")
]
METHODS = {"total": TOTAL, "unit": UNIT}


@jax.jit
def everything(params):
    rows, found = rows_at(params), {}
    for name, fields in BALLS.items():
        tx = task_sam(SPY, TASKS, OWNERS, **fields)
        found[name] = tx.update(rows, tx.init(params), params, task_grads_fn=in_turn(task_grad))
    there = found["split"][0]

    for mode, name in MERGED:
        pair, inner = aggregate(ONE_AND_THREE, 2), aggregate(METHODS[name], TASKS, OWNERS)
        tx = task_sam(inner, TASKS, OWNERS, mode=mode, pair=pair)
        found[f"{mode} {name}"] = tx.update(
            rows, tx.init(params), params, task_grads_fn=lambda points: there
        )[0]
    return rows, found


@jax.jit
def task_grads(points):
    return [task_grad(t, p) for t, p in enumerate(points)]


@pytest.fixture(scope="module")
def found():
    rows, found = everything(PARAMS)
    return jax.tree.map(np.asarray, {"rows": rows} | found)


def plain_loop(rho_shared=0.05, rho_task=0.05, adaptive=False, norm="split"):
    """Rows and own gradients of the perturbed passes, one parameter after the other."""
    points = []
    for grads in jax.tree.map(np.array, task_grads([PARAMS] * 3)):
        size = {k: np.abs(PARAMS[k]) if adaptive else 1.0 for k in SHAPES}
        square = {k: ((size[k] * grads[k]) ** 2).sum() for k in SHAPES}
        shared = np.sqrt(square["a"] + square["b"])
        own = np.sqrt(square["head"] + square["lora"])  # those of other tasks are zero
        if norm == "joint":
            shared = own = np.sqrt(shared**2 + own**2)
        scale = {k: rho_task / own if k in OWNERS else rho_shared / shared for k in SHAPES}
        points.append({k: PARAMS[k] + scale[k] * size[k] ** 2 * grads[k] for k in SHAPES})
    grads = task_grads(points)
    rows = {k: np.stack([g[k] for g in grads]) for k in ("a", "b")}
    lora = np.stack([grads[2]["lora"][:, 0], grads[0]["lora"][:, 1]], 1)
    return rows | {"head": np.asarray(grads[1]["head"]), "lora": lora}


def assert_near(actual, expected, rtol=1e-4):
    for path in expected:
        atol = rtol * np.abs(expected[path]).max()
        np.testing.assert_allclose(actual[path], expected[path], rtol, atol, err_msg=path)


@pytest.mark.parametrize("ball", BALLS)
def test_perturbed_gradients_follow_a_plain_loop(ball, found):
    assert_near(found[ball][0], plain_loop(**BALLS[ball]))


def test_the_two_calls_see_where_we_are_and_the_difference(found):
    merged, state = found["split"]
    for path in ("a", "b"):
        np.testing.assert_array_equal(state.loss[path], found["rows"][path])
        np.testing.assert_allclose(
            state.flat[path], merged[path] - found["rows"][path], rtol=1e-3, atol=1e-6
        )
        assert np.abs(state.flat[path]).max() > 1e-3
    for path in OWNERS:
        np.testing.assert_array_equal(state.loss[path], merged[path])
        assert not state.flat[path].any()


def by_hand(mode, name, rows):
    """Merged shared leaves ``[10]`` from rows ``[3, 10]`` in a basis of both shared leaves."""
    loss, there = (np.concatenate([r["a"], r["b"].reshape(3, -1)], 1) for r in rows)
    flat = there - loss

    def merge(g):
        return (g if name == "total" else g / np.linalg.norm(g, axis=1, keepdims=True)).sum(0)

    return {
        "separate": merge(loss) + merge(flat),
        "direct": merge(there),
        "second": merge(loss) + 3 * merge(flat),
        "each": merge(loss + 3 * flat),
    }[mode]


@pytest.mark.parametrize(("mode", "name"), MERGED)
def test_modes_by_hand(mode, name, found):
    merged, there = found[f"{mode} {name}"], found["split"][0]
    shared = np.concatenate([merged["a"], merged["b"].ravel()])
    expected = by_hand(mode, name, (found["rows"], there))
    np.testing.assert_allclose(shared, expected, rtol=2e-3, atol=1e-4)
    for path in OWNERS:
        np.testing.assert_array_equal(merged[path], there[path])


def test_a_task_moves_the_shared_parameters_and_its_own():
    @jax.jit
    def points(params):
        seen = []

        def task_grads_fn(points):
            seen.extend(points(t) for t in range(3))
            return rows

        tx = task_sam(SPY, TASKS, OWNERS)
        rows = {k: jnp.ones(s if k in OWNERS else (3, *s)) for k, s in SHAPES.items()}
        tx.update(rows, tx.init(params), params, task_grads_fn=task_grads_fn)
        return seen

    moved = [{k: np.not_equal(p[k], PARAMS[k]) for k in SHAPES} for p in points(PARAMS)]
    assert len(moved) == 3 and all(m["a"].all() and m["b"].all() for m in moved)
    assert [m["head"].all() for m in moved] == [False, True, False]
    assert [m["lora"][:, 0].all() for m in moved] == [False, False, True]
    assert [m["lora"][:, 1].all() for m in moved] == [True, False, False]
    assert sum(m["head"].sum() + m["lora"].sum() for m in moved) == 3 + 12


def test_flat_gradient_of_a_quadratic_loss():
    hessian = np.array([[[2.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 3.0]]], np.float32)
    params = {"s": jnp.array([3.0, -4.0])}

    task_grads_fn = in_turn(lambda t, p: {"s": jnp.asarray(hessian[t]) @ p["s"]}, 2)
    tx, rows = task_sam(SPY, 2, rho_shared=0.1), task_grads_fn(lambda t: params)
    flat = tx.update(rows, tx.init(params), params, task_grads_fn=task_grads_fn)[1].flat["s"]
    # gradients (6, -4) and (-1, -9); rho H g / |g|
    expected = [
        0.1 * np.array([12, -4]) / np.sqrt(52),
        0.1 * np.array([-10, -28]) / np.sqrt(82),
    ]
    np.testing.assert_allclose(flat, expected, rtol=2e-5)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_perturbation_is_as_long_as_the_radius(scale):
    params = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    grads = {"a": scale * jnp.arange(3.0), "b": scale * jnp.ones((2, 2))}
    moved, _ = sam(SPY, rho=0.1).update(grads, (), params, grad_fn=lambda p: p)
    # |(0, 1, 2)|^2 + 4 = 9
    np.testing.assert_allclose(moved["a"], 0.1 * np.arange(3) / 3, rtol=1e-5)
    np.testing.assert_allclose(moved["b"], np.full((2, 2), 0.1 / 3), rtol=1e-5)


def test_adaptive_by_hand():
    params, grads = {"a": jnp.array([2.0, -1.0])}, {"a": jnp.array([2.0, 3.0])}
    moved, _ = sam(SPY, rho=0.5, adaptive=True).update(grads, (), params, grad_fn=lambda p: p)
    # | |p| g | = |(4, 3)| = 5; p^2 g = (8, 3)
    np.testing.assert_allclose(moved["a"], [2.8, -0.7], rtol=1e-6)


def test_sam_takes_plain_gradients_rows_and_deferred_ones():
    rows = {k: jnp.ones(s if k in OWNERS else (3, *s)) for k, s in SHAPES.items()}
    plain = {k: g if k in OWNERS else g.sum(0) for k, g in rows.items()}

    def combine(w, own):
        return {k: g if k in OWNERS else jnp.tensordot(w, g, 1) for k, g in rows.items()}

    forms = (plain, rows, Deferred(None, combine))
    moved = [sam(SPY, TASKS, OWNERS).update(u, (), PARAMS, grad_fn=lambda p: p)[0] for u in forms]
    assert_near(moved[1], moved[0], 1e-6)
    assert_near(moved[2], moved[0], 1e-6)


def test_one_task_equals_sam_of_optax():
    chain = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    theirs = optax.contrib.sam(optax.sgd(0.1), chain, opaque_mode=True)
    params = {"a": jnp.array([1.0, -2.0]), "own": jnp.array([0.5])}
    owners = {"own": Owner(("only",))}
    inner = aggregate(TOTAL, ("only",), owners)

    def grad_fn(p, _=0):
        return jax.grad(lambda p: jnp.cosh(p["a"] * p["own"]).sum())(p)

    @jax.jit
    def all_of_them(params):
        grads, merged = grad_fn(params), []
        expected, _ = theirs.update(grads, theirs.init(params), params, grad_fn=grad_fn)
        for mode in ("separate", "direct"):
            ours = task_sam(inner, ("only",), owners, norm="joint", mode=mode)
            args = {"a": grads["a"][None], "own": grads["own"]}, ours.init(params), params
            merged.append(
                ours.update(*args, task_grads_fn=in_turn(lambda t, p: grad_fn(p), 1, owners))[0]
            )
        return expected, merged

    expected, merged = all_of_them(params)
    for tree in merged:
        assert_near({k: -0.1 * g for k, g in tree.items()}, expected, 1e-5)


def test_a_task_without_a_gradient_stays_and_nan_surfaces():
    params, rows = {"s": jnp.ones(2)}, {"s": jnp.array([[0.0, 0.0], [1.0, 0.0], [np.nan, 0.0]])}
    tx = task_sam(SPY, 3, mode="direct")
    there, _ = tx.update(rows, tx.init(params), params, task_grads_fn=in_turn(lambda t, p: p))
    np.testing.assert_array_equal(there["s"][:2], np.array([[1, 1], [1.05, 1]], np.float32))
    assert np.isnan(there["s"][2]).any()


def test_the_two_calls_have_states_and_random_numbers_of_their_own():
    def update(gram, state, *, losses, key):
        return jax.random.normal(key, (2,)), state + 1

    drawn = Weighting(lambda T: jnp.zeros(()), update)
    tx = task_sam(aggregate(drawn, 2), 2, flat=aggregate(drawn, 2, seed=1))
    params, rows = {"s": jnp.ones(3)}, {"s": jnp.eye(2, 3)}

    @jax.jit
    def step(state):
        squares = in_turn(lambda t, p: {"s": p["s"] ** 2}, 2)
        return tx.update(rows, state, params, task_grads_fn=squares)[1]

    start, seen = tx.init(params), []
    state = start
    for _ in range(2):
        state = step(state)
        seen += [state.loss.weights, state.flat.weights]
    assert len({tuple(np.asarray(w).tolist()) for w in seen}) == 4
    assert (state.loss.method == 2).all() and (state.flat.method == 2).all()
    assert jax.tree.structure(state) == jax.tree.structure(start)


def test_every_pair_has_a_state_of_its_own():
    tx = task_sam(SPY, 3, mode="each", pair=aggregate(TOTAL, 2))
    params, rows = {"s": jnp.ones(2)}, {"s": jnp.ones((3, 2))}
    _, state = tx.update(rows, tx.init(params), params, task_grads_fn=in_turn(lambda t, p: p))
    assert state.pair.count.tolist() == [1, 1, 1] and state.flat == ()


@pytest.mark.parametrize("mode", ["separate", "direct"])
def test_no_radius_is_no_sam(mode):
    tx = task_sam(SPY, TASKS, OWNERS, rho_shared=0.0, rho_task=0.0, mode=mode)
    rows = {k: jnp.ones(s if k in OWNERS else (3, *s)) for k, s in SHAPES.items()}
    merged, _ = tx.update(rows, tx.init(PARAMS), PARAMS, task_grads_fn=lambda points: 1 / 0)
    assert merged is rows


CLOSED = ("sum", "pcgrad", "config", "graddrop")


def test_flat_losses_leave_aggregators_as_they_are():
    rows = {"s": jnp.asarray(RANDOM.normal(size=(3, 5)), jnp.float32)}
    params, losses = {"s": jnp.zeros(5)}, jnp.array([1.0, 2.0, 0.5])

    @jax.jit
    def both(rows):
        found = {}
        for name in CLOSED:
            inner = aggregate(AGGREGATORS[name](), 3)
            found[name] = [
                tx.update(rows, tx.init(params), params, losses=losses, **extra)[0]["s"]
                for tx, extra in (
                    (inner, {}),
                    (task_sam(inner, 3), {"task_grads_fn": lambda points: rows}),
                )
            ]
        return found

    for name, (plain, flat) in both(rows).items():
        np.testing.assert_allclose(flat, plain, rtol=1e-6, err_msg=name)
        assert np.isfinite(plain).all() and plain.any(), name


SLOPES = {k: jnp.asarray(RANDOM.normal(size=(3, *SHAPES[k])), jnp.float32) for k in ("a", "b")}


@partial(jax.jit, static_argnums=0)
def moved_by_samo(beta, count, b):
    """How far every task moves, from 0, for losses with the gradients `SLOPES` (b's times `b`)."""
    rows = {"a": SLOPES["a"], "b": b * SLOPES["b"], "head": jnp.array([3.0, 4.0])}
    params = {"a": jnp.zeros(4), "b": jnp.zeros((2, 3)), "head": jnp.zeros(2)}

    def loss_fn(p):
        return rows["a"] @ p["a"] + jnp.einsum("tij,ij->t", rows["b"], p["b"])

    head = {"head": OWNERS["head"]}
    tx = samo(SPY, TASKS, head, beta=beta, rho=0.1)
    state = tx.init(params)._replace(count=count)
    args = dict(task_grads_fn=in_turn(lambda t, p: p, owners=head), loss_fn=loss_fn)
    return tx.update(rows, state, params, **args)[0]


def test_samo_without_an_estimate_is_one_perturbation_for_all():
    moved = moved_by_samo(0.0, 0, 1.0)
    joint = {k: np.asarray(g).sum(0) for k, g in SLOPES.items()}
    size = np.sqrt(sum((g**2).sum() for g in joint.values()))
    for k, g in joint.items():
        np.testing.assert_allclose(moved[k], np.stack([0.1 * g / size] * 3), rtol=1e-4)
    np.testing.assert_allclose(moved["head"], [0.06, 0.08], rtol=1e-6)


def test_samo_estimate_keeps_the_norms_of_the_leaves():
    moved = moved_by_samo(1.0, 0, 1.0)
    joint = {k: np.linalg.norm(np.asarray(g).sum(0)) for k, g in SLOPES.items()}
    for k, length in joint.items():
        lengths = np.linalg.norm(np.asarray(moved[k]).reshape(3, -1), axis=1)
        np.testing.assert_allclose(lengths, 0.1 * length / np.hypot(*joint.values()), rtol=1e-4)
    cosines = np.corrcoef(np.asarray(moved["b"]).reshape(3, -1))
    assert np.abs(cosines[np.triu_indices(3, 1)]).max() < 0.999  # every task has its own noise


def test_samo_estimate_goes_uphill_for_every_task_and_is_new_with_every_update():
    moved = [np.asarray(moved_by_samo(1.0, count, 0.0)["a"]) for count in range(4)]
    assert (np.einsum("nti,ti->nt", moved, SLOPES["a"]) > 0).all()
    assert min(np.abs(a - b).max() for a, b in zip(moved[1:], moved[:-1], strict=True)) > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sam(SPY, rho=-0.1), "sam: rho=-0.1 is a radius; use 0 or more"),
        (lambda: task_sam(SPY, 2, rho_task=float("nan")), "task_sam: rho_task=nan is a radius"),
        (lambda: task_sam(SPY, 2, norm="both"), "task_sam: norm='both' is not one of split, joint"),
        (lambda: task_sam(SPY, 2, mode="seconds"), "not one of separate.*Did you mean 'second'"),
        (lambda: task_sam(SPY, 2, mode="each"), "mode='each' merges pairs; give pair="),
        (lambda: samo(SPY, 2, beta=1.5), "samo: beta=1.5, mu=0.01; beta is from 0 to 1"),
        (lambda: samo(SPY, 2, mu=0.0), "mu above 0"),
    ],
)
def test_bad_fields(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("tx", "updates", "extra", "message"),
    [
        (sam(SPY), jnp.ones(2), {}, "sam needs grad_fn= as an argument of update"),
        (task_sam(SPY, 2), jnp.ones((2, 2)), {}, "task_sam needs task_grads_fn="),
        (
            task_sam(SPY, 2),
            jnp.ones((3, 2)),
            {"task_grads_fn": rows_at},
            "task_sam: the gradients have 3 rows, but there are 2 tasks: 0, 1",
        ),
        (
            task_sam(SPY, 2),
            Deferred(None, None),
            {"task_grads_fn": rows_at},
            "task_sam needs the gradient of every task.*per_task='vmap'",
        ),
        (
            sam(SPY),
            Deferred(None, None),
            {"grad_fn": task_grad},
            r"sam\(inner, tasks=...\) needs the tasks of deferred gradients",
        ),
        (samo(SPY, 2), jnp.ones((2, 2)), {"task_grads_fn": rows_at}, "samo needs loss_fn="),
    ],
)
def test_bad_updates(tx, updates, extra, message):
    params = jnp.ones(2)
    with pytest.raises(ConfigError, match=message):
        tx.update(updates, tx.init(params), params, **extra)
