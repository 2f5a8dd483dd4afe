"""Weightings that solve a small problem: closed forms, guarantees, and what the options change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision.errors import ConfigError
from mtl_vision.optim.weightings.bargaining import fairgrad, nash_mtl
from mtl_vision.optim.weightings.cones import dualproj, pcd, upgrad
from mtl_vision.optim.weightings.conflict_averse import cagrad, imgrad
from mtl_vision.optim.weightings.min_norm import mgda, modo, sdmgrad

PAIRS = np.array(
    [
        [[1.0, 0.0, 0.0], [-0.5, 1.0, 0.0]],  # in conflict
        [[2.0, 0.0, 0.0], [1.0, 1.0, 0.0]],  # the second is the shortest vector of the hull
        [[0.0, 1.0, 0.0], [-30.0, -10.0, 9.0]],  # far apart
        [[1.0, 2.0, 0.0], [0.0, 0.0, -3.0]],  # orthogonal
    ]
)
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.standard_normal((30, 4, 12)) + RANDOM.standard_normal((30, 1, 12)) * [
    [1],
    [-1],
    [1],
    [-1],
]
ROWS[10:] *= 10 ** RANDOM.uniform(-2, 2, (20, 4, 1))


def weights(methods, rows, losses=(1.0,)):
    """Returns the first weights of the methods, by name, for rows ``[cases, T, d]``."""
    T = rows.shape[1]
    losses = jnp.array(losses) * jnp.ones(T)

    def every(gram):
        return {
            name: method.update(gram, method.init(T), losses=losses)[0]
            for name, method in methods.items()
        }

    grams = np.float32(rows @ np.swapaxes(rows, 1, 2))
    return jax.tree.map(np.float64, jax.jit(jax.vmap(every))(grams))


@functools.cache
def of_pairs():
    methods = {
        "mgda": mgda(),
        "frank_wolfe": mgda(solver="frank_wolfe"),
        "min_norm": mgda(solver="min_norm"),
        "nash": nash_mtl(max_norm=0.0),
        "unit nash": nash_mtl(),
        "fairgrad": fairgrad(alpha=0.5),
        "upgrad": upgrad(),
        "dualproj": dualproj(),
        "cagrad": cagrad(c=0.0),
        "imgrad": imgrad(c=0.0),
        "pcd": pcd(tau=0.5),
        "sdmgrad": sdmgrad(pull=0.0),
    }
    return weights(methods, PAIRS)


def parts():
    """Returns ``G_11, G_22, G_12`` and the cosine of every pair."""
    gram = PAIRS @ np.swapaxes(PAIRS, 1, 2)
    a, b, c = gram[:, 0, 0], gram[:, 1, 1], gram[:, 0, 1]
    return a, b, c, c / np.sqrt(a * b)


@pytest.mark.parametrize("name", ["mgda", "frank_wolfe", "min_norm", "sdmgrad"])
def test_shortest_vector_of_two(name):
    a, b, c, _ = parts()
    first = np.clip((b - c) / (a + b - 2 * c), 0, 1)
    assert first[1] == 0
    clamp = (0.001, 0.999) if name == "min_norm" else (0, 1)  # an end of the segment
    expected = np.clip(np.stack([first, 1 - first], 1), *clamp)
    np.testing.assert_allclose(of_pairs()[name], expected, atol=1e-5)


def test_bargain_of_two():
    a, b, _, cosine = parts()
    expected = 1 / np.sqrt(np.stack([a, b], 1) * (1 + cosine)[:, None])
    np.testing.assert_allclose(of_pairs()["nash"], expected, rtol=1e-5)
    np.testing.assert_allclose(of_pairs()["unit nash"], expected / np.sqrt(2), rtol=1e-5)


def test_fairness_of_orthogonal_tasks():
    # alpha = 1/2: w = n^(-2/3), with squared norms 5 and 9.
    np.testing.assert_allclose(of_pairs()["fairgrad"][3], [5 ** (-1 / 3), 9 ** (-1 / 3)], rtol=1e-5)


def test_projections_of_two():
    a, b, c, _ = parts()
    conflict = np.minimum(c, 0)
    surgery = 1 - np.stack([conflict / a, conflict / b], 1)  # PCGrad
    np.testing.assert_allclose(of_pairs()["upgrad"], surgery / 2, rtol=1e-4)
    # The mean harms the task k with <g0, g_k> < 0: <g0, g_1> = (a + c) / 2.
    harm = np.minimum(np.stack([a + c, b + c], 1) / 2, 0) / np.stack([a, b], 1)
    assert (harm < 0).any(0).tolist() == [True, False]
    np.testing.assert_allclose(of_pairs()["dualproj"], 0.5 - harm, rtol=1e-4)


@pytest.mark.parametrize("name", ["cagrad", "imgrad"])
def test_a_ball_of_radius_0_is_the_mean(name):
    np.testing.assert_array_equal(of_pairs()[name], np.full((4, 2), 0.5))


def test_priority_by_hand():
    # After one step s = 1 / n. In units of n, d = u_1 + x u_2 with <d, u_2> = cos + x >= tau = 0.5,
    # so x = 0.5 - cos where that is positive; then d gets the norm of g_1.
    a, b, _, cosine = parts()
    x = np.maximum(0.5 - cosine, 0)
    length = np.sqrt(1 + 2 * x * cosine + x**2)
    expected = np.stack([1 / length, x * np.sqrt(a / b) / length], 1)
    np.testing.assert_allclose(of_pairs()["pcd"], expected, rtol=1e-4, atol=1e-6)


@functools.cache
def of_four():
    methods = {
        "mgda": mgda(),
        "nash": nash_mtl(),
        "fairgrad": fairgrad(),
        "upgrad": upgrad(),
        "dualproj": dualproj(),
        "cagrad": cagrad(c=1.0),
        "imgrad": imgrad(c=0.5),
    }
    return weights(methods, ROWS)


@pytest.mark.parametrize("name", ["mgda", "nash", "fairgrad", "upgrad", "dualproj", "cagrad"])
def test_no_task_is_harmed(name):
    d = np.einsum("nk,nkd->nd", of_four()[name], ROWS)
    along = np.einsum("nkd,nd->nk", ROWS, d) / np.linalg.norm(ROWS, axis=2)
    assert ((ROWS @ np.swapaxes(ROWS, 1, 2)) < 0).any((1, 2)).all()
    assert (along >= -2e-5 * np.linalg.norm(d, axis=1, keepdims=True)).all()


def test_nash_is_a_direction_that_no_scale_changes():
    d = np.einsum("nk,nkd->nd", of_four()["nash"], ROWS)
    np.testing.assert_allclose(np.linalg.norm(d, axis=1), 1, rtol=1e-5)
    factors = np.array([0.01, 1.0, 20.0, 300.0])[:, None]
    w = weights({"nash": nash_mtl()}, ROWS * factors)["nash"]
    np.testing.assert_allclose(np.einsum("nk,nkd->nd", w, ROWS * factors), d, atol=1e-4)


def test_imgrad_is_optimal():
    # w is proportional to the weights less 1 / T; no point of the simplex has a lower objective.
    gram = ROWS @ np.swapaxes(ROWS, 1, 2)
    gram /= np.trace(gram, axis1=1, axis2=2)[:, None, None]
    w = of_four()["imgrad"] - 0.25
    w /= w.sum(1, keepdims=True)
    size = np.sqrt(gram.mean((1, 2)))
    shortest = np.einsum("nk,nkl->nl", of_four()["mgda"], gram)
    lengths = np.sqrt((shortest * of_four()["mgda"]).sum(1))
    q = np.minimum(shortest.mean(1) / (size * lengths), 0.999)[:, None]

    def objective(w):  # [n, points, 4] -> [n, points]
        rates = np.einsum("npk,nkl->npl", w, gram)
        norms = np.sqrt((rates * w).sum(2))
        return (1 - q) * (rates.mean(2) + 0.5 * size[:, None] * norms) + q * norms**2

    others = np.random.default_rng(1).dirichlet(np.full(4, 0.3), (len(ROWS), 2000))
    others = np.concatenate([others, 0.99 * w[:, None] + 0.01 * others], 1)
    found = objective(w[:, None])
    assert (found <= objective(others).min(1, keepdims=True) + 1e-6 * size[:, None]).all()


ROW3 = np.array([[1.0, 0.5, 0.0, 0.0], [-0.8, 1.0, 0.4, 0.0], [0.3, -0.9, 1.5, 0.2]])
THREE = {
    "plain": ROW3,
    "small": ROW3 * np.sqrt(7e-5 / (ROW3**2).sum()),  # a trace of 7e-5
    "zero row": ROW3 * [[1], [0], [1]],
    "zero": 0 * ROW3,
}
LOSSES = (2.0, 0.5, 4.0)
PREFERENCE = (0.8, 0.1, 0.1)
PRESETS = ("torchjd", "libmtl", "nash-mtl")


@functools.cache
def of_three():
    """Returns weights ``[3]`` by method and case."""
    methods = {
        "mgda": mgda(),
        "mgda kept": mgda(drop_zero_rows=False),
        **{f"mgda {norm}": mgda(norm=norm) for norm in ("l2", "loss", "loss+")},
        **{f"mgda {parity}": mgda(parity=parity) for parity in PRESETS},
        "cagrad": cagrad(),
        "cagrad zero": cagrad(zero_at_pareto=True, drop_zero_rows=False),
        **{f"cagrad {parity}": cagrad(parity=parity) for parity in PRESETS},
        "upgrad": upgrad(preference=PREFERENCE),
        "upgrad torchjd": upgrad(preference=PREFERENCE, parity="torchjd"),
        "dualproj": dualproj(preference=PREFERENCE),
        "dualproj torchjd": dualproj(preference=PREFERENCE, parity="torchjd"),
        "nash kept": nash_mtl(drop_zero_rows=False),
        "nash libmtl": nash_mtl(parity="libmtl"),
        "nash": nash_mtl(),
        "fairgrad kept": fairgrad(parity="torchjd"),
    }
    out = weights(methods, np.stack([*THREE.values()]), LOSSES)
    return {name: dict(zip(THREE, w, strict=True)) for name, w in out.items()}


@pytest.mark.parametrize("case", THREE)
def test_presets_are_finite_on_any_gramian(case):
    assert all(np.isfinite(w[case]).all() for w in of_three().values())


def test_a_zero_row_that_is_kept_stops_mgda_and_cagrad():
    w = {name: found["zero row"] for name, found in of_three().items()}
    for name in ("mgda kept", "mgda torchjd", "mgda libmtl"):
        np.testing.assert_allclose(w[name], [0, 1, 0], atol=1e-4)
    for name in ("cagrad zero", "cagrad torchjd"):
        assert not w[name].any()
    # LibMTL's gives the mean, here over 1 + 0.4^2.
    np.testing.assert_allclose(w["cagrad libmtl"][[0, 2]], 1 / 3 / 1.16, rtol=1e-3)
    for name in ("mgda", "mgda l2", "cagrad", "nash", "upgrad", "dualproj"):
        assert w[name][1] == 0 < w[name][[0, 2]].min(), name
    for name in ("nash", "nash kept"):  # the others go on
        np.testing.assert_allclose(w[name][[0, 2]], w["nash"][[0, 2]], rtol=1e-5)
    assert w["fairgrad kept"][1] == 1


def test_absolute_bounds_only_in_presets():
    small, plain = ({n: w[case] for n, w in of_three().items()} for case in ("small", "plain"))
    for name in ("mgda", "cagrad", "upgrad", "dualproj"):
        np.testing.assert_allclose(small[name], plain[name], rtol=1e-4)
    assert not small["cagrad torchjd"].any() and plain["cagrad torchjd"].all()
    for name in ("upgrad torchjd", "dualproj torchjd"):
        np.testing.assert_allclose(small[name], PREFERENCE, rtol=1e-6)
        assert np.abs(plain[name] - PREFERENCE).max() > 0.01


def test_presets_agree_on_an_easy_gramian():
    w = {name: found["plain"] for name, found in of_three().items()}
    np.testing.assert_allclose(w["mgda torchjd"], w["mgda"], atol=2e-3)  # Frank-Wolfe stops early
    np.testing.assert_allclose(w["mgda libmtl"], w["mgda"], atol=1e-4)
    np.testing.assert_allclose(w["cagrad torchjd"], 1.16 * w["cagrad"], rtol=1e-5)  # 1 + c^2
    np.testing.assert_allclose(w["cagrad libmtl"], w["cagrad"], rtol=1e-4)
    for name in ("mgda", "cagrad"):
        np.testing.assert_allclose(w[f"{name} nash-mtl"], 3 * w[f"{name} libmtl"], rtol=1e-5)
    for name in ("upgrad", "dualproj"):
        np.testing.assert_allclose(w[f"{name} torchjd"], w[name], atol=1e-3)
    np.testing.assert_allclose(w["nash libmtl"], w["nash"], rtol=1e-5)


def test_divided_gradients():
    # MGDA of the divided rows, and the weights of the rows themselves.
    norms = np.linalg.norm(ROW3, axis=1)
    divisors = {"l2": norms, "loss": np.array(LOSSES), "loss+": norms * LOSSES}
    rows = np.stack([ROW3 / divisor[:, None] for divisor in divisors.values()])
    expected = weights({"mgda": mgda()}, rows)["mgda"] / np.stack([*divisors.values()])
    for name, w in zip(divisors, expected, strict=True):
        np.testing.assert_allclose(of_three()[f"mgda {name}"]["plain"], w, rtol=1e-4)


def walk(method, grams):
    """Returns the weights ``[steps, T]`` of successive Gramians."""

    def step(state, gram):
        return method.update(gram, state)[::-1]

    start = method.init(len(grams[0]))
    return np.float64(jax.jit(lambda grams: jax.lax.scan(step, start, grams)[1])(grams))


def test_nash_every_second_step():
    grams = np.float32([ROW3 @ ROW3.T, np.diag([4.0, 1.0, 0.0]), np.diag([4.0, 4.0, 1.0])])
    w = walk(nash_mtl(every=2, max_norm=0.0), grams)
    np.testing.assert_allclose(w[1, :2], w[0, :2], rtol=1e-6)  # used again
    assert w[1, 2] == 0 < w[0, 2]
    np.testing.assert_allclose(w[2], [0.5, 0.5, 1], rtol=1e-5)
    clipped = walk(nash_mtl(every=2), grams)
    np.testing.assert_allclose((clipped[1] ** 2) @ [4, 1, 0], 1, rtol=1e-5)  # by the new Gramian


def test_modo_steps_and_keeps_the_share_of_an_absent_task():
    cross = np.float32([[[1, 0, 0], [0, 0, 0], [0, 0, 2]], np.diag([1, 1, 1])])
    w = walk(modo(gamma=0.1, rho=0.5), cross)
    # (1/2, 1/2) - 0.1 ((1/2, 1) + 0.5 (1/2, 1/2)) = (0.425, 0.375), and 0.1 to each.
    np.testing.assert_allclose(w[0], [0.525, 0, 0.475], rtol=1e-5)
    # The state is (0.35, 1/3, 0.95/3); less 15 % of itself, and 0.05 to each.
    state = np.array([0.35, 1 / 3, 0.95 / 3])
    np.testing.assert_allclose(w[1], 0.85 * state + 0.05, rtol=1e-5)


def test_sdmgrad_is_optimal_for_any_two_mini_batches():
    rng = np.random.default_rng(2)
    cross = np.float32(rng.standard_normal((20, 4, 8)) @ rng.standard_normal((20, 8, 4)))
    cross[0, 1] = cross[0, :, 1] = 0
    method = sdmgrad(pull=0.3)
    blended = np.float64(jax.jit(jax.vmap(lambda a: method.update(a, ())[0]))(cross))
    assert blended[0, 1] == 0
    w = 1.3 * blended - 0.3 / 4
    w[0, 1] = 0
    np.testing.assert_allclose(w.sum(1), 1, atol=1e-5)
    both = (cross + np.swapaxes(cross, 1, 2)) / 2
    values, vectors = np.linalg.eigh(both)
    convex = (vectors * np.maximum(values, 0)[:, None]) @ np.swapaxes(vectors, 1, 2)
    slope = np.einsum("nij,nj->ni", convex, w) + 0.3 * both.mean(2)
    cost = (slope * w).sum(1)
    slope[0, 1] = np.inf
    assert (cost - slope.min(1) < 1e-5 * values[:, -1]).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: mgda(solver="newton"), "solver='newton' is not one of exact"),
        (lambda: mgda(norm="l3"), "norm='l3' is not one of"),
        (lambda: mgda(parity="paper"), "mgda: parity='paper'"),
        (lambda: sdmgrad(solver="newton"), "solver='newton' is not one of exact, sgd"),
        (lambda: modo(parity="nash-mtl"), "modo: parity='nash-mtl'"),
        (lambda: cagrad(c=-1.0), "cagrad: c=-1.0 is negative"),
        (lambda: imgrad(c=-1.0), "imgrad: c=-1.0 is negative"),
        (lambda: cagrad(rescale=3), "cagrad: rescale=3 is not one of 0, 1, 2"),
        (lambda: upgrad(reg_mode="sine"), "reg_mode='sine' is not one of cosine, trace"),
        (lambda: upgrad(reg=0.0), "upgrad: reg=0.0 must be above 0"),
        (lambda: dualproj(parity="nash-mtl"), "dualproj: parity='nash-mtl'"),
        (lambda: pcd(beta=1.0), "pcd: beta=1.0; 0 or more and less than 1"),
        (lambda: nash_mtl(every=0), "nash_mtl: max_norm=1.0 and every=0"),
        (lambda: fairgrad(alpha=0.0), "fairgrad: alpha=0.0 is not above 0"),
        (lambda: upgrad(preference=(1.0,)).update(jnp.eye(2), ()), "there are 2 tasks"),
    ],
)
def test_errors_say_what_is_wrong(make, said):
    with pytest.raises(ConfigError, match=said):
        make()
