"""A preference around a chain, and PaLoRA's balance, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_vision.errors import ConfigError
from mtl_vision.optim import prefer as P
from mtl_vision.optim.aggregate import aggregate
from mtl_vision.optim.rows import Deferred, Owner
from mtl_vision.optim.weightings import WEIGHTINGS

TASKS = ("a/x", "a/y")
OWNERS = {"own": Owner(("a/y",))}
# Shared rows of norm 5 and 0.5; what the second task owns.
ROWS = {"w": jnp.array([[3.0, 4.0], [0.5, 0.0]]), "own": jnp.array([2.0])}
PARAMS = {"w": jnp.zeros(2), "own": jnp.zeros(1)}
PREFERENCE, LOSSES = jnp.array([0.25, 0.75]), jnp.array([1.0, 3.0])


def deferred():
    def combine(w, own):
        return {"w": w @ ROWS["w"], "own": own[1] * ROWS["own"]}

    return Deferred(ROWS["w"] @ ROWS["w"].T, combine)


@pytest.mark.parametrize("make", [lambda: ROWS, deferred], ids=["rows", "deferred"])
@pytest.mark.parametrize("balance", [(), ("gradients",), ("losses",), ("losses", "gradients")])
def test_losses_are_weighted_by_the_preference_and_balanced(make, balance):
    chain = aggregate(WEIGHTINGS["sum"](), TASKS, OWNERS)
    tx = P.prefer(chain, TASKS, OWNERS, balance=balance)

    @jax.jit
    def steps(state):
        def step(state, _):
            given = dict(preference=PREFERENCE, losses=LOSSES)
            out, state = tx.update(make(), state, PARAMS, **given)
            return state, out

        return jax.lax.scan(step, state, None, length=26)[1]

    found = steps(tx.init(PARAMS))
    w = np.array([0.25, 0.75])
    if "gradients" in balance:
        w = w / np.array([5.001, 0.501])
    for step in (23, 24):  # from the 25th step on by the share of 1 in 4 and 3 in 4
        v = w * [0.75, 0.25] if "losses" in balance and step == 24 else w
        np.testing.assert_allclose(found["w"][step], v @ ROWS["w"], rtol=1e-6)
        np.testing.assert_allclose(found["own"][step], v[1] * ROWS["own"], rtol=1e-6)


def test_extra_gradients_are_scaled_alike():
    seen = {}

    def update(updates, state, params=None, *, loss_fn, **extra):
        seen["loss"] = loss_fn(params)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda p: (), update)
    tx = P.prefer(inner, TASKS, OWNERS)
    given = dict(preference=PREFERENCE, losses=LOSSES, loss_fn=lambda p: LOSSES)
    tx.update(ROWS, tx.init(PARAMS), PARAMS, **given)
    np.testing.assert_allclose(seen["loss"], [0.25, 2.25])


def test_balancing_by_gradients_needs_them():
    tx = P.prefer(optax.identity(), TASKS, balance=("gradients",))
    with pytest.raises(ConfigError, match="needs the gradient of every task"):
        tx.update(Deferred(None, None), tx.init(PARAMS), preference=PREFERENCE, losses=LOSSES)
