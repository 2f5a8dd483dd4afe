"""Small convex problems: how well they are solved, on any Gramian."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from mtl_vision.optim import solvers
from mtl_vision.optim.weightings.conflict_averse import best_in_ball

T, COUNT = 6, 25  # Gramians of each kind
RADIUS = 1.2
EASY = ("plain", "conflict", "scales")


def jacobians():
    """Returns rows ``[COUNT, T, 20]`` by kind."""
    rng = np.random.default_rng(0)
    rows = {kind: rng.standard_normal((COUNT, T, 20)) for kind in (*EASY, "opposed", "dependent")}
    signs = np.where(np.arange(T) % 2, 1, -1)[:, None]
    rows["conflict"] += signs * rng.standard_normal((COUNT, 1, 20))
    rows["scales"] *= 10 ** rng.uniform(-3, 3, (COUNT, T, 1))
    rows["opposed"] = signs * rng.standard_normal((COUNT, 1, 20)) + 0.1 * rows["opposed"]
    rows["dependent"] *= np.arange(20) < 3  # 0 is in the hull of most of them
    return rows


def solve_all(gram):
    """Returns the solutions of every problem for one Gramian."""
    unit = solvers.unit_gramian(gram)
    cosines, one = unit.cosines, jnp.eye(T, dtype=gram.dtype)
    a = jnp.min(unit.norms) / unit.norms
    cone = cosines + 1e-6 * one
    ridge = cosines + 10 * jnp.finfo(gram.dtype).eps * one
    scale = (unit.norms / jnp.max(unit.norms)) ** (-2 / 3)
    d, shortest = best_in_ball(unit, RADIUS)
    return {
        "cosines": cosines,
        "norms": unit.norms,
        "complementary": jax.vmap(solvers.complementary, (None, 0))(cone, cone),
        "simplex": a * solvers.minimize_on_simplex(lambda y: (cosines @ y, cosines), a, a > 0),
        "nash": solvers.fair_point(ridge, jnp.ones(T, gram.dtype), 1.0),
        "fair": solvers.fair_point(ridge, scale, 2.0),
        "ball": d,
        "shortest": shortest,
    }


@functools.cache
def solved(dtype):
    """Returns (rows in that type, solutions) by kind, all of them in double precision."""
    rows = {kind: np.asarray(value, dtype) for kind, value in jacobians().items()}
    grams = {kind: J @ np.swapaxes(J, 1, 2) for kind, J in rows.items()}
    with jax.enable_x64(dtype == "float64"):
        out = jax.jit(jax.vmap(solve_all))(np.concatenate([*grams.values()]))
        assert all(x.dtype == dtype for x in jax.tree.leaves(out))
        out = jax.tree.map(np.float64, out)
    parts = [slice(i * COUNT, (i + 1) * COUNT) for i in range(len(rows))]
    return {
        kind: (np.float64(rows[kind]), jax.tree.map(lambda x, part=part: x[part], out))
        for kind, part in zip(rows, parts, strict=True)
    }


both = pytest.mark.parametrize("dtype", ["float32", "float64"])


def norm(x):
    return np.linalg.norm(x, axis=-1)


def test_simplex_projection_by_hand():
    points = jnp.array([[0.3, 0.9, 0.2, 5.0], [2.0, 0.5, -1.0, 5.0], [0.0, 0.0, 0.0, 5.0]])
    active = jnp.array([True, True, True, False])
    project = jax.jit(jax.vmap(solvers.project_simplex, (0, None)))
    # 0.3 + 0.9 + 0.2 = 1.4, so each loses 0.4 / 3; 2 - 0.5 > 1 leaves the first alone.
    first = np.array([0.3, 0.9, 0.2]) - 0.4 / 3
    expected = [[*first, 0], [1, 0, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0]]
    np.testing.assert_allclose(project(points, active), expected, atol=1e-6)
    assert not project(points, active & False).any()


@both
def test_complementarity(dtype):
    for kind, (_, out) in solved(dtype).items():
        cone = out["cosines"] + 1e-6 * np.eye(T)
        x = out["complementary"]
        y = (np.eye(T) + x) @ cone
        worst = np.abs(np.minimum(x, y)).max((1, 2)) / (1 + x.max((1, 2)))
        assert worst.max() < (5e-6 if dtype == "float32" else 1e-14), kind


@both
def test_shortest_vector_of_the_hull(dtype):
    for kind, (rows, out) in solved(dtype).items():
        w = out["simplex"]
        np.testing.assert_allclose(w.sum(1), 1, rtol=1e-6)
        d = np.einsum("nk,nkd->nd", w, rows)
        gap = (d**2).sum(1) - np.einsum("nkd,nd->nk", rows, d).min(1)
        gap /= (rows**2).sum((1, 2))
        assert gap.max() < (5e-8 if dtype == "float32" else 1e-15), kind
        # <g_t, d> >= |d|^2, also as seen by the smallest gradient
        short = (d**2).sum(1, keepdims=True) - np.einsum("nkd,nd->nk", rows, d)
        limit = 1e-5 if dtype == "float32" else 1e-13
        if kind in EASY:
            assert (short / norm(rows) <= limit * norm(d)[:, None]).all(), kind


@both
@pytest.mark.parametrize(("name", "alpha"), [("nash", 1), ("fair", 2)])
def test_fairness(name, alpha, dtype):
    far = name == "fair"  # nash does not see norms
    limits = {"plain": 3e-5, "conflict": 3e-5, "scales": 5e-4 if far else 3e-5, "opposed": 2e-3}
    for kind, limit in limits.items():
        out = solved(dtype)[kind][1]
        relative = out["norms"] / out["norms"].max(1, keepdims=True)
        scale, y = relative ** (2 * (1 - alpha) / (1 + alpha)), out[name]
        product = np.einsum("nij,nj->ni", out["cosines"], np.sqrt(scale) * y)
        error = np.abs(product * y ** (1 / alpha) / np.sqrt(scale) - 1).max()
        assert error < (limit if dtype == "float32" else limit * 1e-8), (kind, error)


def gains(kind, dtype):
    """Returns (rows, d - g0, least gain over the size of the problem) of the best d in the ball."""
    rows, out = solved(dtype)[kind]
    mean, d = rows.mean(1), np.einsum("nk,nkd->nd", out["ball"], rows)
    least = np.einsum("nkd,nd->nk", rows, d).min(1)
    return rows, d - mean, least / (norm(mean) * np.sqrt((rows**2).sum((1, 2))))


@both
@pytest.mark.parametrize("kind", jacobians())
def test_best_in_ball(kind, dtype):
    rows, move, least = gains(kind, dtype)
    limit = 5e-5 if dtype == "float32" else 1e-9
    assert (norm(move) <= RADIUS * norm(rows.mean(1)) * (1 + limit)).all()
    bounds = [bound(*case) for case in zip(*gains(kind, "float64")[:2], strict=True)]
    assert (np.array(bounds) - least).max() < limit


def bound(rows, move):
    """Returns what no least gain exceeds: ``<g_w, g0> + radius |g0| |g_w|``, for any w.

    w comes from the conditions of the optimum: g_w points along the move, or is 0 if that ends
    inside the ball, and only tasks with the least gain have weight.
    """
    mean, size = rows.mean(0), np.sqrt((rows**2).sum())
    gain = rows @ (mean + move)
    worst = gain - gain.min() < 1e-7 * norm(rows) * norm(mean)
    along = move if norm(move) > (1 - 1e-6) * RADIUS * norm(mean) else 0 * move
    columns = np.vstack([rows[worst], -along * size / norm(mean)]).T / size
    columns = np.vstack([columns, [*np.ones(worst.sum()), 0]])
    solution, _ = scipy.optimize.nnls(columns, [*np.zeros(rows.shape[1]), 1])
    w = solution[:-1] / solution[:-1].sum()
    g = w @ rows[worst]
    return (g @ mean / norm(mean) + RADIUS * norm(g)) / size


@both
def test_best_in_ball_at_stationary_points(dtype):
    # 0 is in the hull: no d serves all tasks, and the best one conflicts with none.
    limit = 1e-4 if dtype == "float32" else 1e-9
    rows, out = solved(dtype)["dependent"]
    stationary = out["shortest"] < limit
    assert 3 < stationary.sum() < COUNT
    least = gains("dependent", dtype)[2]
    assert np.abs(least[stationary]).max() < limit < least[~stationary].min()
