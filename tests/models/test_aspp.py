"""ASPP and linear heads: their counts, and what they compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models import convolution, mtl
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.resize import resize

KEY = jax.random.key(0)
SIZES, CHANNELS, STRIDES = ((6, 8), (3, 4)), (5, 6), (8, 16)
SMALL = dict(widths=(3, 4), width=4, dilations=(2, 7))


def pyramid(*lead):
    sizes = zip(SIZES, CHANNELS, strict=True)
    return [
        jax.random.normal(jax.random.fold_in(KEY, i), (*lead, *size, c))
        for i, (size, c) in enumerate(sizes)
    ]


def make(name, kinds, channels=CHANNELS, strides=STRIDES, **fields):
    rngs = nnx.Rngs(params=KEY)
    outputs = {"d": kinds}
    return DECODERS[name](outputs=outputs, channels=channels, strides=strides, rngs=rngs, **fields)


@pytest.mark.parametrize("out, count", [(21, 2930965), (7, 2927367), (3, 2926339), (1, 2925825)])
def test_aspp_has_the_published_counts(out, count):
    stages = dict(channels=(192, 384, 768, 768), strides=(8, 16, 32, 32))
    decoder = mtl.abstract(lambda: make("aspp", {"semseg": out}, **stages))
    assert mtl.parameter_table(decoder)[-1] == ("total", 183168 + count)


def branch(layer, x, dilation=1):
    size = layer.conv.kernel.shape[0]
    padding = dilation * (size - 1) // 2
    y = convolution.conv(x, layer.conv.kernel[...], padding=padding, dilation=dilation)
    mean, var = y.mean((0, 1, 2), keepdims=True), y.var((0, 1, 2), keepdims=True)
    return jax.nn.relu((y - mean) / jnp.sqrt(var + 1e-5))


def test_aspp_is_five_branches_joined_and_drops_half_in_training():
    keep, drop = (make("aspp", {"depth": 1}, dropout=rate, **SMALL) for rate in (0.0, 0.5))
    defs, states = zip(*(nnx.split(model) for model in (keep, drop)), strict=True)

    @jax.jit
    def both(levels, states):
        models = [nnx.merge(*pair) for pair in zip(defs, states, strict=True)]
        head = models[0].heads["d"]["depth"]
        narrow = [x @ conv.kernel[0, 0] for x, conv in zip(levels, head.downsample, strict=True)]
        x = jnp.concatenate([narrow[0], resize(narrow[1], SIZES[0])], -1)
        pooled = branch(head.pooled, x.mean((1, 2), keepdims=True))
        branches = [branch(head.point, x)]
        branches += [branch(c, x, d) for c, d in zip(head.dilated, (2, 7), strict=True)]
        branches.append(jnp.tile(pooled, (1, *SIZES[0], 1)))
        x = branch(head.mix, branch(head.join, jnp.concatenate(branches, -1)))
        y = x @ head.predict.kernel[0, 0] + head.predict.bias[None, None, None]
        out = [model(levels, None, dataset="d", key=KEY)["depth"] for model in models]
        return out, y

    (actual, dropped), expected = both(pyramid(2), states)
    assert actual.shape == (2, 6, 8, 1)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert jnp.abs(dropped - actual).max() > 0.1


def test_updecoder_doubles_three_times_with_kernels_and_twice_without():
    decoder = make("updecoder", {"depth": 1, "sal": 2}, widths=(3, 4), width=5)
    stages = dict(channels=(192, 384, 768, 768), strides=(8, 16, 32, 32))
    published = mtl.abstract(lambda: make("updecoder", {"semseg": 21}, **stages))
    assert mtl.parameter_table(published)[-1] == ("total", 183168 + 42944 + 21 * 291)
    graphdef, state = nnx.split(decoder)

    @jax.jit
    def both(levels, state):
        model = nnx.merge(graphdef, state)
        head = model.heads["d"]["sal"]
        narrow = [x @ conv.kernel[0, 0] for x, conv in zip(levels, head.downsample, strict=True)]
        x = jnp.concatenate([narrow[0], resize(narrow[1], SIZES[0])], -1)
        for layer in head.enlarge:
            kernel = jnp.moveaxis(layer.kernel.reshape(-1, 2, 2, 5), 0, 2)
            x = jax.nn.relu(convolution.conv_transpose(x, kernel, stride=2) / (1 + 1e-5) ** 0.5)
        x = convolution.conv(x, head.predict.kernel[...], padding=1)
        x = (x + head.predict.bias[None, None, None]) / (1 + 1e-5) ** 0.5
        x = resize(resize(jax.nn.relu(x), (96, 128)), (192, 256))
        return model(levels, None, dataset="d")["sal"], x

    actual, expected = both(pyramid(2), state)
    assert actual.shape == (2, 192, 256, 2)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    with pytest.raises(ConfigError, match="width=0 must be positive"):
        make("updecoder", {"depth": 1}, widths=(3, 4), width=0)


def test_linear_is_a_convolution_of_the_concatenated_levels():
    decoder, levels, streams = make("linear", {"normals": 3, "sal": 2}), pyramid(2), pyramid(2, 2)
    sizes = mtl.sizes(decoder)
    assert sum(sizes.values()) == (5 + 6 + 1) * (3 + 2)

    @jax.jit
    def both(levels, streams):
        wide = [jax.image.resize(x, (2, *SIZES[0], x.shape[-1]), "bilinear") for x in levels]
        x, conv = jnp.concatenate(wide, -1), decoder.heads["d"]["sal"].predict
        expected = x @ conv.kernel[0, 0] + conv.bias[None, None, None]
        second = [x[1] for x in streams]
        return (
            (decoder(levels, None, dataset="d")["sal"], expected),
            (
                decoder(levels, streams, dataset="d")["sal"],
                decoder(second, None, dataset="d")["sal"],
            ),
        )

    for actual, expected in both(levels, streams):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(widths=(3,)), "one entry for each"),
        (dict(dilations=(2, 0)), "must be positive"),
        (dict(dropout=1.0), "at least 0 and below 1"),
    ],
)
def test_options_that_cannot_be_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        make("aspp", {"depth": 1}, **SMALL | fields)
