import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision.errors import ConfigError
from mtl_vision.optim.contracts import stateless
from mtl_vision.optim.weightings.balance import aligned_mtl, config, imtl_g, norm_balance
from mtl_vision.optim.weightings.robust import krum
from mtl_vision.optim.weightings.simple import mean, total
from mtl_vision.optim.weightings.stateful import cr_mogm, gradnorm
from mtl_vision.optim.weightings.surgery import gradvac, gradvac_in_order, pcgrad, random_orders

KEY = jax.random.key(0)
FIXED = jnp.broadcast_to(jnp.arange(3), (3, 3))
CONFLICT = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])  # <g0, g1> = -22, |g|^2 = 18 and 38
THREE = np.array([[1.0, 0.0, 0.2], [-0.6, 1.0, 0.1], [-0.5, -0.7, 1.0]])


vaccinate = jax.jit(gradvac_in_order, static_argnames="floor")


def weights(method, rows):
    """Returns the first weights of a method for rows of gradients."""
    rows = np.asarray(rows)
    gram = None if method.needs == "losses" else np.float32(rows @ rows.T)
    losses = np.ones(len(rows), np.float32)
    return np.asarray(
        jax.jit(method.update)(gram, method.init(len(rows)), losses=losses, key=KEY)[0]
    )


def test_sum_and_mean():
    np.testing.assert_array_equal(weights(total(), THREE), [1, 1, 1])
    np.testing.assert_allclose(weights(mean(), THREE), [1 / 3] * 3, rtol=1e-6)
    np.testing.assert_allclose(weights(mean(preference=(3.0, 1.0)), CONFLICT), [3, 1])
    with pytest.raises(ConfigError, match="preference=.* has 2 numbers, but there are 3 tasks"):
        weights(mean(preference=(3.0, 1.0)), THREE)


# PCGrad


def surgery_loop(rows, *, include_self, eps):
    """PCGrad in the order 0 to T - 1, on the gradients themselves."""
    merged = np.zeros_like(rows[0])
    for i, g in enumerate(rows):
        g = g.copy()
        for j, other in enumerate(rows):
            if (include_self or i != j) and (dot := g @ other) < 0:
                g -= dot / (other @ other + eps) * other
        merged += g
    return merged


def test_pcgrad_of_two_by_hand():
    np.testing.assert_allclose(weights(pcgrad(), CONFLICT), [1 + 22 / 18, 1 + 22 / 38], rtol=1e-6)


@pytest.mark.parametrize("parity", ["torchjd", "libmtl", "nash-mtl"])
def test_pcgrad_visits_in_a_fixed_order(parity):
    rows = 1e-3 * THREE  # small, so that LibMTL's 1e-8 is seen
    w = weights(pcgrad(order="fixed", parity=parity), rows)
    expected = surgery_loop(
        rows, include_self=parity != "torchjd", eps=1e-8 if parity == "libmtl" else 0.0
    )
    np.testing.assert_allclose(w @ rows, expected, rtol=1e-4, atol=1e-9)


def test_pcgrad_meets_itself_after_projections_that_do_not_commute():
    rows = np.array([[3.0, 0.0], [1.0, -2.0], [-3.0, 2.0]])
    plain = surgery_loop(rows, include_self=False, eps=0.0)
    itself = surgery_loop(rows, include_self=True, eps=0.0)
    assert np.abs(plain - itself).max() > 0.1
    w = weights(pcgrad(order="fixed", include_self=True), rows)
    np.testing.assert_allclose(w @ rows, itself, atol=1e-6)


def test_pcgrad_mean_is_the_sum_over_t():
    w = weights(pcgrad(), THREE)
    np.testing.assert_allclose(weights(pcgrad(reduction="mean"), THREE), w / 3, rtol=1e-6)


def test_pcgrad_without_conflict_is_the_sum():
    np.testing.assert_array_equal(weights(pcgrad(), np.abs(THREE)), [1, 1, 1])


def test_random_orders_are_permutations_of_their_own():
    orders = np.asarray(random_orders(KEY, 6))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(6), (6, 1)))
    assert len(np.unique(orders, axis=0)) == 6
    assert (orders != np.asarray(random_orders(jax.random.key(1), 6))).any()


# GradVac


def test_gradvac_starts_as_pcgrad_and_remembers_cosines():
    gram = jnp.asarray(CONFLICT @ CONFLICT.T, jnp.float32)
    w, phi = vaccinate(gram, jnp.zeros((2, 2)), FIXED[:2, :2])
    np.testing.assert_allclose(w, [1 + 22 / 18, 1 + 22 / 38], rtol=1e-5)
    half = -22 / np.sqrt(18 * 38) / 2  # beta = 0.5
    np.testing.assert_allclose(phi, [[0, half], [half, 0]], rtol=1e-5)


def test_gradvac_reaches_its_target():
    rows = np.array([[2.0, 0.0], [0.0, 3.0]])  # orthogonal, targets 0.6 and 0.8
    phi = jnp.array([[0.0, 0.6], [0.8, 0.0]])
    w, _ = vaccinate(jnp.asarray(rows @ rows.T), phi, FIXED[:2, :2])
    # |g_i| phi / (|g_j| sqrt(1 - phi^2)): 2 * 0.6 / (3 * 0.8) and 3 * 0.8 / (2 * 0.6)
    np.testing.assert_allclose(w, [1 + 2.0, 1 + 0.5], rtol=1e-5)


def test_gradvac_does_not_depend_on_the_scale():
    phi = jnp.full((3, 3), 0.3)
    gram = jnp.asarray(THREE @ THREE.T, jnp.float32)
    expected = vaccinate(gram, phi, FIXED)
    for scale in (1e-24, 1e24):
        actual = vaccinate(scale * gram, phi, FIXED)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), actual, expected)


def test_gradvac_keeps_the_targets_of_an_absent_task():
    rows = THREE * [[1], [0], [1]]
    gram, phi = jnp.asarray(rows @ rows.T, jnp.float32), jnp.full((3, 3), 0.3)
    w, kept = vaccinate(gram, phi, FIXED)
    assert (np.delete(kept, 1, 0)[:, 1] == phi[0, 0]).all() and (kept[1] == phi[1]).all()
    np.testing.assert_allclose(w[1], 1)
    pair, _ = vaccinate(gram[::2, ::2], phi[:2, :2], FIXED[:2, :2])
    np.testing.assert_allclose(w[::2], pair, rtol=1e-6)
    pulled = vaccinate(gram, phi, FIXED, floor=1e-8)[1]
    np.testing.assert_allclose(pulled[0, 1], 0.15, rtol=1e-6)


def test_gradvac_stays_finite_after_equal_gradients():
    phi = jnp.ones((2, 2))  # targets that no conflict reaches
    w, _ = vaccinate(jnp.asarray(CONFLICT @ CONFLICT.T, jnp.float32), phi, FIXED[:2, :2])
    assert np.isfinite(w).all() and np.abs(w).max() < 1e5


# IMTL-G, ConFIG, Aligned-MTL, norm balancing


def test_imtl_g_of_two_by_hand():
    rows = np.array([[2.0, 0.0], [0.0, 6.0]])
    np.testing.assert_allclose(weights(imtl_g(), rows), [6 / 8, 2 / 8], rtol=1e-6)
    np.testing.assert_allclose(weights(imtl_g(), rows[[0, 0]]), [0.5, 0.5], rtol=1e-5)


def test_imtl_g_guards_its_sign():
    # Unit vectors whose equal-projection direction needs a negative share of the third, which is
    # short and so has the largest weight of all.
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.06, 0.06, 0.1 * 0.28**0.5]])
    projections = rows @ (weights(imtl_g(), rows) @ rows) / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(projections, projections[0], rtol=1e-4)
    assert projections[0] > 0
    # The condition of G is 1200, that of the cosines 12.
    for method, rtol in ((imtl_g(sign_guard=False), 1e-5), (imtl_g(parity="torchjd"), 1e-3)):
        turned = rows @ (weights(method, rows) @ rows) / np.linalg.norm(rows, axis=1)
        np.testing.assert_allclose(turned, -projections, rtol=rtol)


def test_imtl_g_has_a_direction_for_opposite_gradients():
    assert np.isfinite(weights(imtl_g(), [[1.0, 2.0], [-1.0, -2.0]])).all()


def test_config_of_two_by_hand():
    merged = weights(config(), CONFLICT) @ CONFLICT
    norms = np.linalg.norm(CONFLICT, axis=1)
    units = CONFLICT / norms[:, None]
    direction = units.sum(0) / np.linalg.norm(units.sum(0))
    length = norms.sum() * np.sqrt((1 - 22 / norms.prod()) / 2)
    np.testing.assert_allclose(merged, length * direction, rtol=1e-4)


def test_config_direction_ignores_the_scale_of_rows():
    def direction(rows):
        merged = weights(config(preference=(1.0, 2.0, 3.0)), rows) @ rows
        return merged / np.linalg.norm(merged)

    scaled = direction(THREE * [[1e-3], [1.0], [1e3]])
    np.testing.assert_allclose(scaled, direction(THREE), rtol=1e-4)
    cosines = THREE / np.linalg.norm(THREE, axis=1, keepdims=True) @ scaled
    np.testing.assert_allclose(cosines / cosines[0], [1, 2, 3], rtol=1e-3)


def test_config_of_opposite_gradients_is_zero():
    np.testing.assert_array_equal(weights(config(), [[1.0, 2.0], [-2.0, -4.0]]), [0, 0])


@pytest.mark.parametrize("cosine, factor", [(-0.6, 1.0), (0.6, 0.5)])  # sqrt(0.4 / 1.6) = 1/2
def test_aligned_mtl_of_two_by_hand(cosine, factor):
    rows = np.array([[3.0, 0.0], [3.0 * cosine, 3.0 * 0.8]])
    np.testing.assert_allclose(weights(aligned_mtl(), rows), [factor / 2] * 2, rtol=1e-5)
    np.testing.assert_allclose(weights(aligned_mtl(parity="libmtl"), rows), [factor] * 2, rtol=1e-5)


@pytest.mark.parametrize("scale, length", [("min", 1), ("median", 2), ("rmse", (14 / 3) ** 0.5)])
def test_aligned_mtl_scales(scale, length):
    rows = np.diag([1.0, 3.0, 2.0])  # eigenvalues 1, 9, 4
    expected = length / np.array([1.0, 3.0, 2.0]) / 3
    np.testing.assert_allclose(weights(aligned_mtl(scale=scale), rows), expected, rtol=1e-5)
    rows = np.diag([1.0, 0.0, 2.0])  # of two, the lower median is the least
    least = weights(aligned_mtl(scale=scale), rows)[0]
    np.testing.assert_allclose(least, 2.5**0.5 / 3 if scale == "rmse" else 1 / 3, rtol=1e-5)


def test_norm_balance_by_hand():
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 7.0, 0.0]])  # rms 5
    np.testing.assert_allclose(weights(norm_balance(), rows), [5, 5 / 7], rtol=1e-6)
    with_zero = np.concatenate([rows, [[0.0, 0.0, 0.0]]])
    np.testing.assert_allclose(weights(norm_balance(), with_zero), [5, 5 / 7, 0], rtol=1e-6)
    np.testing.assert_allclose(weights(norm_balance(eps=0.5), rows), [2, 5 / 7], rtol=1e-6)


# Krum


LINE = np.array([[0.0], [1.0], [2.5], [9.0]]) + 1.0  # distances to the nearest: 1 1 1.5 6.5


def test_krum_by_hand():
    # Sums over the two nearest: 3.5, 2.5, 4, 14.5.
    np.testing.assert_array_equal(weights(krum(), LINE), [0, 1, 0, 0])
    np.testing.assert_array_equal(weights(krum(selected=2), LINE), [0.5, 0.5, 0, 0])
    # One byzantine: the nearest only; a tie goes to the first.
    w = weights(krum(byzantine=1, selected=3), LINE)
    np.testing.assert_allclose(w, [1 / 3] * 3 + [0], rtol=1e-6)


def test_krum_leaves_out_absent_tasks():
    rows = np.array([[0.0], [0.0], [1.0], [2.0], [3.5], [10.0]])
    np.testing.assert_array_equal(weights(krum(), rows), [0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(weights(krum(parity="torchjd"), rows), [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(weights(krum(selected=2), rows[:3]), [0, 0, 1])


@pytest.mark.parametrize("fields", [{"byzantine": 2}, {"selected": 5}, {"byzantine": -1}])
def test_krum_says_what_it_needs(fields):
    with pytest.raises(ConfigError, match="krum: .*byzantine=.*selected="):
        weights(krum(**fields), LINE)


# Methods with memory


def diagonal(gram, *, losses, key):
    return jnp.diagonal(gram)


def test_cr_mogm_by_hand():
    method = cr_mogm(stateless(diagonal), alpha=0.75)
    state, found = method.init(3), []
    for squared in ([4.0, 8.0, 0.0], [8.0, 0.0, 2.0], [0.0, 4.0, 6.0]):
        w, state = method.update(jnp.diag(jnp.array(squared)), state)
        found.append(w)
    # 8 and 4 enter with a quarter: 3 + 2, 6 + 1; an absent task keeps its weight.
    np.testing.assert_allclose(found, [[4, 8, 0], [5, 8, 2], [5, 7, 3]])


def test_cr_mogm_of_torchjd_smooths_absent_tasks_too():
    method = cr_mogm(stateless(diagonal), alpha=0.75, parity="torchjd")
    _, state = method.update(jnp.diag(jnp.array([4.0, 0.0])), method.init(2))
    w, _ = method.update(jnp.diag(jnp.array([0.0, 4.0])), state)
    np.testing.assert_allclose(w, [3, 1])


def test_cr_mogm_of_losses():
    method = cr_mogm(mean())
    assert method.needs == "losses"
    w, _ = method.update(None, method.init(2), losses=jnp.ones(2))
    np.testing.assert_allclose(w, [0.5, 0.5])


def gradnorm_loop(squared, losses, *, alpha, lr, warmup):
    """GradNorm in float64, the derivative by v by hand and the softmax's by its Jacobian."""
    T = len(squared[0])
    s, m, q, t, first, found = np.zeros(T), np.zeros(T), np.zeros(T), 0, None, []
    for step, (n, L) in enumerate(zip(np.sqrt(squared), losses, strict=True)):
        v = T * np.exp(s) / np.exp(s).sum()
        found.append(v)
        if step < warmup:
            continue
        first = losses[: max(warmup, 1)].mean(0) if first is None else first
        rate = L / first / (L / first).mean()
        by_v = np.sign(v * n - (v * n).mean() * rate**alpha) * n
        by_s = (np.diag(v) - np.outer(v, v) / T) @ by_v
        t, m, q = t + 1, 0.9 * m + 0.1 * by_s, 0.999 * q + 0.001 * by_s**2
        s = s - lr * (m / (1 - 0.9**t)) / (np.sqrt(q / (1 - 0.999**t)) + 1e-16)
    return np.array(found)


@pytest.mark.parametrize("warmup", [0, 3])
def test_gradnorm_follows_its_formulas(warmup):
    random = np.random.default_rng(0)
    squared, losses = random.uniform(0.1, 9, (8, 3)), random.uniform(0.5, 2, (8, 3))
    method = gradnorm(alpha=1.2, lr=0.1, warmup=warmup)
    update = jax.jit(method.update)
    for scale in (1.0, 1e-12):
        state, found = method.init(3), []
        for n, L in zip(scale**2 * squared, losses, strict=True):
            w, state = update(np.float32(np.diag(n)), state, losses=np.float32(L))
            found.append(w)
        expected = gradnorm_loop(scale**2 * squared, losses, alpha=1.2, lr=0.1, warmup=warmup)
        assert np.abs(expected - 1).max() > 0.15
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_gradnorm_begins_with_a_task_when_it_has_a_gradient():
    method = gradnorm()
    state, update = method.init(3), jax.jit(method.update)
    _, state = update(jnp.diag(jnp.array([1.0, 4.0, 0.0])), state, losses=jnp.ones(3))
    _, state = update(jnp.diag(jnp.array([1.0, 4.0, 9.0])), state, losses=2 * jnp.ones(3))
    np.testing.assert_array_equal(state.first, [1, 1, 2])
    w, _ = update(jnp.zeros((3, 3)), state, losses=jnp.zeros(3))
    assert np.isfinite(w).all()


# Choices


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: pcgrad(parity="fairgrad"), "pcgrad: parity='fairgrad' is unknown"),
        (lambda: pcgrad(order="fixd"), "order='fixd'.*Did you mean 'fixed'"),
        (lambda: pcgrad(reduction="max"), "reduction='max' is not one of sum, mean"),
        (lambda: aligned_mtl(scale="medain"), "scale='medain'.*Did you mean 'median'"),
        (lambda: imtl_g(parity="libmtl"), "imtl_g: parity='libmtl' is unknown.*'torchjd'"),
        (lambda: gradvac(parity="nash-mtl"), "gradvac: parity='nash-mtl' is unknown"),
        (lambda: cr_mogm(mean(), parity="libmtl"), "cr_mogm: parity='libmtl' is unknown"),
    ],
)
def test_unknown_choices(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
