"""A small layer, its parameters moved at random, and what tests of adapters ask of it."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision import rules
from mtl_vision.models.adapters.sharing import Owners
from mtl_vision.models.keys import Keys
from mtl_vision.models.layers import Linear

KEY = jax.random.key(0)
C, D, T = 4, 6, 3
ALL, LAST, NONE, ONE = (
    Owners(True, 0, 1),
    Owners(True, T, 1),
    Owners(False, T, 0),
    Owners(False, 1, 0),
)


def rngs():
    return Keys(params=KEY)


def linear():
    return Linear(C, D, bias_init=jax.nn.initializers.normal(1.0), rngs=rngs())


def moved(layer):
    """The layer with all parameters moved at random, in place."""
    state = nnx.state(layer)
    leaves, structure = jax.tree.flatten(state)
    draws = np.random.default_rng(0)
    leaves = [x + jnp.asarray(0.3 * draws.normal(size=x.shape), x.dtype) for x in leaves]
    nnx.update(layer, jax.tree.unflatten(structure, leaves))
    return layer


def values(layer):
    """``{path: numpy array}`` of a layer."""
    return {k: np.asarray(v) for k, v in rules.flatten(nnx.to_pure_dict(nnx.state(layer))).items()}


def x(streams, channels=C):
    return jnp.asarray(np.random.default_rng(1).normal(size=(streams, 2, channels)), jnp.float32)


def agree(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
