"""The link and its rows: shapes, owners, scales, groups, what is not finite, what is not there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_vision.errors import ConfigError
from mtl_vision.optim import rows as R
from mtl_vision.optim.aggregate import aggregate
from mtl_vision.optim.contracts import LossWeighting, Weighting, stateless
from mtl_vision.optim.coordinates import graddrop
from mtl_vision.optim.weigh import weigh
from mtl_vision.optim.weightings import WEIGHTINGS

TASKS = ("a", "b")
PARAMS = {"shared": jnp.zeros((2, 3)), "head": jnp.zeros(2), "stack": jnp.zeros((2, 2))}
OWNERS = {"head": R.Owner(("b",)), "stack": R.Owner(("a", "b"), 0)}
ROWS = {
    "shared": jnp.arange(12.0).reshape(2, 2, 3),
    "head": jnp.array([1.0, 2.0]),
    "stack": jnp.array([[1.0, 2.0], [3.0, 4.0]]),
}
FIXED = stateless(lambda gram, losses, key: jnp.array([0.5, 2.0]))
INVERSE = stateless(lambda gram, losses, key: 1 / jnp.diag(gram))


def merged(method, rows=ROWS, params=PARAMS, owners=OWNERS, losses=None, **options):
    tx = aggregate(method, TASKS, owners, **options)
    out, state = jax.jit(tx.update)(rows, tx.init(params), params, losses=losses)
    return jax.tree.map(np.asarray, out), state


def test_shared_leaves_are_weighted_and_own_ones_are_not():
    out, state = merged(FIXED)
    np.testing.assert_allclose(out["shared"], 0.5 * ROWS["shared"][0] + 2 * ROWS["shared"][1])
    np.testing.assert_array_equal(out["head"], ROWS["head"])
    np.testing.assert_array_equal(out["stack"], ROWS["stack"])
    flat = ROWS["shared"].reshape(2, 6)
    np.testing.assert_allclose(state.gram, flat @ flat.T)  # own leaves are not in it


def test_weighted_owners():
    out, _ = merged(FIXED, task_weighting="weighted")
    np.testing.assert_allclose(out["head"], 2 * ROWS["head"])
    np.testing.assert_allclose(out["stack"], [[0.5, 1], [6, 8]])


def test_times_k_doubles_two_tasks():
    native, scaled = merged(FIXED)[0], merged(FIXED, output_scale="times_k")[0]
    np.testing.assert_allclose(scaled["shared"], 2 * native["shared"])
    np.testing.assert_array_equal(scaled["head"], native["head"])


def test_max_norm_is_over_the_shared_gradient():
    out, _ = merged(FIXED, max_norm=1.0)
    assert np.linalg.norm(out["shared"]) == pytest.approx(1, rel=1e-5)
    np.testing.assert_array_equal(out["head"], ROWS["head"])


def test_groups_have_weights_of_their_own():
    rows = {
        "x": jnp.array([[1.0], [2.0]]),
        "y": jnp.array([[3.0], [4.0]]),
        "z": ROWS["head"][:, None],
    }
    params = {"x": jnp.zeros(1), "y": jnp.zeros(1), "z": jnp.zeros(1)}
    out, _ = merged(INVERSE, rows, params, {}, groups="[xy]")
    # 1 / 1^2 * 1 + 1 / 2^2 * 2 = 1.5; 1 / 9 * 3 + 1 / 16 * 4; z alone: 1 + 0.5.
    np.testing.assert_allclose(out["x"], [1.5])
    np.testing.assert_allclose(out["y"], [1 / 3 + 1 / 4])
    np.testing.assert_allclose(out["z"], [1.5])


def test_one_group_is_the_whole():
    rows = {"x": jnp.array([[1.0], [2.0]]), "y": jnp.array([[3.0], [4.0]])}
    params = {"x": jnp.zeros(1), "y": jnp.zeros(1)}
    out, _ = merged(INVERSE, rows, params, {})
    np.testing.assert_allclose(out["x"], [1 / 10 + 2 / 20], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6])
def test_a_task_without_a_gradient_counts_for_nothing(scale):
    rows = {"x": scale * jnp.array([[1.0, 2.0], [0.0, 0.0]])}
    out, state = merged(INVERSE, rows, {"x": jnp.zeros(2)}, {})
    assert state.weights[1] == 0
    np.testing.assert_allclose(out["x"], rows["x"][0] / (5 * scale**2), rtol=1e-5)


def test_all_zero_gradients_stay_zero():
    out, _ = merged(INVERSE, jax.tree.map(jnp.zeros_like, ROWS))
    assert not any(np.any(x) for x in jax.tree.leaves(out))


def test_what_is_not_finite_shows_or_is_skipped():
    rows = ROWS | {"shared": ROWS["shared"].at[0, 0, 0].set(jnp.nan)}
    rows["stack"] = ROWS["stack"].at[0, 0].set(jnp.inf)
    shown, state = merged(FIXED, rows)
    assert np.isnan(shown["shared"]).any() and np.isnan(state.gram[0, 0])
    out, state = merged(FIXED, rows, nonfinite="skip")
    np.testing.assert_allclose(out["shared"], 2 * ROWS["shared"][1])
    np.testing.assert_array_equal(out["stack"], [[0, 0], [3, 4]])
    assert state.weights.tolist() == [0, 2]


def test_coordinate_wise_methods_skip_too_and_watch_the_gramian():
    rows = ROWS | {"shared": ROWS["shared"].at[0, 0, 0].set(jnp.nan)}
    out, _ = merged(graddrop(), rows, nonfinite="skip")
    np.testing.assert_allclose(out["shared"], ROWS["shared"][1])
    tx = aggregate(graddrop(), TASKS, OWNERS, watch=2)
    state, grams = tx.init(PARAMS), []
    for scale in (1.0, 2.0, 3.0):
        _, state = tx.update(jax.tree.map(lambda x, s=scale: s * x, ROWS), state, PARAMS)
        grams.append(float(state.gram[0, 0]))
    assert grams == [55, 55, 9 * 55]  # 0 + 1 + 4 + 9 + 16 + 25


def deferred(rows=ROWS):
    shared = R.shared_part(rows, OWNERS)

    def combine(w, own):
        return R.either(R.weighted_sum(w, shared), R.scale_own(rows, OWNERS, own, TASKS))

    return R.Deferred(R.gramian(shared), combine)


@pytest.mark.parametrize("task_weighting", ["unit", "weighted"])
def test_deferred_gradients_merge_like_rows(task_weighting):
    tx = aggregate(INVERSE, TASKS, OWNERS, task_weighting=task_weighting)
    state = tx.init(PARAMS)
    by_rows, one = tx.update(ROWS, state, PARAMS)
    later, two = tx.update(deferred(), state, PARAMS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), (by_rows, one), (later, two)
    )


@pytest.mark.parametrize(
    "method, options", [(graddrop(), {}), (FIXED, {"groups": "x"}), (FIXED, {"nonfinite": "skip"})]
)
def test_what_needs_rows_says_so(method, options):
    tx = aggregate(method, TASKS, OWNERS, **options)
    with pytest.raises(ConfigError, match="per_task='vmap'"):
        tx.update(deferred(), tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize(
    "rows, text",
    [
        (PARAMS, r"shared is \(2, 3\); .* one row per task, \(T, 2, 3\)"),
        (ROWS | {"head": jnp.zeros((2, 2))}, r"head is \(2, 2\), but head belongs to b: .*\(2,\)"),
        (ROWS | {"shared": jnp.zeros((3, 2, 3))}, r"3 rows, but there are 2 tasks: a, b"),
    ],
)
def test_wrong_shapes(rows, text):
    tx = aggregate(FIXED, TASKS, OWNERS)
    with pytest.raises(ConfigError, match=text):
        tx.update(rows, tx.init(PARAMS), PARAMS)


def test_rows_of_two_lengths():
    tx, params = aggregate(FIXED), {"x": jnp.zeros(2), "y": jnp.zeros(2)}
    with pytest.raises(ConfigError, match="x has 2 rows, that of y has 3"):
        tx.update({"x": jnp.zeros((2, 2)), "y": jnp.zeros((3, 2))}, tx.init(params), params)


def test_no_shared_leaf_is_nothing_to_merge():
    own = {path: leaf for path, leaf in ROWS.items() if path in OWNERS}
    with pytest.raises(ConfigError, match="no parameter that trains is shared"):
        merged(WEIGHTINGS["pcgrad"](), own, {path: PARAMS[path] for path in own})


def test_a_method_with_a_state_wants_the_tasks():
    with pytest.raises(ConfigError, match="tasks="):
        aggregate(WEIGHTINGS["gradvac"]()).init(PARAMS)
    with pytest.raises(ConfigError, match="tasks="):
        aggregate(graddrop()).init(PARAMS)


@pytest.mark.parametrize("field", ["task_weighting", "output_scale", "nonfinite"])
def test_unknown_choices(field):
    with pytest.raises(ConfigError, match=f"{field}='wieghted' is not one of"):
        aggregate(FIXED, TASKS, **{field: "wieghted"})


def test_stands_first_in_a_chain_and_multi_steps_behind_it():
    inner = optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation()
    tx = optax.chain(aggregate(FIXED, TASKS, OWNERS), inner)
    state = tx.init(PARAMS)
    first, state = tx.update(ROWS, state, PARAMS)
    second, _ = tx.update(ROWS, state, PARAMS)
    assert not np.any(first["head"])
    np.testing.assert_allclose(second["head"], -ROWS["head"])
    around = optax.MultiSteps(optax.chain(aggregate(FIXED, TASKS, OWNERS), optax.sgd(1.0)), 2)
    with pytest.raises(ConfigError, match="one row per task"):  # its sums have plain shapes
        around.update(ROWS, around.init(PARAMS), PARAMS)


def test_gramian_of_low_precision_is_summed_in_float32():
    x = jax.random.normal(jax.random.key(0), (3, 64, 64), jnp.bfloat16)
    gram = R.gramian({"x": x, "y": x[:, 0]})
    wide = np.asarray(x, np.float64).reshape(3, -1)
    expected = wide @ wide.T + np.asarray(x[:, 0], np.float64) @ np.asarray(x[:, 0], np.float64).T
    assert gram.dtype == jnp.float32
    np.testing.assert_allclose(gram, expected, rtol=1e-5, atol=1e-3)


def test_weigh_scales_rows_deferred_gradients_and_the_extra_arguments():
    weighting = LossWeighting(lambda T: (), lambda losses, state, *, key: (losses, state))
    seen = {}

    def update(updates, state, params=None, *, losses, grad_fn, loss_fn, task_grads_fn):
        again = grad_fn(params)
        seen.update(again=again, loss=loss_fn(params), tasks=task_grads_fn(lambda t: params))
        return updates, state

    spy = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    tx, losses = weigh(weighting, spy, TASKS, OWNERS), jnp.array([2.0, 3.0])
    given = dict(
        grad_fn=lambda p: deferred(), loss_fn=lambda p: losses, task_grads_fn=lambda points: ROWS
    )
    out, _ = tx.update(ROWS, tx.init(PARAMS), PARAMS, losses=losses, **given)
    expected = R.scale_rows(ROWS, losses, OWNERS, TASKS)
    np.testing.assert_allclose(out["shared"][1], 3 * ROWS["shared"][1])
    np.testing.assert_allclose(out["stack"], [[2, 4], [9, 12]])
    np.testing.assert_allclose(seen["again"].gram, R.gramian(R.shared_part(expected, OWNERS)))
    np.testing.assert_allclose(
        seen["again"].combine(jnp.ones(2), jnp.ones(2))["shared"], expected["shared"].sum(0)
    )
    np.testing.assert_allclose(seen["loss"], [4, 9])
    jax.tree.map(np.testing.assert_array_equal, seen["tasks"], expected)


def test_weigh_asks_for_what_it_needs():
    looks_back = LossWeighting(
        lambda T: (), lambda losses, state, *, key: (losses, state), lambda a, b, state: state
    )
    tx = weigh(looks_back, aggregate(FIXED, TASKS, OWNERS), TASKS, OWNERS)
    with pytest.raises(ConfigError, match="needs losses="):
        tx.update(ROWS, tx.init(PARAMS), PARAMS)
    with pytest.raises(ConfigError, match="needs loss_fn="):
        tx.update(ROWS, tx.init(PARAMS), PARAMS, losses=jnp.ones(2))


@pytest.mark.devices8
def test_no_device_gathers_rows():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    P = jax.sharding.PartitionSpec
    specs = {"kernel": P(None, "fsdp"), "conv": P(None, None, "fsdp"), "bias": P()}
    shapes = {"kernel": (16, 8), "conv": (3, 3, 4), "bias": (8,)}
    rows = {
        k: jax.device_put(
            jax.random.normal(jax.random.key(1), (3, *shape)),
            jax.sharding.NamedSharding(mesh, P(None, *specs[k])),
        )
        for k, shape in shapes.items()
    }
    params = {k: jnp.zeros(shape) for k, shape in shapes.items()}
    tx = aggregate(WEIGHTINGS["imtl_g"](), 3)
    step = jax.jit(tx.update).lower(rows, tx.init(params), params).compile()
    text = step.as_text()
    assert "all-reduce" in text and "all-gather" not in text and "all-to-all" not in text
    alone, _ = tx.update(jax.device_get(rows), tx.init(params), params)
    found, _ = step(rows, tx.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, alone)
    assert found["kernel"].sharding.spec == P(None, "fsdp")


def test_one_weight_for_one_task():
    tx, params = aggregate(WEIGHTINGS["pcgrad"](), 1), {"x": jnp.zeros(2)}
    out, _ = tx.update({"x": jnp.array([[1.0, -2.0]])}, tx.init(params), params)
    np.testing.assert_allclose(out["x"], [1, -2])


def test_state_of_weightings_is_strongly_typed():
    weak = Weighting(lambda T: jnp.full(T, 1.0), lambda g, s, *, losses, key: (s, s))
    state = aggregate(weak, TASKS).init(PARAMS)
    assert all(not x.aval.weak_type for x in jax.tree.leaves(state))
