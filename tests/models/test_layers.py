"""Layers: norms, drop path, convolutions, compute types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.models import convolution, layers

KEY = jax.random.key(0)


def test_linear_ignores_its_key():
    linear = layers.Linear(3, 4, rngs=nnx.Rngs(params=KEY))
    x = jax.random.normal(KEY, (2, 5, 3))
    np.testing.assert_array_equal(linear(x), linear(x, key=KEY))


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_layers_compute_in_their_type_and_keep_float32_parameters(dtype):
    rngs = nnx.Rngs(params=KEY)
    made = [
        layers.Linear(4, 4, dtype=dtype, rngs=rngs),
        layers.Conv(4, 4, 3, dtype=dtype, rngs=rngs),
        layers.LayerNorm(4, dtype=dtype),
        layers.BatchNorm(4, dtype=dtype),
        layers.LayerScale(4, 0.1, dtype=dtype),
    ]
    x = jnp.ones((2, 3, 3, 4), dtype or jnp.float32)
    for layer in made:
        assert layer(x, key=KEY).dtype == jnp.dtype(dtype or "float32"), type(layer)
        assert {v.dtype for v in jax.tree.leaves(nnx.state(layer))} == {jnp.dtype("float32")}


def test_batch_norm_by_hand():
    norm = layers.BatchNorm(1)
    x = jnp.array([1.0, 3.0, 5.0, 7.0]).reshape(4, 1, 1, 1)
    y = norm(x, key=KEY)
    # Mean 4, biased variance (9 + 1 + 1 + 9) / 4 = 5, unbiased 20 / 3.
    np.testing.assert_allclose(y.ravel(), np.array([-3, -1, 1, 3]) / 5**0.5, rtol=1e-5)
    np.testing.assert_allclose(norm.mean[...], [0.4], rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], [0.9 + 2 / 3], rtol=1e-6)


def test_batch_norm_without_key_leaves_its_statistics():
    norm = layers.BatchNorm(2)
    x = jax.random.normal(KEY, (4, 3, 3, 2)) + 5
    np.testing.assert_allclose(norm(x), x / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(norm.mean[...], [0, 0])


def test_batch_norm_of_bfloat16_keeps_float32_statistics():
    norm = layers.BatchNorm(1, dtype="bfloat16")
    x = (100 + jax.random.normal(KEY, (64, 8, 8, 1))).astype(jnp.bfloat16)
    norm(x, key=KEY)
    np.testing.assert_allclose(norm.mean[...], 0.1 * x.astype(jnp.float32).mean(), rtol=1e-5)


def test_batch_norm_of_one_value_is_finite():
    x = jnp.full((1, 1, 1, 1), 3.0)
    grad = jax.grad(lambda x: layers.BatchNorm(1)(x, key=KEY).sum())(x)
    assert np.isfinite(grad).all()


def test_drop_path_drops_whole_samples_per_stream_and_keeps_the_mean():
    x = jnp.ones((3, 2000, 2))
    y = np.asarray(layers.drop_path(x, 0.25, KEY))
    np.testing.assert_array_equal(y[..., 0], y[..., 1])
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_allclose(y.mean((1, 2)), np.ones(3), atol=0.06)
    assert (y[0] != y[1]).any()


def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero():
    x = jnp.ones((1, 4, 2))
    assert layers.drop_path(x, 0.5, None) is x
    assert layers.drop_path(x, 0.0, KEY) is x


@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_depthwise_forms_agree(stride, dilation, monkeypatch):
    x = jax.random.normal(KEY, (2, 7, 9, 4))
    kernel = jax.random.normal(KEY, (3, 3, 1, 4))
    options = dict(stride=stride, padding=dilation, dilation=dilation, groups=4)
    shifted = convolution.conv(x, kernel, **options)
    monkeypatch.setattr(jax, "default_backend", lambda: "other")
    np.testing.assert_allclose(shifted, convolution.conv(x, kernel, **options), atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_conv_as_products_equals_the_convolution(size):
    x = jax.random.normal(KEY, (2, 1, 9, 10, 3))  # any leading axes
    kernel = jax.random.normal(KEY, (size, size, 3, 5))
    y = convolution.conv(x, kernel, stride=size)
    expected = jax.lax.conv_general_dilated(
        x[:, 0], kernel, (size, size), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(y[:, 0], expected, atol=1e-5)


def test_conv_keeps_the_size_by_default():
    x = jnp.ones((1, 5, 6, 2))
    for size, dilation in ((1, 1), (3, 1), (3, 2)):
        conv = layers.Conv(2, 3, size, dilation=dilation, rngs=nnx.Rngs(params=KEY))
        assert conv(x).shape == (1, 5, 6, 3)


def test_conv_init_is_uniform_within_one_over_root_fan_in():
    conv = layers.Conv(8, 16, 3, rngs=nnx.Rngs(params=KEY))
    bound = (3 * 3 * 8) ** -0.5
    for parameter in (conv.kernel, conv.bias):
        largest = float(jnp.abs(parameter[...]).max())
        assert 0.8 * bound < largest <= bound


@pytest.mark.devices8
def test_batch_norm_takes_the_statistics_of_the_global_batch():
    x = 3 + 2 * jax.random.normal(KEY, (8, 4, 4, 2))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    @jax.jit
    def train(x):
        norm = layers.BatchNorm(2)
        y = norm(x, key=KEY)
        return y, norm.mean[...], norm.var[...]

    for actual, expected in zip(train(jax.device_put(x, rows)), train(x), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
