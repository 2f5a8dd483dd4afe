"""Layers against single PyTorch operations: resizing, convolutions, norms, activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.models import convolution, layers, layouts
from mtl_vision.models.resize import METHODS, resize
from tests.parity import records

META, ARRAYS = {}, {}  # of the record at hand
KEY = jax.random.key(0)

CONVOLUTIONS = {
    "3x3_pad1": dict(padding=1),
    "3x3_dilated2": dict(padding=2, dilation=2),
    "3x3_stride2": dict(padding=1, stride=2),
}
TRANSPOSED = {
    "transpose_3x3_s2_p1_op1": dict(stride=2, padding=1, output_padding=1),
    "transpose_2x2_s2": dict(stride=2),
}


@pytest.fixture(
    params=records.records("torch_ops"), ids=lambda f: f.stem, scope="module", autouse=True
)
def record(request):
    """Repeats every test for each record."""
    global META, ARRAYS
    META, ARRAYS = records.load(request.param)


def channels_last(name, dtype=jnp.float64):
    return jnp.asarray(np.moveaxis(ARRAYS[name], 1, -1), dtype)


def assert_map(actual, name, tolerance=1e-12):
    records.assert_close(jnp.moveaxis(actual, -1, 1), ARRAYS[name], tolerance, name)


@pytest.mark.parametrize("method", METHODS)
def test_resize(method, x64):
    x = channels_last("resize/input")
    for i, size in enumerate(META["resize_sizes"]):
        assert_map(resize(x, tuple(size), method), f"resize/{method}{i}")


@pytest.mark.parametrize("method", METHODS)
def test_resize_in_single_precision(method):
    x = channels_last("resize/input", jnp.float32)
    for i, size in enumerate(META["resize_sizes"]):
        assert_map(resize(x, tuple(size), method), f"resize/{method}{i}", 1e-6)


def test_bias_table_of_another_window():
    expected = ARRAYS["bias_table/output"]
    table = ARRAYS["bias_table/input"].astype(np.float64)
    records.assert_close(layouts.bias_table(table, expected.shape), expected, 1e-12)


def bias_of(name):
    key = f"conv/{name}.bias"
    return ARRAYS[key].astype(np.float64)[None, None, None] if key in ARRAYS.files else 0.0


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name, x64):
    kernel = jnp.asarray(layouts.conv(ARRAYS[f"conv/{name}.weight"]), jnp.float64)
    x = channels_last("conv/input")
    groups = x.shape[-1] // kernel.shape[2]
    y = convolution.conv(x, kernel, groups=groups, **CONVOLUTIONS[name])
    assert_map(y + bias_of(name), f"conv/{name}.output")


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolution(name, x64):
    # PyTorch keeps [in, out, kh, kw] here.
    kernel = jnp.asarray(ARRAYS[f"conv/{name}.weight"].transpose(2, 3, 0, 1), jnp.float64)
    y = convolution.conv_transpose(channels_last("conv/input"), kernel, **TRANSPOSED[name])
    assert_map(y + bias_of(name), f"conv/{name}.output")


@pytest.mark.parametrize("size", [2, 4])
def test_average_pooling_counts_real_elements_only(size, x64):
    y = convolution.avg_pool(channels_last("conv/input"), size)
    assert_map(y, f"conv/avgpool{size}_ceil.output")


def test_batch_norm_two_steps_and_evaluation(x64):
    channels = ARRAYS["batch_norm/weight"].size
    norm = layers.BatchNorm(channels)
    norm.scale, norm.bias = (nnx.Param(ARRAYS[f"batch_norm/{n}"]) for n in ("weight", "bias"))
    norm.mean, norm.var = (nnx.BatchStat(jnp.full(channels, v, jnp.float64)) for v in (0.0, 1.0))
    for step in range(2):
        y = norm(channels_last(f"batch_norm/input{step}"), key=KEY)
        assert_map(y, f"batch_norm/train_output{step}")
        for stat, name in ((norm.mean, "mean"), (norm.var, "var")):
            expected = ARRAYS[f"batch_norm/running_{name}{step}"]
            records.assert_close(stat[...], expected, 1e-12, f"{name}{step}")
    assert_map(norm(channels_last("batch_norm/input_eval")), "batch_norm/eval_output")


@pytest.mark.parametrize("eps", ["1e-5", "1e-6", "1e-12"])
def test_layer_norm_of_small_numbers_shows_its_epsilon(eps, x64):
    x = jnp.asarray(ARRAYS["layer_norm/small_input"], jnp.float64)
    channels = x.shape[-1]
    norm = layers.LayerNorm(channels, eps=float(eps))
    norm.scale, norm.bias = (nnx.Param(jnp.full(channels, v, jnp.float64)) for v in (1.0, 0.0))
    records.assert_close(norm(x), ARRAYS[f"layer_norm/eps{eps}"], 1e-12)


def test_gelu_is_the_exact_one(x64):
    x = jnp.asarray(ARRAYS["pointwise/input"], jnp.float64)
    records.assert_close(layers.gelu(x), ARRAYS["pointwise/gelu_erf"], 1e-12)
    other = jax.nn.gelu(x, approximate=True)
    records.assert_close(other, ARRAYS["pointwise/gelu_tanh"], 1e-12)
    records.assert_close(jax.nn.softplus(x), ARRAYS["pointwise/softplus"], 1e-12)
