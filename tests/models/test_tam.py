"""Task interaction of M3ViT's heads: its formula, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models import convolution, mtl
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.decoders.tam import Tam

KEY = jax.random.key(0)
KINDS = {"semseg": 2, "depth": 1, "sal": 1}


def pup(outputs=None, **options):
    read = dict(channels=(5, 6), strides=(16, 16), width=4, rngs=nnx.Rngs(params=KEY))
    return DECODERS["pup"](outputs=outputs or {"d": KINDS}, **read, **options)


def normed(layer, x, stride=1):
    """Convolution and the norm of this batch, both as they start."""
    kernel, bias = layer.layer.kernel[...], layer.layer.bias[...][None, None, None]
    if stride < 1:
        x = convolution.conv_transpose(x, kernel, stride=2, padding=1, output_padding=1)
    else:
        x = convolution.conv(x, kernel, stride=stride, padding=1)
    x = x + bias
    mean, var = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5)


def test_maps_of_all_tasks_predict_each():
    tam = Tam(KINDS, 4, rngs=nnx.Rngs(params=KEY))
    maps = list(jax.random.normal(KEY, (3, 2, 6, 8, 4)))  # 6 is no multiple of 4

    @jax.jit
    def both(tam):
        x = jax.nn.relu(normed(tam.join, jnp.concatenate(maps, -1)))
        share = jax.nn.sigmoid(normed(tam.weigh, x))
        parts = (share * maps[0], (1 - share) / 2 * maps[1], (1 - share) / 2 * maps[2])
        x = jax.nn.relu(normed(tam.mix, jnp.concatenate(parts, -1)))
        for layer in tam.down:
            x = jax.nn.relu(normed(layer, x, 2))
        x = normed(tam.up[1], jax.nn.relu(normed(tam.up[0], x, 0)), 0)
        gain = 1 + jax.nn.sigmoid(x[:, :6, :8])
        x = jnp.concatenate([x * gain for x in maps], -1)
        x = jax.nn.relu(normed(tam.heads["sal"], x))
        predict = tam.predict["sal"]
        return tam(maps, key=KEY), x @ predict.kernel[0, 0] + predict.bias[None, None, None]

    found, expected = both(tam)
    assert {kind: y.shape for kind, y in found.items()} == {
        kind: (2, 6, 8, out) for kind, out in KINDS.items()
    }
    np.testing.assert_allclose(found["sal"], expected, atol=1e-5)


def test_extra_predictions_are_for_training_and_reach_all_heads():
    decoder, levels = pup(tam=(0, 2)), [None, jax.random.normal(KEY, (1, 2, 3, 6))]
    graphdef, params, _, stats = mtl.split(decoder, dict.fromkeys(mtl.parameters(decoder), True))

    @jax.jit
    def run(params):
        def loss(params, place):
            out = mtl.merge(graphdef, params, {}, stats)(levels, None, dataset="d", key=KEY)
            return jnp.square(out["depth"][place]).sum(), out

        plain = mtl.merge(graphdef, params, {}, stats)
        first = plain.heads["d"].heads[0](levels)
        evaluated = plain(levels, None, dataset="d")
        found = [jax.grad(loss, has_aux=True)(params, place) for place in (0, 1)]
        return (first, evaluated["semseg"]), found[0][1], [g for g, _ in found]

    (first, evaluated), out, grads = run(params)
    np.testing.assert_array_equal(evaluated, first)
    shapes = [(1, 16, 24, 1), (1, 4, 6, 1), (1, 16, 24, 1)]
    assert [y.shape for y in out["sal"]] == shapes
    reached = [
        [jnp.abs(g["heads"]["d"]["heads"][t]["convs"][1]["kernel"]).max() for t in range(3)]
        for g in grads
    ]
    assert [x > 0 for x in reached[0]] == [False, True, False] and min(reached[1]) > 0
    # A loss of one task reaches all heads: none is anybody's own but the extra ones.
    own = {path for path in mtl.owners(decoder, {"d": list(KINDS)})}
    assert own and all("/tams/" in path for path in own)


@pytest.mark.parametrize(
    "options, text",
    [
        (dict(tam=(0, 3)), "must rise within 0 to 2"),
        (dict(tam=(1, 0)), "must rise within 0 to 2"),
        (dict(tam=(1,), outputs={"d": {"depth": 1}}), "d has one task; tam needs two"),
    ],
)
def test_levels_that_cannot_be_are_named(options, text):
    with pytest.raises(ConfigError, match=text):
        pup(**options)
