import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_vision import optim
from mtl_vision.optim.aggregate import aggregate
from mtl_vision.optim.conflict import broken, conflict, cosines, figures
from mtl_vision.optim.loss_weightings import LOSS_WEIGHTINGS
from mtl_vision.optim.weigh import weigh
from mtl_vision.optim.weightings import WEIGHTINGS

TASKS = ("a/semseg", "a/depth", "b/edge")
# Rows (3, 4), (-4, -3) and 0: norms 5, 5, 0, product -24.
GRAM = np.array([[25.0, -24.0, 0.0], [-24.0, 25.0, 0.0], [0.0, 0.0, 0.0]])


def test_figures_by_hand():
    values = figures({"tasks/gram": GRAM, "tasks/weight": np.array([0.5, 0.25, 0.0])}, TASKS)
    assert values["tasks/norm/a/semseg"] == 5 and values["tasks/norm/b/edge"] == 0
    assert values["tasks/weight/a/depth"] == 0.25
    assert values["tasks/cosine/a/semseg,a/depth"] == pytest.approx(-24 / 25)
    assert values["tasks/cosine/a/semseg,b/edge"] == 0
    assert values["tasks/conflicts"] == pytest.approx(1 / 3)
    assert values["tasks/mean_cosine"] == pytest.approx(-24 / 25 / 3)


def test_cosines_have_ones_where_there_is_a_gradient():
    assert np.diag(cosines(GRAM)).tolist() == [1, 1, 0]


def test_broken_names_the_task():
    gram = GRAM.copy()
    gram[1, :] = gram[:, 1] = np.nan
    assert broken({"tasks/gram": gram}, TASKS) == ["a/depth"]
    assert broken({"tasks/gram": GRAM}, TASKS) == [] == broken({}, TASKS)


def test_a_chain_tells_what_it_saw():
    rows = {"x": jnp.array([[3.0, 4.0], [-4.0, -3.0], [0.0, 0.0]])}
    params = {"x": jnp.zeros(2)}
    chain = optax.chain(aggregate(WEIGHTINGS["mean"](), TASKS, watch=1), optax.sgd(1.0))
    tx = weigh(LOSS_WEIGHTINGS["fixed"](weights=(2.0, 1.0, 1.0)), chain, TASKS)
    _, state = tx.update(rows, tx.init(params), params, losses=jnp.ones(3))
    found = conflict(state)
    np.testing.assert_allclose(found["tasks/loss_weight"], [2, 1, 1])
    scale = np.array([2.0, 1, 1])
    np.testing.assert_allclose(found["tasks/gram"], GRAM * np.outer(scale, scale))
    np.testing.assert_allclose(found["tasks/weight"], [1 / 3] * 3, rtol=1e-6)


def test_a_plain_chain_has_nothing_to_tell():
    tx = optim.chain(optim.OPTIMIZERS["sgd"](), optim.SCHEDULES["constant"](lr=1.0, steps=1))
    assert conflict(tx.init({"x": jnp.zeros(2)})) == {}
