"""What lies in a margin of the canvas is not seen by what lies outside of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.models.backbones import swin, vit
from mtl_vision.models.hidden import Area, Hidden, hide

KEY = jax.random.key(0)
# Of 32 x 32: the first image lacks 8 columns on both sides, the second 8 rows above and below.
AREAS = (Area(1, 0, 8, 32, 16), Area(1, 8, 0, 16, 32))


def test_tokens_by_hand():
    """Areas of 20 rows from row 6 on, in tokens of 8: token 0 holds rows 6 and 7, token 3 two."""
    hidden = Hidden((32, 16), (Area(2, 6, 0, 20, 8),), stride=8)
    expected = [[False, True]] * 4
    np.testing.assert_array_equal(hidden.tokens(4, 2), [expected] * 2)
    finer = hidden.tokens(8, 4)[0]
    np.testing.assert_array_equal(finer[:, 0], [True] + [False] * 6 + [True])
    np.testing.assert_array_equal(finer[1], [False, False, True, True])


def test_bias_leaves_class_tokens_in_sight():
    bias = Hidden((32, 16), (Area(1, 6, 0, 20, 8),), stride=8).bias(1 + 8)
    np.testing.assert_array_equal(bias[0, 0, 0] < 0, [False, *[False, True] * 4])


def build(name, **fields):
    rngs = nnx.Rngs(params=KEY)
    if name == "swin":
        return swin.Swin(embed=8, depths=(2,), heads=(2,), window=3, rngs=rngs, **fields)
    common = dict(channels=8, depth=2, heads=2, patch=8, grid=(4, 4), taps=(2,))
    return vit.ViT(**common, **fields, rngs=rngs)


@pytest.mark.parametrize("name, fields", [("vit", {}), ("vit", {"scan": True}), ("swin", {})])
def test_what_a_margin_holds_changes_nothing_outside_of_it(name, fields):
    graphdef, state = nnx.split(build(name, **fields))
    hidden = Hidden((32, 32), AREAS, stride=4 if name == "swin" else 8)

    def run(images, masked):
        model = nnx.merge(graphdef, state)
        if masked:
            hide(model, hidden)
        return model(images)[0][0]

    run = jax.jit(run, static_argnums=1)
    images = jax.random.normal(KEY, (2, 32, 32, 3))
    margin = np.repeat(np.repeat(hidden.tokens(4, 4), 8, 1), 8, 2)[..., None]
    other = jnp.where(margin, 5.0, images)
    for masked in (True, False):
        a, b = run(images, masked), run(other, masked)
        seen = ~hidden.tokens(*a.shape[1:3])
        off = np.abs(a - b)[seen].max()
        assert off < 1e-5 if masked else off > 1e-3


def test_vit_without_margins_in_sight_equals_the_image_alone():
    """The class token too: with no position to tell them apart, only real tokens count."""
    model = build("vit")
    model.pos_embed[...] = jnp.zeros_like(model.pos_embed[...])
    images = jax.random.normal(KEY, (1, 32, 16, 3))
    alone = jax.jit(lambda x: model(x)[0])(images)
    hide(model, Hidden((32, 32), AREAS[:1], stride=8))
    wide = jax.jit(lambda x: model(jnp.pad(x, ((0, 0), (0, 0), (8, 8), (0, 0))))[0])(images)
    np.testing.assert_allclose(wide[..., 1:3, :], alone, atol=1e-5)
