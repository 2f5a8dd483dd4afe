"""Gradients written out, against those that JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision.models import sums

KEY = jax.random.key(0)
EPS = 1e-5


def plain_batch_norm(x, scale, bias):
    axes = tuple(range(x.ndim - scale.ndim))
    y = (x - x.mean(axes, keepdims=True)) * jax.lax.rsqrt(x.var(axes, keepdims=True) + EPS)
    return y * scale[(None,) * len(axes)] + bias[(None,) * len(axes)]


def plain_affine(x, scale, bias):
    lead = (None,) * (x.ndim - scale.ndim)
    return x * scale[lead] + bias[lead]


PAIRS = {
    "biased": (lambda x, _, b: sums.biased(x, b), lambda x, s, b: plain_affine(x, s * 0 + 1, b)),
    "affine": (sums.affine, plain_affine),
    "batch_norm": (lambda *args: sums.batch_normalized(*args, EPS)[0], plain_batch_norm),
}


@pytest.mark.parametrize("kept", [1, 2])
@pytest.mark.parametrize("name", PAIRS)
def test_gradients_are_those_that_jax_derives(x64, name, kept):
    x, weight = jax.random.normal(KEY, (2, 2, 5, 3, 4), jnp.float64)
    scale, bias = 1 + jax.random.normal(KEY, (2, *(3, 4)[2 - kept :]), jnp.float64)

    def measured(function):
        def loss(*args):
            y = function(*args)
            return (jnp.sin(y) * weight).sum(), y

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12),
        *map(measured, PAIRS[name]),
    )


def test_half_precision_is_summed_in_float32():
    # In bfloat16 a sum of ones stops at 256.
    assert sums.row_sum(jnp.ones((4000, 2), jnp.bfloat16)).tolist() == [4000.0, 4000.0]
    grads = jax.grad(lambda b: sums.biased(jnp.zeros((4000, 2), jnp.bfloat16), b).sum())
    assert grads(jnp.zeros(2, jnp.bfloat16)).tolist() == [4000.0, 4000.0]
