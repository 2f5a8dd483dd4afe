"""Counted keys are those of Flax."""

import jax
import numpy as np
from flax import nnx

from mtl_vision.models.keys import Keys


def test_keys_are_those_of_flax():
    ours, flax = Keys(jax.random.key(3)), nnx.Rngs(params=jax.random.key(3))
    for _ in range(3):
        pair = [jax.random.key_data(one.params()) for one in (ours, flax)]
        np.testing.assert_array_equal(*pair)
