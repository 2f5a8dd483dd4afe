import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mtl_vision.errors import ConfigError
from mtl_vision.optim.coordinates import (
    db_mtl,
    drop_signs,
    excess_mtl,
    graddrop,
    moco,
    trimmed_mean,
)
from mtl_vision.optim.uniform import uniform

KEY = jax.random.key(0)
MAKERS = {
    "graddrop": graddrop,
    "graddrop_leak": functools.partial(graddrop, leak=(0.1, 0.5, 0.3)),
    "trimmed_mean": trimmed_mean,
    "moco": moco,
    "db_mtl": db_mtl,
    "excess_mtl": excess_mtl,
}
PARAMS = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}


def tree(flat):
    """Splits ``[T, 10]`` into leaves of the shapes of `PARAMS`."""
    flat = np.asarray(flat, np.float32)
    return {"a": flat[:, :6].reshape(-1, 2, 3), "b": flat[:, 6:]}


def flat(tree):
    return np.concatenate([np.ravel(tree["a"]), np.ravel(tree["b"])])


def follow(method, rows, losses):
    """Returns the merged gradients ``[steps, 10]`` of successive updates."""
    update, state = jax.jit(method.update), method.init(PARAMS, len(losses[0]))
    merged = []
    for g, L in zip(rows, losses, strict=True):
        d, state = update(tree(g), state, losses=np.float32(L), key=KEY)
        merged.append(flat(d))
    return np.stack(merged)


# Random numbers


@functools.cache
def numbers():
    """Returns uniform numbers ``[keys, position]``: three keys, and two leaves of the first."""
    keys = jnp.stack(
        [*map(jax.random.key, range(3)), *(jax.random.fold_in(KEY, i) for i in (0, 1))]
    )
    return np.asarray(jax.jit(jax.vmap(lambda key: uniform(key, (1 << 18,))))(keys), np.float64)


def test_numbers_are_uniform():
    u, N = numbers(), numbers().shape[1]
    assert 0 < u.min() and u.max() < 1
    assert np.abs(u.mean(1) - 0.5).max() < 4 / np.sqrt(12 * N)
    assert np.abs((u * u).mean(1) - 1 / 3).max() < 4 * np.sqrt(4 / 45 / N)
    for row in u:  # 1024 cells: chi^2 has mean 1023 and deviation 45
        counts = np.bincount((row * 1024).astype(int), minlength=1024)
        assert abs(((counts - N / 1024) ** 2).sum() / (N / 1024) - 1023) < 4 * 45


def test_pairs_of_numbers_fill_the_square():
    u, N = numbers(), numbers().shape[1]
    pairs = [(row[lag:], row[: N - lag]) for row in u for lag in (1, 2, 3, 7, 64, 768, 4096)]
    pairs += [(u[i], u[j]) for i in range(5) for j in range(i)]  # of keys and leaves
    for x, y in pairs:  # 32 x 32 cells
        cells = (x * 32).astype(int) * 32 + (y * 32).astype(int)
        expected = len(x) / 1024
        chi = ((np.bincount(cells, minlength=1024) - expected) ** 2).sum() / expected
        assert abs(chi - 1023) < 5 * 45
        assert abs(np.corrcoef(x, y)[0, 1]) < 5 / np.sqrt(len(x))


def test_every_bit_of_the_position_counts():
    # Numbers at positions that differ in one bit: their leading bits agree half of the time.
    leading = numbers()[0] > 0.5
    N = len(leading)
    for bit in range(18):
        agree = (leading == leading[np.arange(N) ^ (1 << bit)]).mean()
        assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(N / 2)


def test_no_key_repeats_the_numbers_of_another():
    values = [np.unique(row[:4096]) for row in numbers()]
    for i in range(5):
        for j in range(i):  # of 4096 numbers out of 2^23, two are expected to meet
            assert len(np.intersect1d(values[i], values[j])) < 16


def test_numbers_belong_to_positions():
    expected = np.asarray(uniform(KEY, (24,)))
    np.testing.assert_array_equal(np.ravel(uniform(KEY, (2, 3, 4))), expected)
    assert uniform(KEY, ()).shape == ()
    assert uniform(KEY, ()) == expected[0]


# GradDrop


def test_graddrop_by_hand():
    g = jnp.array([[3.0, 3.0, -1.0, 0.0], [-1.0, -1.0, -2.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    u = jnp.array([0.7, 0.9, 0.5, 0.5])  # P = 4 / 5, 4 / 5, 0, any
    np.testing.assert_allclose(drop_signs(g, u), [4, -1, -3, 0])
    # Leaks 0.5, 1, 0: 0.5 * 3 - 1 pass, 1.5 + 1 are kept; the same, 0 kept; -0.5 - 2, -0.5.
    leaking = drop_signs(g, u, (0.5, 1.0, 0.0))
    np.testing.assert_allclose(leaking, [1.5 - 1 + 2.5, 1.5 - 1, -2.5 - 0.5, 0])


def test_graddrop_without_conflict_is_the_sum():
    g = np.random.default_rng(0).uniform(0.1, 1, (4, 50)) * np.where(np.arange(50) % 2, 1, -1)
    g = jnp.asarray(g, jnp.float32)
    for u in (2.0**-24, 0.5, 1 - 2.0**-24):
        np.testing.assert_allclose(drop_signs(g, jnp.full(50, u)), g.sum(0), rtol=1e-6)


def test_graddrop_keeps_a_sign_as_often_as_it_is_strong():
    rows = {"a": jnp.tile(jnp.array([[3.0], [-1.0]]), (1, 40000))}
    merged = np.asarray(graddrop().update(rows, (), key=KEY)[0]["a"])
    assert set(np.unique(merged)) == {-1.0, 3.0}
    assert abs((merged > 0).mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 40000)


def test_graddrop_draws_anew_for_every_leaf_and_key():
    rows = {name: jnp.tile(jnp.array([[1.0], [-1.0]]), (1, 4000)) for name in "ab"}
    draws = [graddrop().update(rows, (), key=jax.random.key(i))[0] for i in (0, 0, 1)]
    first, again, other = ({k: np.asarray(v) for k, v in d.items()} for d in draws)
    np.testing.assert_array_equal(first["a"], again["a"])
    for x, y in ((first["a"], first["b"]), (first["a"], other["a"])):
        assert abs((x == y).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_graddrop_is_the_same_on_eight_devices_and_gathers_nothing():
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((3, 16, 8)), jnp.float32)
    merge = jax.jit(lambda g: graddrop().update({"a": g}, (), key=KEY)[0]["a"])
    expected = merge(rows)
    spread = jax.device_put(rows, NamedSharding(mesh, PartitionSpec(None, "x", "y")))
    actual = merge(spread)
    np.testing.assert_array_equal(actual, expected)
    assert actual.sharding.spec == PartitionSpec("x", "y")
    text = merge.lower(spread).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text


def test_leak_needs_a_number_for_each_task():
    with pytest.raises(ConfigError, match="graddrop: leak=.* has 2 numbers, but there are 3"):
        graddrop(leak=(0.1, 0.2)).init(PARAMS, 3)


# Trimmed mean


def test_trimmed_mean_by_hand():
    g = jnp.array([[1.0, -5.0], [9.0, 2.0], [2.0, 2.0], [4.0, 1.0], [3.0, 8.0]])
    for trim, expected in ((0, [3.8, 1.6]), (1, [3, 5 / 3]), (2, [3, 2])):
        merged = trimmed_mean(trim=trim).update({"a": g}, ())[0]["a"]
        np.testing.assert_allclose(merged, expected, rtol=1e-6)


def test_trimmed_mean_of_one_task_and_of_too_few():
    alone = trimmed_mean()
    assert alone.init(PARAMS, 1) == ()
    np.testing.assert_array_equal(alone.update({"a": jnp.array([[1.0, 2.0]])}, ())[0]["a"], [1, 2])
    with pytest.raises(ConfigError, match="trimmed_mean: trim=2 .* 4 tasks; use 0 to 1"):
        trimmed_mean(trim=2).init(PARAMS, 4)


# Methods with memory


def random_steps(T=3, steps=5):
    random = np.random.default_rng(1)
    return random.standard_normal((steps, T, 10)), random.uniform(0.5, 2, (steps, T))


def test_moco_follows_its_formulas():
    rows, losses = random_steps()
    y, w, expected = np.zeros((3, 10)), np.full(3, 1 / 3), []
    for t, (g, L) in enumerate(zip(rows, losses, strict=True), 1):
        target = L[:, None] * g / np.linalg.norm(g, axis=1, keepdims=True)
        y -= 0.4 / t**0.5 * (y - target)
        w = np.exp(w - 0.3 / t**0.5 * (y @ y.T + 0.2 * np.eye(3)) @ w)
        w /= w.sum()
        expected.append(w @ y)
    actual = follow(moco(beta=0.4, gamma=0.3, rho=0.2), rows, losses)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_db_mtl_follows_its_formulas(sigma):
    rows, losses = random_steps()
    y, expected = np.zeros((3, 10)), []
    for t, (g, L) in enumerate(zip(rows, losses, strict=True), 1):
        h = g / (L[:, None] + 1e-8)
        y = h + 0.8 / t**sigma * (y - h)
        norms = np.linalg.norm(y, axis=1)
        expected.append((norms.max() / norms) @ y)
    actual = follow(db_mtl(beta=0.8, sigma=sigma), rows, losses)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_excess_mtl_follows_its_formulas():
    rows, losses = random_steps()
    squares, w, first, expected = np.zeros((3, 10)), np.ones(3) / 3, [], []
    for g in rows:
        squares += g**2
        excess = (g**2 / np.sqrt(squares)).sum(1)
        if len(first) < 2:
            first.append(excess)
        else:
            w *= np.exp(0.5 * excess / np.mean(first, axis=0))
            w /= w.sum()
        expected.append(3 * w @ g)
    actual = follow(excess_mtl(step=0.5, warmup=2), rows, losses)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["moco", "db_mtl", "excess_mtl"])
def test_an_absent_task_waits(name):
    rows, losses = random_steps(steps=2)
    rows[1, 1] = 0
    method = MAKERS[name]()
    update, before = jax.jit(method.update), method.init(PARAMS, 3)
    _, before = update(tree(rows[0]), before, losses=np.float32(losses[0]))
    _, state = update(tree(rows[1]), before, losses=np.float32(losses[1]))
    memory = "squares" if name == "excess_mtl" else "y"
    for leaf in ("a", "b"):
        kept, old = getattr(state, memory)[leaf], getattr(before, memory)[leaf]
        np.testing.assert_array_equal(kept[1], old[1])
        assert (np.asarray(kept[0]) != np.asarray(old[0])).any()


def test_an_absent_task_has_no_share_in_db_mtl():
    rows, losses = random_steps(steps=2)
    rows[1, 1] = 0
    with_it = follow(db_mtl(), rows, losses)[1]
    without = follow(db_mtl(), rows[:, [0, 2]], losses[:, [0, 2]])[1]
    np.testing.assert_allclose(with_it, without, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: excess_mtl(warmup=0), "warmup=0; at least 1"),
        (lambda: excess_mtl(warmup=-1, parity="torchjd"), "warmup=-1; at least 0"),
        (lambda: excess_mtl(parity="libmtl"), "parity='libmtl' is unknown"),
    ],
)
def test_choices_of_excess_mtl(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# All of them


@pytest.mark.parametrize("name", MAKERS)
def test_any_input(name):
    """One compilation: the cases are stacked, the first update starts from a fresh state."""
    method, base = MAKERS[name](), np.random.default_rng(0).standard_normal((3, 10))
    cases = [s * base for s in (1e-12, 1e-6, 1.0, 1e6, 1e12)]
    cases += [base * [[1], [0], [1]], 0 * base]
    spoiled = [base.copy(), base.copy()]
    spoiled[0][1, 7], spoiled[1][1, 7] = np.nan, np.inf
    rows = jax.tree.map(lambda *x: np.stack(x), *map(tree, cases + spoiled))
    losses = np.ones(3, np.float32)

    def first(rows):
        return method.update(rows, method.init(PARAMS, 3), losses=losses, key=KEY)

    merged, state = jax.jit(jax.vmap(first))(rows)
    assert merged["a"].shape == (len(cases) + 2, 2, 3) and merged["b"].dtype == np.float32
    merged = np.concatenate([merged["a"].reshape(-1, 6), merged["b"]], axis=1)
    assert np.isfinite(merged[: len(cases)]).all()
    assert (merged[6] == 0).all() and (np.abs(merged[:5]).max(1) > 0).all()
    assert not np.isfinite(merged[7]).all() and not np.isfinite(merged[8]).all()
    direction = merged[:5] / np.linalg.norm(merged[:5], axis=1, keepdims=True)
    np.testing.assert_allclose(direction, np.tile(direction[2], (5, 1)), rtol=1e-3, atol=1e-5)
    kept = jax.tree.map(lambda x: x[: len(cases)], state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(kept))


@pytest.mark.parametrize("name", MAKERS)
def test_half_precision_goes_in_and_out(name):
    rows = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree(random_steps()[0][0]))
    method = MAKERS[name]()
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    merged, state = jax.eval_shape(
        lambda rows: method.update(rows, method.init(params, 3), losses=jnp.ones(3), key=KEY), rows
    )
    assert {x.dtype for x in jax.tree.leaves(merged)} == {jnp.dtype("bfloat16")}
    assert jnp.dtype("bfloat16") not in {x.dtype for x in jax.tree.leaves(state)}
