"""ViT: sizes, positions, scanned against unrolled blocks, remat, tokens, compute types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models import mtl, stacks
from mtl_vision.models.adapters import inject
from mtl_vision.models.backbones import BACKBONES, vit
from mtl_vision.models.layers import Penalty

KEY = jax.random.key(0)
TINY = dict(channels=16, depth=3, heads=2, patch=8, grid=(3, 3), taps=(2, 3))
# At a grid of 32 x 32 with class token and final norm.
COUNTS = {"vit_b": 86434560, "vit_l": 304149504}


def build(**fields):
    return vit.ViT(**(TINY | fields), rngs=nnx.Rngs(params=jax.random.key(1)))


def image(height=24, width=32, batch=2):
    return jax.random.normal(KEY, (batch, height, width, 3))


def run(model, x, key=None):
    """Compiled: one small program instead of many."""
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state: nnx.merge(graphdef, state)(x, key=key))(state)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("scan", [False, True])
def test_published_sizes_have_the_published_counts(name, scan):
    model = mtl.abstract(
        lambda: BACKBONES[name](grid=(32, 32), scan=scan, rngs=nnx.Rngs(params=KEY))
    )
    assert mtl.parameter_table(model)[-1] == ("total", COUNTS[name])


def test_taps_are_the_quarters_by_default():
    for name, taps in (("vit_b", (3, 6, 9, 12)), ("vit_l", (6, 12, 18, 24))):
        model = mtl.abstract(lambda name=name: BACKBONES[name](rngs=nnx.Rngs(params=KEY)))
        assert model.taps == taps


@pytest.mark.parametrize("size", [(24, 24), (17, 50), (5, 3)])
@pytest.mark.parametrize("fields", [{}, dict(class_token=False), dict(register_tokens=2)])
def test_any_size_runs(size, fields):
    model = build(depth=2, taps=(1, 2), **fields)
    h, w = (-(-side // 8) for side in size)
    out = run(model, image(*size))
    assert [x.shape for x in out] == [(1, 2, h, w, 16)] * 2
    assert model.channels == (16, 16) and model.strides == (8, 8)
    assert all(np.isfinite(x).all() for x in out)


def test_positions_of_the_own_grid_are_the_table():
    model = build(grid=(3, 4))
    np.testing.assert_allclose(model.positions(3, 4), model.pos_embed[...], atol=1e-7)
    assert model.positions(5, 2).shape == (11, 16)
    np.testing.assert_array_equal(model.positions(5, 2)[0], model.pos_embed[0])


def test_tokens_are_class_registers_patches():
    model = build(register_tokens=2)
    tokens = model.embed(jnp.zeros((1, 3, 3, 16)))[0]
    table = model.pos_embed[...]
    expected = [model.cls_token[...] + table[:1], model.register_tokens[...], table[1:]]
    np.testing.assert_allclose(tokens, jnp.concatenate(expected), atol=1e-7)


def test_only_the_last_tap_is_normalised():
    first, last = run(build(), image())
    np.testing.assert_allclose(last.mean(-1), jnp.zeros(last.shape[:-1]), atol=1e-5)
    assert jnp.abs(first.mean(-1)).max() > 1e-4


class Weighed(nnx.Module):
    """A layer whose input has a penalty."""

    def __init__(self, layer):
        self.layer, self.penalty = layer, Penalty(jnp.zeros(()))

    def __call__(self, x, *, key=None):
        self.penalty[...] = jnp.square(x).sum()
        return self.layer(x, key=key)


def weighed(model):
    def edit(block, place, rngs):
        inject.wrap(block, "mlp.fc1", Weighed)

    inject.edit_blocks(model, edit, rngs=nnx.Rngs(0))
    return model


@pytest.mark.parametrize("remat", ["none", "block"])
def test_scanned_blocks_equal_unrolled_ones_with_gradient(remat):
    fields = dict(drop_path=0.3, layer_scale=0.5)

    def value_and_grad(model, parameters):
        graphdef, _ = nnx.split(model)

        def value(parameters):
            model = nnx.merge(graphdef, parameters)
            out = sum(jnp.square(x).sum() for x in model(image(), key=KEY))
            return out + sum(p.sum() for p in jax.tree.leaves(nnx.state(model, Penalty)))

        return jax.jit(jax.value_and_grad(value))(parameters)

    plain, scanned = weighed(build(**fields)), weighed(build(scan=True, remat=remat, **fields))
    parameters = nnx.to_pure_dict(nnx.state(plain))
    stacked = stacks.stack(parameters, plain.taps)
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(
        jnp.shape, nnx.to_pure_dict(nnx.state(scanned))
    )
    value, grad = value_and_grad(plain, parameters)
    scanned_value, scanned_grad = value_and_grad(scanned, stacked)
    np.testing.assert_allclose(scanned_value, value, rtol=1e-5)
    pairs = zip(
        jax.tree.leaves(stacks.unstack(scanned_grad)),
        jax.tree.leaves(dict(sorted(grad.items()))),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_unstack_undoes_stack():
    parameters = nnx.to_pure_dict(nnx.state(build()))
    back = stacks.unstack(stacks.stack(parameters, (2, 3)))
    jax.tree.map(np.testing.assert_array_equal, back, parameters)


def test_stacked_blocks_start_differently():
    kernel = build(scan=True).segments[0].attn.qkv.kernel[...]
    assert kernel.shape == (2, 16, 48) and jnp.abs(kernel[0] - kernel[1]).max() > 1e-3


def test_bfloat16_is_close_to_float32():
    pair = run(build(), image()), run(build(dtype="bfloat16"), image())
    for exact, short in zip(*pair, strict=True):
        assert short.dtype == jnp.bfloat16
        error = jnp.abs(exact - short.astype(jnp.float32)).max() / jnp.abs(exact).max()
        assert error < 0.05


def test_scanned_blocks_keep_bfloat16():
    out = run(build(dtype="bfloat16", scan=True, drop_path=0.5), image(), KEY)
    assert {x.dtype for x in out} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    "fields, fault",
    [
        (dict(taps=(2, 1, 3)), "must rise"),
        (dict(taps=(1, 2)), "to the depth, 3"),
        (dict(taps=(0, 3)), "must rise"),
        (dict(heads=3), "3 heads do not divide 16"),
        (dict(remat="all"), "backbone.remat"),
    ],
)
def test_faults_are_named(fields, fault):
    with pytest.raises(ConfigError, match=fault):
        build(**fields)
