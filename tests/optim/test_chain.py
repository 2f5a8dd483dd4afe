import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_vision import optim
from mtl_vision.errors import ConfigError
from mtl_vision.optim.optimizers import clip, decay_factors

PARAMS = {"a": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2, 2))}, "scale": jnp.ones(3)}
FLAT = optim.SCHEDULES["constant"](lr=0.5, steps=10)


def test_standard_decay_spares_biases_and_vectors():
    factors = decay_factors((), PARAMS)
    assert factors == {"a": {"kernel": 1.0, "bias": 0.0}, "scale": 0.0}


def test_decay_rules_by_path():
    factors = decay_factors(((".*kernel", 2.0), (".*", 0.5)), PARAMS)
    assert factors == {"a": {"kernel": 2.0, "bias": 0.5}, "scale": 0.5}


@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS))
def test_only_what_decays_moves_without_a_gradient(name):
    tx = optim.chain(optim.OPTIMIZERS[name](weight_decay=0.1), FLAT)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), PARAMS)
    assert (updates["a"]["kernel"] < 0).all()
    assert not updates["a"]["bias"].any() and not updates["scale"].any()


def test_lr_scale_holds_for_gradient_and_decay():
    rules = (("a/.*", 0.1), (".*", 1.0))
    sgd = optim.OPTIMIZERS["sgd"](((".*", 1.0),), weight_decay=0.2, momentum=0.0)
    tx = optim.chain(sgd, FLAT, lr_scale=rules)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, PARAMS), tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["scale"], np.full(3, -0.5 * 1.2), rtol=1e-6)
    np.testing.assert_allclose(updates["a"]["kernel"], np.full((2, 2), -0.05 * 1.2), rtol=1e-6)


@pytest.mark.parametrize("field", ["optim.decay", "optim.lr_scale"])
def test_a_rule_for_nothing_is_reported_at_init(field):
    wrong = (("b/.*", 0.0), (".*", 1.0))
    decay, scale = (wrong, ()) if field == "optim.decay" else ((), wrong)
    tx = optim.chain(optim.OPTIMIZERS["adamw"](decay), FLAT, lr_scale=scale)
    with pytest.raises(ConfigError, match=f"{field}: the rule 'b/.*' decides no parameter"):
        tx.init(PARAMS)


def test_rate_is_the_one_of_the_latest_update():
    tx = optim.chain(optim.OPTIMIZERS["adam"](), optim.SCHEDULES["linear"](lr=1.0, steps=4))
    opt = tx.init(PARAMS)
    seen = []
    for _ in range(3):
        _, opt = tx.update(PARAMS, opt, PARAMS)
        seen.append(float(optim.learning_rate(opt)))
    assert seen == [1.0, 0.75, 0.5]


def test_first_link_sees_the_task_axis_and_extra_arguments():
    def update(updates, state, params=None, *, losses):
        return jax.tree.map(lambda u: jnp.tensordot(losses, u, 1), updates), state

    first = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    tx = optim.chain(optim.OPTIMIZERS["sgd"](momentum=0.0), FLAT, first=first, clip_norm=1e6)
    stacked = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), PARAMS)
    losses = jnp.array([3.0, 1.0])
    updates, _ = tx.update(stacked, tx.init(PARAMS), PARAMS, losses=losses)
    np.testing.assert_allclose(updates["scale"], np.full(3, -0.5 * 5), rtol=1e-6)


def test_clip_leaves_small_gradients_alone():
    grads = {"x": jnp.array([0.3, 0.4])}
    updates, _ = clip(1.0).update(grads, optax.EmptyState())
    np.testing.assert_array_equal(updates["x"], grads["x"])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_norm_adds_low_precision_leaves_in_float32(scale):
    leaf = jnp.full((64, 64), scale, jnp.bfloat16)
    expected = 64 * float(leaf[0, 0]) * np.sqrt(2)
    norm = optim.norm({"a": leaf, "b": leaf})
    assert norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, expected, rtol=1e-5)


def test_bfloat16_parameters_keep_their_dtype():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    tx = optim.chain(optim.OPTIMIZERS["sgd"](weight_decay=0.1), FLAT, clip_norm=1.0)
    updates, _ = tx.update(params, tx.init(params), params)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
