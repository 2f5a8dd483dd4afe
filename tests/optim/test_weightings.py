"""What every Gramian method owes: an answer to any input. One compilation per method and size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision.optim.weightings import WEIGHTINGS

KEY = jax.random.key(0)
T = 4
ROWS = np.random.default_rng(0).standard_normal((T, 16)) * [[1.0], [0.5], [2.0], [1.5]]
ROWS[3] -= 0.5 * (ROWS[0] + ROWS[1])  # some conflict
SCALES = (1e-12, 1e-6, 1.0, 1e6, 1e12)
ORDER = np.array([2, 0, 3, 1])
EQUAL = 2.0  # norm of the equal gradients
RANDOM = {"pcgrad", "gradvac"}
SPECIAL = {"pcd"}  # the first task is not like the others
SCALED = {"modo"}  # one step of a given size along the Gramian
SIZES = {  # sum of the weights for equal gradients of norm n
    **dict.fromkeys(("sum", "pcgrad", "gradvac", "config", "norm_balance", "gradnorm"), T),
    **dict.fromkeys(("mean", "imtl_g", "aligned_mtl", "krum"), 1),
    **dict.fromkeys(("mgda", "modo", "sdmgrad", "upgrad", "dualproj", "pcd"), 1),
    "cagrad": (1 + 0.4) / (1 + 0.4**2),
    "imgrad": 1 + 0.4,
    "nash_mtl": 1 / EQUAL,
    "fairgrad": T * (T * EQUAL**2) ** (-2 / 3),
}
# Methods in which the other tasks go on as if there were no task with a zero row; for those that
# build on the mean of all, as if their gradients were three quarters as long.
UNMOVED = {
    **dict.fromkeys(("sum", "imtl_g", "config", "norm_balance", "krum", "gradnorm"), 1),
    **dict.fromkeys(("mgda", "pcd", "nash_mtl", "fairgrad"), 1),
    **dict.fromkeys(("mean", "aligned_mtl", "cagrad", "upgrad", "dualproj"), 3 / 4),
}


def cases():
    """Returns rows ``[cases, T, 16]`` by name."""
    found = {f"scale {scale:g}": scale * ROWS for scale in SCALES}
    found["zero row"] = ROWS * [[1], [0], [1], [1]]
    found["zero"] = 0 * ROWS
    found["equal"] = np.full_like(ROWS, EQUAL / 4)  # 16 coordinates
    found["equal pair"] = ROWS[[0, 0, 2, 3]]
    found["opposite pair"] = np.concatenate([ROWS[:3], -ROWS[:1]])
    found["few coordinates"] = ROWS * (np.arange(16) < 2)
    found["permuted"] = ROWS[ORDER]
    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        found[name] = ROWS.copy()
        found[name][1, 5] = value
    return found


def first_update(name, gram):
    """Returns the first weights and the new state for a Gramian."""
    method, T = WEIGHTINGS[name](), len(gram)
    gram = None if method.needs == "losses" else gram
    return method.update(gram, method.init(T), losses=jnp.ones(T), key=KEY)


@functools.cache
def results(name):
    """Returns weights ``[T]`` and the new state of every case."""
    rows = np.stack([*cases().values()])
    with np.errstate(invalid="ignore"):
        grams = np.float32(rows @ np.swapaxes(rows, 1, 2))
    update = jax.jit(jax.vmap(functools.partial(first_update, name)))
    w, state = jax.tree.map(np.asarray, update(grams))
    return {
        case: (w[i], jax.tree.map(lambda x, i=i: x[i], state)) for i, case in enumerate(cases())
    }


@functools.cache
def weights_of(tasks, names):
    """Returns the first weights of the named methods for some of the tasks, float64."""
    gram = np.float32(ROWS[[*tasks]] @ ROWS[[*tasks]].T)
    together = jax.jit(lambda gram: {name: first_update(name, gram)[0] for name in names})
    return jax.tree.map(np.float64, together(gram))


every = pytest.mark.parametrize("name", WEIGHTINGS)


@every
def test_finite_input_gives_finite_weights(name):
    for case, (w, state) in results(name).items():
        assert w.shape == (T,) and w.dtype == np.float32
        if case not in ("nan", "infinite"):
            assert np.isfinite(w).all(), case
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(state)), case
            merged = np.float64(w) @ cases()[case]
            assert np.isfinite(merged).all() and (case != "zero" or not merged.any())


@every
def test_what_is_not_finite_shows(name):
    if WEIGHTINGS[name]().needs == "losses":  # sees no gradient; the merged one shows it
        np.testing.assert_array_equal(results(name)["nan"][0], results(name)["scale 1"][0])
        return
    for case in ("nan", "infinite"):
        assert not np.isfinite(results(name)[case][0]).all(), case


@pytest.mark.parametrize("name", [name for name in WEIGHTINGS if name not in SCALED])
def test_scale_does_not_change_the_direction(name):
    def direction(scale):
        merged = np.float64(results(name)[f"scale {scale:g}"][0]) @ ROWS
        return merged / np.linalg.norm(merged)

    for scale in SCALES:
        np.testing.assert_allclose(direction(scale), direction(1.0), atol=2e-3, err_msg=str(scale))


@pytest.mark.parametrize("name", [name for name in WEIGHTINGS if name not in RANDOM | SPECIAL])
def test_permuted_tasks_get_permuted_weights(name):
    plain, permuted = (results(name)[case][0] for case in ("scale 1", "permuted"))
    np.testing.assert_allclose(permuted, plain[ORDER], atol=1e-4 * np.abs(plain).max())


@pytest.mark.parametrize("name", SIZES)
def test_equal_gradients(name):
    np.testing.assert_allclose(results(name)["equal"][0].sum(), SIZES[name], rtol=1e-4)


@pytest.mark.parametrize("name", UNMOVED)
def test_a_zero_row_moves_no_other(name):
    rows = ROWS[[0, 2, 3]]
    expected = UNMOVED[name] * (weights_of((0, 2, 3), tuple(UNMOVED))[name] @ rows)
    actual = np.float64(results(name)["zero row"][0])[[0, 2, 3]] @ rows
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


@every
def test_one_task_keeps_its_direction(name):
    w = weights_of((0,), tuple(WEIGHTINGS))[name]
    assert w.shape == (1,) and np.isfinite(w).all() and w > 0
