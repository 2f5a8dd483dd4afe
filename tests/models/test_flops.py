"""Multiply-adds by hand, and those of published models."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mtl_vision.models import convolution, flops
from mtl_vision.models.layers import Conv, Linear
from mtl_vision.models.resize import resize


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


@pytest.mark.parametrize(
    "options, kernel, count",
    [
        (dict(padding=1), (3, 3, 4, 5), 6 * 8 * 9 * 4 * 5),
        (dict(padding=1, stride=2), (3, 3, 4, 5), 3 * 4 * 9 * 4 * 5),
        (dict(padding=2, dilation=2), (3, 3, 4, 5), 6 * 8 * 9 * 4 * 5),
        (dict(padding=1, groups=2), (3, 3, 2, 6), 6 * 8 * 9 * 2 * 6),
        (dict(padding=1, stride=2, groups=4), (3, 3, 1, 4), 3 * 4 * 9 * 4),  # products of shifts
        (dict(stride=2), (2, 2, 4, 5), 3 * 4 * 4 * 4 * 5),  # one product of patches
        (dict(), (1, 1, 4, 5), 6 * 8 * 4 * 5),
    ],
)
def test_convolutions_in_every_form(options, kernel, count):
    def run(x, kernel):
        return convolution.conv(x, kernel, **options)

    assert flops.multiply_adds(run, shape(1, 6, 8, 4), shape(*kernel)) == {"": count}


def test_a_transposed_convolution_counts_its_inputs():
    def run(x, kernel):
        return convolution.conv_transpose(x, kernel, stride=2, padding=1, output_padding=1)

    # A kernel for every pixel that goes in: 6 x 8, not 12 x 16.
    assert flops.multiply_adds(run, shape(1, 6, 8, 4), shape(3, 3, 4, 5)) == {"": 6 * 8 * 9 * 20}


def test_loops_and_remat_count_what_they_run():
    def run(x, kernels):
        step = jax.checkpoint(lambda x, kernel: (jnp.tanh(x @ kernel), None), prevent_cse=False)
        x, _ = jax.lax.scan(step, x, kernels)
        return jax.jit(lambda x: x @ kernels[0])(x)

    assert flops.multiply_adds(run, shape(3, 4), shape(7, 4, 4)) == {"": (7 + 1) * 3 * 4 * 4}


def test_interpolation_counts_nothing():
    def run(x, weight):
        return resize(resize(x, (9, 7)), (18, 14)) @ weight

    assert flops.multiply_adds(run, shape(2, 6, 8, 4), shape(4, 3)) == {"": 2 * 18 * 14 * 4 * 3}


def test_modules_have_their_own_count():
    class Two(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(params=jax.random.key(0))
            self.first, self.parts = Linear(4, 5, rngs=rngs), nnx.List([Conv(5, 2, 3, rngs=rngs)])

        def __call__(self, x):
            x = self.first(x)
            return self.parts[0](x).sum(-1, keepdims=True) @ jnp.ones((1, 3))

    model, call = nnx.eval_shape(Two), Two.__call__
    graphdef, state = nnx.split(model)

    def run(state, x):
        model = nnx.merge(graphdef, state)
        with flops.named_calls(nnx.Dict(two=model)):
            return model(x)

    found = flops.multiply_adds(run, state, shape(1, 6, 8, 4))
    assert found == {
        "two/first": 48 * 4 * 5,
        "two/parts/0": 48 * 9 * 5 * 2,
        "two": 48 * 3,
    }
    assert Two.__call__ is call
