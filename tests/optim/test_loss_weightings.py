import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision.errors import ConfigError
from mtl_vision.optim.loss_weightings import LOSS_WEIGHTINGS, scalars

METHODS = {name: make() for name, make in LOSS_WEIGHTINGS.items()} | {
    "fixed": LOSS_WEIGHTINGS["fixed"](weights=(1.0, 3.0, 0.5)),
    "dwa": LOSS_WEIGHTINGS["dwa"](steps_per_epoch=2),
    "stch": LOSS_WEIGHTINGS["stch"](steps_per_epoch=2, warmup_epochs=1, mu=0.5),
    "uw libmtl": LOSS_WEIGHTINGS["uw"](parity="libmtl"),
    "dwa nash-mtl": LOSS_WEIGHTINGS["dwa"](steps_per_epoch=2, parity="nash-mtl"),
    "stch torchjd": LOSS_WEIGHTINGS["stch"](mu=0.5, parity="torchjd"),
    "famo lagged": LOSS_WEIGHTINGS["famo"](lagged=True),
}
STEPS = 8
ROWS = {  # the losses of the first step, [T]; every row is a run of its own
    "plain": (1.0, 2.0, 4.0),
    "tiny": (1e-6, 2e-6, 4e-6),
    "huge": (1e6, 2e6, 4e6),
    "uneven": (1e-6, 1.0, 1e6),
    "zero": (0.0, 2.0, 4.0),
    "all zero": (0.0, 0.0, 0.0),
    "negative": (-1.0, 2.0, 4.0),
    "nan": (float("nan"), 2.0, 4.0),
}
PLAIN = list(ROWS).index("plain")
UNAWARE = {"equal", "fixed", "rlw"}  # do not look at the losses
LOGARITHMIC = {"si", "gls", "stch", "famo", "famo lagged"}


@jax.jit
@jax.vmap
def step(losses, after, states, key):
    weights, new = {}, {}
    for name, method in METHODS.items():
        weights[name], new[name] = method.update(losses, states[name], key=key)
        if method.after:
            new[name] = method.after(losses, after, new[name])
    return weights, new


def start():
    states = {name: method.init(3) for name, method in METHODS.items()}
    return jax.tree.map(lambda x: jnp.stack([x] * len(ROWS)), states)


def run(sequence, states):
    """Weights ``{name: [S, N, T]}`` of S steps, whose losses are the first S of S + 1."""
    seen = []
    for t, (losses, after) in enumerate(zip(sequence[:-1], sequence[1:], strict=True)):
        keys = jnp.stack([jax.random.fold_in(jax.random.key(0), t)] * len(ROWS))
        weights, states = step(losses, after, states, keys)
        seen.append(weights)
    return jax.tree.map(lambda *w: np.stack(w), *seen), states


@pytest.fixture(scope="module")
def sequence():
    drift = np.exp(np.random.default_rng(0).normal(-0.1, 0.3, (STEPS + 1, 1, 3)).cumsum(0))
    drift /= drift[:1]
    return jnp.asarray(drift * np.array([*ROWS.values()]), jnp.float32)


@pytest.fixture(scope="module")
def weights(sequence):
    return run(sequence, start())[0]


def adam(value, slopes, decay=0.0):
    """Values before each step of Adam with rate 0.025, after the first and so on."""
    m, v, seen = 0.0, 0.0, []
    for t, slope in enumerate(slopes, 1):
        seen.append(value)
        g = slope(value) + decay * value
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        value = value - 0.025 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return np.array(seen)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def loop_uw(L, start=0.0):
    s = adam(np.full(3, start), [lambda s, x=x: (1 - x * np.exp(-s)) / 2 for x in L[:-1]])
    return np.exp(-s) / 2


def loop_imtl_l(L):
    return np.exp(adam(np.zeros(3), [lambda s, x=x: np.exp(s) * x - 1 for x in L[:-1]]))


def loop_dwa(L):
    rows = []
    for t in range(STEPS):
        first = max(t // 2 * 2 - 4, 0)  # of the epoch before the last one
        means = [L[a : a + 2].mean(0) for a in (first, first + 2)]
        rows.append(np.ones(3) if t < 4 else 3 * softmax(means[1] / means[0] / 2))
    return np.array(rows)


def loop_dwa_sliding(L):
    L = np.concatenate([np.ones((4, 3)), L])  # step t is row t + 4
    rows = []
    for t in range(4, 4 + STEPS):
        ratio = L[t - 1 : t + 1].mean(0) / L[t - 3 : t - 1].mean(0)
        rows.append(softmax(ratio / 2) if t - 4 > 2 else np.ones(3) / 3)
    return np.array(rows)


def loop_stch(L):
    z = L[2:4].mean(0)
    late = [3 * softmax(np.log(x / z) / 0.5) / x for x in L[4:-1]]
    return np.concatenate([1 / L[:4], late])


def loop_famo(L):
    def slope(xi, x, y):
        z, delta = softmax(xi), np.log(x + 1e-8) - np.log(y + 1e-8)
        return z * (delta - z @ delta)

    pairs = zip(L[:-1], L[1:], strict=True)
    xi = adam(np.zeros(3), [lambda xi, p=p: slope(xi, *p) for p in pairs], decay=1e-3)
    ratio = np.array([softmax(x) for x in xi]) / (L[:-1] + 1e-8)
    return ratio / ratio.sum(1, keepdims=True)


LOOPS = {
    "equal": lambda L: np.ones((STEPS, 3)),
    "fixed": lambda L: np.tile([1.0, 3.0, 0.5], (STEPS, 1)),
    "si": lambda L: 1 / L[:-1],
    "gls": lambda L: L[:-1].prod(1, keepdims=True) ** (1 / 3) / 3 / L[:-1],
    "uw": loop_uw,
    "uw libmtl": lambda L: loop_uw(L, -0.5),
    "imtl_l": loop_imtl_l,
    "dwa": loop_dwa,
    "dwa nash-mtl": loop_dwa_sliding,
    "stch": loop_stch,
    "stch torchjd": lambda L: np.array([softmax(x / 1.5) / 3 for x in L[:-1]]),
    "famo": loop_famo,
    "famo lagged": loop_famo,
}


def test_every_method_but_the_random_one_has_a_loop():
    assert set(LOOPS) == set(METHODS) - {"rlw"}


@pytest.mark.parametrize("name", LOOPS)
def test_steps_follow_a_plain_loop(name, sequence, weights):
    expected = LOOPS[name](np.asarray(sequence[:, PLAIN], np.float64))
    np.testing.assert_allclose(weights[name][:, PLAIN], expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("si", (1, 1 / 2, 1 / 4)),
        ("gls", (2 / 3, 1 / 3, 1 / 6)),  # the mean of 1, 2, 4 is 2; 2 / (3 L)
        ("uw", (1 / 2, 1 / 2, 1 / 2)),  # e^0 / 2
        ("imtl_l", (1, 1, 1)),  # e^0
        ("famo", (4 / 7, 2 / 7, 1 / 7)),  # 1/L over 1 + 1/2 + 1/4
        ("dwa nash-mtl", (1 / 3, 1 / 3, 1 / 3)),
    ],
)
def test_first_weights_by_hand(name, expected, weights):
    np.testing.assert_allclose(weights[name][0, PLAIN], expected, rtol=1e-6)


def test_random_weights_change_and_sum_to_one(weights):
    rlw = weights["rlw"][:, PLAIN]
    np.testing.assert_allclose(rlw.sum(1), 1, rtol=1e-6)
    assert (rlw > 0).all() and (np.abs(np.diff(rlw, axis=0)).max(1) > 1e-3).all()


@pytest.mark.parametrize("name", METHODS)
def test_weights_are_finite_for_every_finite_loss(name, weights):
    finite = [i for i, row in enumerate(ROWS) if row != "nan"]
    assert np.isfinite(weights[name][:, finite]).all()
    assert weights[name].dtype == np.float32


@pytest.mark.parametrize("name", sorted(set(METHODS) - UNAWARE))
def test_nan_surfaces(name, weights):
    assert np.isnan(weights[name][-1, list(ROWS).index("nan"), 0])


@pytest.mark.parametrize("row", ["zero", "negative"])
@pytest.mark.parametrize("name", sorted(LOGARITHMIC))
def test_a_task_without_a_logarithm_weighs_nothing_and_leaves_the_others_alone(name, row, weights):
    w = weights[name][:, list(ROWS).index(row)]
    assert (w[:, 0] == 0).all() and (w[:, 1:] > 0).all()
    if name.startswith("famo"):
        np.testing.assert_allclose(w.sum(1), 1, rtol=1e-6)


def test_nothing_is_learned_from_a_task_without_labels(sequence):
    states, row = run(sequence, start())[1], list(ROWS).index("zero")
    for learned in (states["uw"], states["imtl_l"], states["famo"].logits):
        assert learned.values[row, 0] == 0 and (learned.values[row, 1:] != 0).all()


def test_scale_of_the_losses_cancels(weights):
    tiny, plain, huge = (list(ROWS).index(row) for row in ("tiny", "plain", "huge"))
    for name in ("dwa", "gls"):
        for row in (tiny, huge):
            np.testing.assert_allclose(
                weights[name][:, row], weights[name][:, plain], rtol=1e-5, err_msg=name
            )
    w = weights["famo"]
    np.testing.assert_allclose(w[:, huge], w[:, plain], rtol=1e-4)


def test_resumed_equals_uninterrupted(sequence, weights):
    _, saved = run(sequence[:4], start())
    saved = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), saved)
    rest, _ = run(sequence[3:], saved)
    for name in set(METHODS) - {"rlw"}:  # its key is the caller's
        np.testing.assert_array_equal(rest[name], weights[name][3:], err_msg=name)


@pytest.mark.parametrize("name", METHODS)
def test_low_precision_losses_give_float32_weights_and_a_state_of_one_form(name):
    method = METHODS[name]
    state = jax.eval_shape(lambda: method.init(3))
    losses = jax.ShapeDtypeStruct((3,), jnp.bfloat16)
    key = jax.eval_shape(lambda: jax.random.key(0))
    w, after = jax.eval_shape(lambda *a: method.update(*a[:2], key=a[2]), losses, state, key)
    assert w.dtype == jnp.float32 and w.shape == (3,)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)


def test_famo_slope_of_seen_tasks_sums_to_zero():
    before, after = jnp.array([1.0, 2.0, 0.0]), jnp.array([0.5, 2.0, 0.0])
    slope = scalars.famo_slope(before, after, jnp.array([0.25, 0.5, 0.25]))
    # delta (log 2, 0), mean over the two seen tasks log(2) / 3
    np.testing.assert_allclose(slope, np.log(2) * np.array([1 / 6, -1 / 6, 0]), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("uw", {"lr": -1.0}, "uw: lr=-1.0 must be at least 0"),
        ("uw", {"parity": "torchjd"}, "uw: parity='torchjd' is unknown here.*'libmtl'"),
        ("imtl_l", {"lr": float("nan")}, "imtl_l: lr=nan must be at least 0"),
        ("dwa", {"temperature": 0.0}, "dwa: temperature=0.0 must be above 0"),
        ("dwa", {"steps_per_epoch": 0}, "dwa: steps_per_epoch=0 must be above 0"),
        ("dwa", {"parity": "libmtl"}, "dwa: parity='libmtl' is unknown here.*'nash-mtl'"),
        ("stch", {"mu": 0.0}, "stch: mu=0.0 must be above 0"),
        ("stch", {"warmup_epochs": -1}, "stch: warmup_epochs=-1 is negative; use 0 or more"),
        ("stch", {"parity": "libmtl"}, "stch: parity='libmtl' is unknown here.*'torchjd'"),
        ("famo", {"weight_decay": -1e-3}, "famo: weight_decay=-0.001 must be at least 0"),
    ],
)
def test_bad_fields(name, fields, message):
    with pytest.raises(ConfigError, match=message):
        LOSS_WEIGHTINGS[name](**fields)


def test_fixed_needs_one_weight_per_task():
    with pytest.raises(ConfigError, match=r"fixed: weights=\(1.0, 2.0\) are 2 for 3 tasks"):
        LOSS_WEIGHTINGS["fixed"](weights=(1.0, 2.0)).init(3)
