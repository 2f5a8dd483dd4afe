"""Backbone and decoder together; the model as plain trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.errors import ConfigError
from mtl_vision.models import mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.decoders import DECODERS

KEY = jax.random.key(0)
PASCAL = {"semseg": 21, "normals": 3, "sal": 1, "human_parts": 7}
SWIN_T = {"swin_t": 29464442, "swin_s": 50782346, "swin_b": 88932024, "swin_l": 197671700}


def build(backbone="swin", decoder="conv", outputs=None, **fields):
    rngs = nnx.Rngs(params=KEY)
    backbone = BACKBONES[backbone](**fields, rngs=rngs)
    decoder = DECODERS[decoder](
        outputs=outputs or {"a": {"semseg": 4, "normals": 3}, "b": {"depth": 1}},
        channels=backbone.channels,
        strides=backbone.strides,
        rngs=rngs,
    )
    return mtl.MultiTask(backbone, decoder)


def tiny(**fields):
    return build(embed=8, depths=(1, 1), heads=(1, 2), window=4, **fields)


def image(height=32, width=32):
    return jax.random.normal(KEY, (2, height, width, 3))


def run(model, x, **options):
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state: nnx.merge(graphdef, state)(x, **options))(state)


@pytest.mark.parametrize("name", SWIN_T)
def test_whole_models_have_the_published_counts(name):
    model = mtl.abstract(lambda: build(name, "hrnet", {"pascal": PASCAL}))
    assert mtl.parameter_table(model, depth=1)[-1] == ("total", SWIN_T[name])


@pytest.mark.parametrize("size", [(32, 32), (33, 50)])
def test_predictions_have_the_size_of_the_image(size):
    out = run(tiny(), image(*size), dataset="a")
    assert {kind: y.shape for kind, y in out.items()} == {
        "semseg": (2, *size, 4),
        "normals": (2, *size, 3),
    }


def test_predictions_are_float32_whatever_the_compute_type():
    out = run(tiny(dtype="bfloat16"), image(), dataset="b")
    assert out["depth"].dtype == jnp.float32


def test_an_image_that_ends_inside_a_cell_is_not_stretched():
    # Zeros are what the model fills up with, so both see the same input.
    model, x = tiny(), image(32, 32).at[:, 29:].set(0)
    whole = run(model, x, dataset="b")["depth"]
    np.testing.assert_allclose(
        run(model, x[:, :29], dataset="b")["depth"], whole[:, :29], atol=1e-5
    )


class Taps(nnx.Module):
    """A backbone whose streams hold their numbers."""

    def __init__(self, streams, shared):
        self.streams, self.shared, self.strides, self.tasks = streams, shared, (8,), ()

    def __call__(self, image, *, key=None):
        numbers = jnp.arange(float(self.streams)).reshape(-1, 1, 1, 1, 1)
        return [jnp.broadcast_to(numbers, (self.streams, 2, 2, 2, 1))]


class Echo(nnx.Module):
    """A decoder that keeps what it was given."""

    def __init__(self, keep):
        self.keep = keep

    def __call__(self, trunk, streams, *, dataset, key=None):
        given = (trunk, streams)
        self.keep([x if x is None else np.unique(x[0]).tolist() for x in given])
        return {"depth": jnp.zeros((2, 2, 2, 1))}


@pytest.mark.parametrize(
    "streams, shared, expected",
    [(1, 1, [[0], None]), (3, 1, [[0], [1, 2]]), (2, 0, [None, [0, 1]])],
)
def test_trunk_and_streams_reach_the_decoder(streams, shared, expected):
    seen = []
    mtl.MultiTask(Taps(streams, shared), Echo(seen.append))(image(16, 16), dataset="a")
    assert seen == [expected]


def test_split_and_merge_are_inverse_and_follow_the_rules():
    model = tiny()
    trains = rules.resolve(
        [("decoder/.*", True), (".*norm.*", True), (".*", False)],
        mtl.parameters(model),
        "trainable",
    )
    graphdef, trainable, frozen, stats = mtl.split(model, trains)
    assert {path for path, yes in trains.items() if yes} == set(rules.flatten(trainable))
    assert {path for path, yes in trains.items() if not yes} == set(rules.flatten(frozen))
    assert set(rules.flatten(stats)) == set(rules.flatten(mtl.statistics(model)))
    assert all(path.split("/")[-1] in ("mean", "var") for path in rules.flatten(stats))
    merged = mtl.merge(graphdef, trainable, frozen, stats)
    expected, actual = run(model, image(), dataset="a"), run(merged, image(), dataset="a")
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_split_of_all_or_nothing():
    model = tiny()
    for yes in (True, False):
        graphdef, *parts = mtl.split(model, dict.fromkeys(mtl.parameters(model), yes))
        assert bool(parts[0]) == yes and bool(parts[1]) != yes
        mtl.merge(graphdef, *parts)


def test_an_undecided_parameter_is_named():
    with pytest.raises(ConfigError, match="backbone/patch_embed"):
        mtl.split(tiny(), {})


def test_a_step_trains_and_moves_statistics():
    model = tiny(drop_path=0.1)
    graphdef, *trees = mtl.split(model, dict.fromkeys(mtl.parameters(model), True))

    @jax.jit
    def step(trainable, frozen, stats, key):
        def loss(trainable):
            merged = mtl.merge(graphdef, trainable, frozen, stats)
            out = merged(image(), dataset="a", key=key)
            return sum(jnp.square(y).mean() for y in out.values()), mtl.statistics(merged)

        (value, moved), grad = jax.value_and_grad(loss, has_aux=True)(trainable)
        return jax.tree.map(lambda p, g: p - 0.1 * g, trainable, grad), moved, value

    trainable, frozen, stats = trees
    values = []
    for _ in range(4):
        trainable, moved, value = step(trainable, frozen, stats, KEY)
        values.append(float(value))
        assert jax.tree.structure(moved) == jax.tree.structure(stats)
    assert values[-1] < values[0]


def test_the_table_adds_up():
    model = tiny()
    *rows, (name, total) = mtl.parameter_table(model, depth=3)
    assert name == "total" and sum(count for _, count in rows) == total
    assert total == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert dict(rows)["decoder/heads/b"] > 0


def test_gradients_of_all_tasks_at_once_equal_that_of_one():
    fields = dict(channels=8, depth=2, heads=2, patch=8, taps=(2,), scan=True, remat="block")
    model = build("vit", drop_path=0.2, **fields)
    graphdef, *trees = mtl.split(model, dict.fromkeys(mtl.parameters(model), True))

    def losses(trainable):
        out = mtl.merge(graphdef, trainable, *trees[1:])(image(16, 16), dataset="a", key=KEY)
        return jnp.stack([jnp.square(out[kind]).mean() for kind in ("semseg", "normals")])

    @jax.jit
    def rows(trainable):
        return jax.jacrev(losses)(trainable), jax.grad(lambda p: losses(p)[1])(trainable)

    together, second = rows(trees[0])
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-6)
