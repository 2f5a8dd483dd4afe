"""Rotary positions, pixels and activations of pretrained ViTs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models import adapters, blocks, mtl
from mtl_vision.models.backbones import vit
from mtl_vision.models.pixels import PIXELS, from_imagenet
from mtl_vision.models.rotary import rotated, rotation

TINY = dict(channels=16, depth=2, heads=2, patch=8, taps=(1, 2), rotary=True)


def test_angles_by_hand():
    # d = 4 has one period, 1. Rows of a 2 x 1 grid are centred at -0.5 and 0.5, its column at 0:
    # angles -pi and 0, then pi and 0, each twice.
    cos, sin = rotation(2, 1, 4)
    np.testing.assert_allclose(cos, [[-1, 1, -1, 1]] * 2, atol=1e-12)
    np.testing.assert_allclose(sin, np.zeros((2, 4)), atol=1e-12)
    # The second period of d = 8 is 100^(1/2); the right half of a row of two is at 0.5.
    expected = [1, 1, np.cos(np.pi), np.cos(np.pi / 10)] * 2
    np.testing.assert_allclose(rotation(1, 2, 8)[0, 1], expected, atol=1e-12)


def test_scores_depend_on_the_offset_and_tokens_in_front_stay():
    q, k = jax.random.normal(jax.random.key(0), (2, 8))
    turn = jnp.asarray(rotation(3, 4, 8), jnp.float32)
    tokens = [rotated(jnp.broadcast_to(x, (14, 8)), turn) for x in (q, k)]
    np.testing.assert_array_equal(tokens[0][:2], [q, q])
    scores = (tokens[0][2:] @ tokens[1][2:].T).reshape(3, 4, 3, 4)
    np.testing.assert_allclose(scores[0, 0, 1, 2], scores[1, 1, 2, 3], rtol=1e-4)
    assert abs(scores[0, 0, 1, 2] - scores[0, 0, 2, 1]) > 1e-3


@pytest.mark.parametrize("name", ["task_prompter", "vpt"])
@pytest.mark.parametrize("scan", [False, True])
def test_adapters_hand_the_rotation_on(name, scan):
    options = dict(task_prompter=dict(size=(16, 24), embed=4, width=8), vpt=dict(deep=True))[name]

    def make():
        rngs = nnx.Rngs(0)
        made = vit.ViT(scan=scan, **TINY, rngs=rngs)
        return adapters.adapt(made, [(name, options)], tasks=("a", "b"), rngs=rngs)

    out = mtl.abstract(lambda: make()(jnp.zeros((1, 16, 24, 3))))
    assert [x.shape[2:4] for x in out] == [(2, 3)] * 2


def test_pixels_by_hand():
    gain, shift = from_imagenet("half")
    for c, (mean, deviation) in enumerate(zip(*PIXELS["imagenet"], strict=True)):
        for value in (0.0, 0.7):
            given = (value - mean) / deviation
            np.testing.assert_allclose(given * gain[c] + shift[c], (value - 0.5) / 0.5, atol=1e-12)
    assert from_imagenet("imagenet") is None


def test_activations_by_hand():
    x = jnp.array([2.0, -1.0])
    silu = 2 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(blocks.ACTS["swiglu"](x), [-silu], rtol=1e-6)
    quick = x / (1 + np.exp(-1.702 * np.asarray(x)))
    np.testing.assert_allclose(blocks.ACTS["quick_gelu"](x), quick, rtol=1e-6)
    np.testing.assert_allclose(blocks.ACTS["gelu_tanh"](x), [1.954598, -0.158808], rtol=1e-5)


@pytest.mark.parametrize(
    "fields, fault",
    [
        (dict(heads=8), "a head has 2 channels"),
        (dict(act="relu"), "backbone.act"),
        (dict(pixels="none"), "backbone.pixels"),
        (dict(distillation_token=True, class_token=False), "goes with a class_token"),
    ],
)
def test_faults_are_named(fields, fault):
    with pytest.raises(ConfigError, match=fault):
        vit.ViT(**TINY | fields, rngs=nnx.Rngs(0))
