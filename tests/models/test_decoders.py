"""Decoders of tasks that do not see each other: shapes, counts, streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models import convolution, mtl
from mtl_vision.models.decoders import DECODERS

KEY = jax.random.key(0)
OUTPUTS = {"pascal": {"semseg": 21, "normals": 3}, "nyud": {"depth": 1}}
# Decoders whose tasks do not see each other.
APART = ("all_mlp", "conv", "hrnet")
CHANNELS, STRIDES, SIZES = (6, 8, 8, 8), (8, 16, 32, 32), ((6, 8), (3, 4), (2, 2), (2, 2))


def build(name, **fields):
    rngs = nnx.Rngs(params=KEY)
    return DECODERS[name](outputs=OUTPUTS, channels=CHANNELS, strides=STRIDES, rngs=rngs, **fields)


def pyramid(*lead):
    return [
        jax.random.normal(jax.random.fold_in(KEY, i), (*lead, *size, channels))
        for i, (size, channels) in enumerate(zip(SIZES, CHANNELS, strict=True))
    ]


def run(model, *args, **options):
    """Compiled: one small program instead of many."""
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state, args: nnx.merge(graphdef, state)(*args, **options))(state, args)


@pytest.mark.parametrize("name", APART)
def test_every_task_of_the_dataset_is_decoded(name):
    decoder = build(name)
    for dataset, kinds in OUTPUTS.items():
        out = run(decoder, pyramid(2), None, dataset=dataset)
        assert {kind: y.shape for kind, y in out.items()} == {
            kind: (2, 6, 8, channels) for kind, channels in kinds.items()
        }


@pytest.mark.parametrize("name", APART)
def test_a_stream_feeds_its_own_task(name):
    decoder, trunk, streams = build(name), [-x for x in pyramid(2)], pyramid(2, 2)
    for t, kind in enumerate(OUTPUTS["pascal"]):
        expected = run(decoder, [x[t] for x in streams], None, dataset="pascal")[kind]
        actual = run(decoder, trunk, streams, dataset="pascal")[kind]
        np.testing.assert_allclose(actual, expected, atol=1e-5)
        assert jnp.abs(actual - run(decoder, trunk, None, dataset="pascal")[kind]).max() > 1e-3


def gradient_of_normals(decoder):
    """Gradient of pascal's normals, the second of its tasks, by all parameters."""
    trainable = dict.fromkeys(mtl.parameters(decoder), True)
    graphdef, parameters, frozen, stats = mtl.split(decoder, trainable)

    @jax.jit
    @jax.grad
    def grad(parameters):
        model = mtl.merge(graphdef, parameters, frozen, stats)
        return jnp.square(model(pyramid(2), None, dataset="pascal", key=KEY)["normals"]).sum()

    heads = grad(parameters)["heads"]
    assert all(jnp.abs(g).max() == 0 for g in jax.tree.leaves(heads["nyud"]))
    return heads["pascal"]


def test_hrnet_tasks_touch_their_own_head_only():
    heads = gradient_of_normals(build("hrnet"))
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(heads["normals"]["predict"]))
    assert all(jnp.abs(g).max() == 0 for g in jax.tree.leaves(heads["semseg"]))


def test_conv_tasks_touch_their_own_slices_only():
    heads = gradient_of_normals(build("conv"))
    for stacked in (heads["mix"], heads["mix_norm"]["scale"], heads["mix_norm"]["bias"]):
        assert jnp.abs(stacked[0]).max() == 0 < jnp.abs(stacked[1]).max()
    assert all(jnp.abs(g).max() == 0 for g in jax.tree.leaves(heads["predict"]["semseg"]))
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(heads["project"]))


@pytest.mark.parametrize("name", APART)
def test_a_key_moves_the_statistics_of_the_dataset_only(name):
    decoder = build(name)
    before = mtl.statistics(decoder)["heads"]
    graphdef, state = nnx.split(decoder)

    @jax.jit
    def after(state):
        model = nnx.merge(graphdef, state)
        model(pyramid(2), None, dataset="pascal", key=KEY)
        return mtl.statistics(model)["heads"]

    same = jax.tree.map(lambda a, b: bool((a == b).all()), before, after(nnx.to_pure_dict(state)))
    assert all(jax.tree.leaves(same["nyud"])) and not any(jax.tree.leaves(same["pascal"]))


@pytest.mark.parametrize("name", APART)
def test_a_dataset_without_heads_is_named(name):
    with pytest.raises(ConfigError, match="Did you mean 'pascal'"):
        build(name)(pyramid(2), None, dataset="pascall")


def test_conv_equals_one_head_per_task_on_the_concatenated_levels():
    heads, levels = build("conv", width=5).heads["pascal"], pyramid(2)

    @jax.jit
    def expected(levels):
        wide = [jax.image.resize(x, (2, 6, 8, x.shape[-1]), "bilinear") for x in levels]
        kernel = jnp.concatenate([project.kernel[0, 0] for project in heads.project])
        x = jax.nn.relu(heads.join_norm(jnp.concatenate(wide, -1) @ kernel))
        mixed = [convolution.conv(x, heads.mix[t], padding=1) for t in range(2)]
        x = jax.nn.relu(heads.mix_norm(jnp.stack(mixed, -2)))
        return {k: heads.predict[k](x[..., t, :]) for t, k in enumerate(OUTPUTS["pascal"])}

    actual = run(heads, levels, None)
    for kind, y in expected(levels).items():
        np.testing.assert_allclose(actual[kind], y, atol=1e-5)


def test_hrnet_needs_a_width_per_level():
    with pytest.raises(ConfigError, match="one entry for each"):
        build("hrnet", widths=(18, 36))


@pytest.mark.parametrize(
    "channels, count", [(21, 317541), (7, 302407), (3, 298083), (1, 295921), (40, 338080)]
)
def test_hrnet_heads_have_the_published_counts(channels, count):
    decoder = mtl.abstract(
        lambda: DECODERS["hrnet"](
            outputs={"d": {"semseg": channels}},
            channels=(192, 384, 768, 768),
            strides=STRIDES,
            rngs=nnx.Rngs(params=KEY),
        )
    )
    assert mtl.parameter_table(decoder)[-1] == ("total", 183168 + count)
