"""InvPT: shapes, whose parameters are whose, published counts."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.errors import ConfigError
from mtl_vision.models import convolution, flops, mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.decoders.invpt import taps_of

KEY = jax.random.key(0)
RNGS = types.SimpleNamespace(params=lambda: KEY)  # for shapes: keys do not matter and cost time
OUTPUTS = {"pascal": {"semseg": 5, "normals": 3}, "nyud": {"depth": 1}}
SMALL = dict(width=6, margin=2)
# A pyramid of 48 x 64 pixels, as Swin gives it after merging.
CHANNELS, STRIDES, SIZES = (6, 8, 8, 8), (8, 16, 32, 32), ((6, 8), (3, 4), (2, 2), (2, 2))


def build(rngs=RNGS, outputs=OUTPUTS, channels=CHANNELS, strides=STRIDES, **options):
    make = dict(outputs=outputs, channels=channels, strides=strides, rngs=rngs)
    return DECODERS["invpt"](**make, **SMALL | options)


def pyramid(*lead, sizes=SIZES, channels=CHANNELS):
    return [
        jax.random.normal(jax.random.fold_in(KEY, i), (*lead, *size, channel))
        for i, (size, channel) in enumerate(zip(sizes, channels, strict=True))
    ]


def filled():
    """The parts of a small decoder with random weights; drawing them with jax compiles too much."""
    decoder, draw = mtl.abstract(build), np.random.default_rng(0)
    graphdef, params, _, stats = mtl.split(decoder, dict.fromkeys(mtl.parameters(decoder), True))

    def weights(path, leaf):
        spread = 0.1 if path.endswith(("scale", "bias")) else leaf.shape[-2] ** -0.5
        return (path.endswith("scale") + spread * draw.normal(size=leaf.shape)).astype("float32")

    params = rules.map_with_path(weights, params)
    stats = rules.map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, float(path.endswith("var"))), stats
    )
    return decoder, graphdef, params, stats


def shapes(model, *args, **options):
    graphdef, state = nnx.split(model)
    out = jax.eval_shape(lambda s, args: nnx.merge(graphdef, s)(*args, **options), state, args)
    return jax.tree.map(
        lambda x: (x.shape, x.dtype.name), out, is_leaf=lambda x: hasattr(x, "dtype")
    )


@pytest.mark.parametrize(
    "sizes, strides, first",
    [
        (SIZES, STRIDES, (2, 2)),
        (((12, 16), *SIZES[:3]), (4, 8, 16, 32), (2, 2)),
        (((4, 6),) * 4, (16,) * 4, (2, 3)),
        (((5, 7),) * 4, (14,) * 4, (3, 4)),  # does not halve evenly
    ],
)
def test_maps_grow_from_the_first_stage(sizes, strides, first):
    decoder = mtl.abstract(lambda: build(strides=strides, dtype="bfloat16"))
    trunk = pyramid(2, sizes=sizes)
    wide = (2, 8 * first[0], 8 * first[1])
    found = shapes(decoder, trunk, None, dataset="pascal", key=KEY)
    assert found == {
        k: (((*wide, c), "bfloat16"), ((2, *first, c), "bfloat16"))
        for k, c in OUTPUTS["pascal"].items()
    }


def test_stages_add_the_taps_of_their_size():
    assert taps_of((16, 16, 16, 16)) == ((1, 0), 32)
    assert taps_of((4, 8, 16, 32)) == ((2, 1), 32)
    assert taps_of((8, 16, 32, 32)) == ((1, 0), 32)


@functools.cache
def rows():
    """Gradients of pascal's two losses by every parameter, ``[2, *shape]``; statistics; owners."""
    decoder, graphdef, params, stats = filled()
    trunk = pyramid(2)

    @jax.jit
    def run(params):
        def losses(params):
            model = mtl.merge(graphdef, params, {}, stats)
            out = model(trunk, None, dataset="pascal", key=KEY)
            return jnp.stack([jnp.square(out[k][0] - 1).sum() for k in OUTPUTS["pascal"]]), (
                mtl.statistics(model)
            )

        _, pull, after = jax.vjp(losses, params, has_aux=True)
        return jax.vmap(pull)(jnp.eye(2))[0], after

    grads, after = jax.device_get(run(params))
    kinds = {name: list(kinds) for name, kinds in OUTPUTS.items()}
    return rules.flatten(grads), (stats, after), mtl.owners(decoder, kinds)


def test_a_tasks_own_parameters_are_reached_by_its_loss_only():
    grads, _, owners = rows()
    own = {path: owner for path, owner in owners.items() if "/pascal/" in path}
    assert {path.split("/")[2] for path in own} == {"stages", "mix", "predict"}
    tasks = [f"pascal/{kind}" for kind in OUTPUTS["pascal"]]
    for path, (names, axis) in own.items():
        for t, task in enumerate(tasks):
            # One value per task where the leading axis is the tasks.
            parts = grads[path][t][None] if axis is None else grads[path][t]
            reached = [bool(np.abs(part).max() > 0) for part in parts]
            assert reached == [name == task for name in names], (path, task)


def test_shared_parameters_are_reached_by_both_losses():
    grads, _, owners = rows()
    shared = [path for path in grads if "/pascal/" in path and path not in owners]
    # A constant for all keys does not change what a query attends to.
    still = [path for path in shared if path.endswith(("attn/key/bias", "attn/fuse/bias"))]
    for path in shared:
        if path not in still:
            assert all(np.abs(g).max() > 0 for g in grads[path]), path
    assert all(np.abs(g).max() == 0 for path, g in grads.items() if "/nyud/" in path)


def test_a_key_moves_the_statistics_of_the_dataset_only():
    _, (before, after), _ = rows()
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)["heads"]
    assert all(jax.tree.leaves(same["nyud"])) and not any(jax.tree.leaves(same["pascal"]))


def test_streams_take_the_place_of_the_trunk_and_see_each_other():
    (_, graphdef, params, stats), trunk = filled(), pyramid(2)

    @jax.jit
    def run(params, trunk, streams):
        return mtl.merge(graphdef, params, {}, stats)(trunk, streams, dataset="pascal")

    copies = [jnp.stack([x, x]) for x in trunk]
    with convolution.plain():  # as papers write it, and count it
        expected = run(params, trunk, None)
    actual = run(params, None, copies)
    other = run(params, None, [x.at[1].add(1.0) for x in copies])
    for kind, y in expected.items():
        np.testing.assert_allclose(actual[kind], y, atol=5e-5 * np.abs(y).max())
        assert np.abs(other[kind] - y).max() > 1e-3 * np.abs(y).max()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(width=6, margin=3), "add up to a multiple of 8"),
        (dict(width=0, margin=8), "add up to a multiple of 8"),
        (dict(intermediate=-1.0), "intermediate=-1.0 must be at least 0"),
        (dict(strides=(16, 16), channels=(8, 8)), "reads three taps"),
    ],
)
def test_what_cannot_be_built_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_a_dataset_without_heads_is_named():
    with pytest.raises(ConfigError, match="Did you mean 'pascal'"):
        mtl.abstract(build)(pyramid(2), None, dataset="pascall")


PUBLISHED = {
    "pascal": dict(
        kinds={"semseg": 21, "normals": 3, "edge": 1, "sal": 2, "human_parts": 7},
        size=(512, 512),
        total=422_929_810,
        skips=9_290_736,
        preliminary=70_794_240,
        first=17_442,
        heads=19_618,
        work=672.38,
        backbone=361.99,
    ),
    "nyud": dict(
        kinds={"semseg": 40, "depth": 1, "normals": 3, "edge": 1},
        size=(448, 576),
        total=402_092_888,
        skips=9_290_736,
        preliminary=56_635_392,
        first=23_085,
        heads=25_965,
        work=601.88,
        backbone=355.54,
    ),
}


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_vit_l_has_the_published_parameters_and_multiply_adds(dataset):
    published = PUBLISHED[dataset]
    size = published["size"]

    def make():
        grid = tuple(side // 16 for side in size)
        backbone = BACKBONES["vit_l"](grid=grid, scan=True, rngs=RNGS)
        outputs = {dataset: published["kinds"]}
        taps = dict(channels=backbone.channels, strides=backbone.strides)
        return mtl.MultiTask(backbone, build(outputs=outputs, **taps, width=512, margin=64))

    model = mtl.abstract(make)
    parameters, work = model.decoder.unread(dataset, size)
    found = mtl.sizes(model)

    def count(*parts):
        below = [f"decoder/heads/{dataset}/{part}/" for part in parts]
        return sum(n for path, n in found.items() if path.startswith(tuple(below)))

    assert sum(found.values()) + parameters == published["total"]
    assert count("preliminary/hidden", "preliminary/feature") == published["preliminary"]
    assert count("preliminary/predict") == published["first"]
    assert count("predict") == published["heads"]
    assert count("skips") + 9 * 1024 * 576 + 576 == published["skips"]
    works = flops.by_component(model, dataset=dataset, size=size)
    assert round(works["backbone"] / 1e9, 2) == published["backbone"]
    assert round((sum(works.values()) + work) / 1e9, 2) == published["work"]
