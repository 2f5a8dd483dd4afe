"""A step draws a preference; the model reads it, and the losses are weighted by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import optim, parallel, rules
from mtl_vision.errors import ConfigError
from mtl_vision.models.adapters.palora import Preference
from mtl_vision.train.preferences import placed
from mtl_vision.train.state import create_state
from mtl_vision.train.step import train_step
from tests.train import toy

SGD = optim.chain(
    optim.OPTIMIZERS["sgd"](momentum=0.0), optim.SCHEDULES["constant"](lr=0.1, steps=5)
)
NAMES = [t.name for group in toy.GROUPS.values() for t in group]


class Scaled(nnx.Module):
    """A trunk times the preference for the first task."""

    def __init__(self, trunk):
        self.trunk, self.preference = trunk, Preference(jnp.full(4, 0.25))

    def __call__(self, x, key):
        return self.preference[...][0] * self.trunk(x, key)


def build():
    model = toy.Toy()
    model.backbone = Scaled(model.backbone)
    return model


def test_a_step_goes_down_the_losses_that_its_preference_chooses():
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    made = dict(trainable=((".*", True),), tx=SGD, mesh=mesh, key=jax.random.key(0))
    begin = create_state(build, **made)

    @jax.jit
    def step(state, batch):
        given = dict(graphdef=begin.graphdef, groups=toy.GROUPS, tx=SGD)
        return train_step(state, batch, prefer=lambda key, step: jnp.eye(4)[step], **given)

    states, batch = [begin.state], toy.batch()
    for name in NAMES[:2]:
        state, metrics = step(states[-1], batch)
        task = next(t for group in toy.GROUPS.values() for t in group if t.name == name)
        want = task.weight * metrics[f"loss/{name}"]
        np.testing.assert_allclose(metrics["loss/total"], want, rtol=1e-6)
        states.append(state)
        # Evaluation finds the centre.
        np.testing.assert_array_equal(state.stats["backbone"]["preference"], np.full(4, 0.25))
    trees = [rules.flatten(s.trainable) for s in states]
    moved = [
        {path for path in old if np.any(old[path] != new[path])}
        for old, new in zip(trees, trees[1:], strict=False)
    ]
    heads = [{path for path in step_ if "decoder" in path} for step_ in moved]
    assert heads[0] == {f"decoder/pascal_context/semseg/{x}" for x in ("kernel", "bias")}
    # Without the first task's share the features are zero: a bias is all that is left.
    assert moved[0] - heads[0] and moved[1] == {"decoder/pascal_context/edge/bias"}


def test_a_preference_goes_where_the_model_reads_it():
    stats = {"backbone": {"generate": {"preference": jnp.zeros(2)}, "mean": jnp.zeros(2)}}
    found = rules.flatten(placed(stats, jnp.array([0.25, 0.75])))
    np.testing.assert_array_equal(found["backbone/generate/preference"], [0.25, 0.75])
    np.testing.assert_array_equal(found["backbone/mean"], [0, 0])
    with pytest.raises(ConfigError, match="does not fit the 2 tasks"):
        placed(stats, jnp.ones(3))
