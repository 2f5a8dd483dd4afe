"""Resizing: what every method keeps, and that its fast form is the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_vision.errors import ConfigError
from mtl_vision.models import resize as module
from mtl_vision.models.resize import METHODS, matrix, resize

KEY = jax.random.key(0)
SIZES = [(3, 12), (5, 7), (8, 3), (1, 4)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source, target", SIZES)
def test_rows_sum_to_one(method, source, target):
    np.testing.assert_allclose(matrix(source, target, method).sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_same_size_is_the_identity(method):
    np.testing.assert_allclose(matrix(6, 6, method), np.eye(6), atol=1e-12)


def test_bilinear_by_two_by_hand():
    x = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(resize(x, (1, 4)).ravel(), [0, 1, 3, 4])


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_whole_factors_equal_the_matrix_with_gradient(factor):
    x = jax.random.normal(KEY, (2, 3, 5, 4))
    size = (3 * factor, 5 * factor)
    probe = jax.random.normal(KEY, (2, *size, 4))
    rows, columns = (matrix(n, n * factor, "bilinear") for n in (3, 5))
    expected = np.einsum("hp,wq,bpqc->bhwc", rows, columns, x)
    np.testing.assert_allclose(resize(x, size), expected, atol=1e-5)
    grad = jax.grad(lambda x: (resize(x, size) * probe).sum())(x)
    expected = np.einsum("hp,wq,bhwc->bpqc", rows, columns, probe)
    np.testing.assert_allclose(grad, expected, atol=1e-4)


def test_leading_axes_are_free_and_the_type_is_kept():
    x = jax.random.normal(KEY, (2, 3, 4, 4, 5)).astype(jnp.bfloat16)
    y = resize(x, (8, 6))
    assert y.shape == (2, 3, 8, 6, 5) and y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y[1, 2], resize(x[1, 2], (8, 6)))


def test_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'bilinear'"):
        module.matrix(2, 3, "bilinaer")
