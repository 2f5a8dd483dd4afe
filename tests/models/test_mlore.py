"""MLoRE: gates, experts as convolutions, what belongs to whom, and the published sizes."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import build
from mtl_vision.check import check
from mtl_vision.errors import ConfigError
from mtl_vision.models import convolution, flops, mtl
from mtl_vision.models.adapters.inject import merge
from mtl_vision.models.decoders import DECODERS, mlore, mlore_block
from mtl_vision.models.decoders.enlarged import enlarged_conv
from mtl_vision.models.resize import resize
from tests.test_check import CONFIGS, load

KEY = jax.random.key(0)
OUTPUTS = {"pascal": {"semseg": 4, "normals": 3}, "nyud": {"depth": 1}}
CHANNELS, STRIDES, SIZES = (6, 8), (8, 16), ((6, 8), (3, 4))
ONE = dict(channels=CHANNELS[1:], strides=STRIDES[1:])  # of the taps
SMALL = dict(width=8, ranks=(1, 2, 3), task_rank=2, top=2, balance=0.5, grid=(3, 4))


def make(channels=CHANNELS, strides=STRIDES, **fields):
    fields = SMALL | fields
    rngs = nnx.Rngs(params=KEY)
    return DECODERS["mlore"](
        outputs=OUTPUTS, channels=channels, strides=strides, rngs=rngs, **fields
    )


def pyramid(*lead, sizes=SIZES, channels=CHANNELS):
    return [
        jax.random.normal(jax.random.fold_in(KEY, i), (*lead, *size, c))
        for i, (size, c) in enumerate(zip(sizes, channels, strict=True))
    ]


def randomized(module):
    """Draws every parameter and statistic anew, so that no branch is zero."""
    leaves, tree = jax.tree.flatten(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    draws = [0.5 + 0.5 * np.random.RandomState(i).rand(*x.shape) for i, x in enumerate(leaves)]
    signs = [np.random.RandomState(i).choice([-1, 1], x.shape) for i, x in enumerate(leaves)]
    drawn = [jnp.asarray(d * s, jnp.float32) for d, s in zip(draws, signs, strict=True)]
    nnx.update(module, jax.tree.unflatten(tree, drawn))
    for _, part in nnx.iter_modules(module):
        if hasattr(part, "var"):
            part.var[...] = jnp.abs(part.var[...])
    return module


@pytest.mark.parametrize("select", mlore_block.SELECT)
def test_only_the_largest_gates_are_kept(select):
    logits = jnp.asarray(np.random.RandomState(0).permutation(15), jnp.float32) / 5
    scale = jnp.zeros(15).at[0].set(-1.0)
    gates = mlore_block.route(logits, scale, None, top=9, select=select)
    assert set(np.flatnonzero(gates)) == set(np.argsort(logits)[-9:])
    whole = np.exp(logits) / np.exp(logits).sum()
    total = whole[np.argsort(logits)[-9:]].sum() if select == "gates" else 1.0
    np.testing.assert_allclose(gates.sum(), total, rtol=1e-6)
    np.testing.assert_allclose(
        gates / gates.sum(), np.where(gates > 0, whole, 0) / whole[gates > 0].sum(), rtol=1e-5
    )
    # A negative scale turns the noise around.
    noise = jnp.full(15, -100.0)
    noisy = mlore_block.route(logits, scale, noise, top=1, select=select)
    assert np.flatnonzero(noisy) == [0]


def test_experts_and_the_enlarged_convolution_are_what_they_stand_for():
    experts = randomized(mlore_block.Experts(4, (1, 2, 3), dtype=None, rngs=nnx.Rngs(params=KEY)))
    x, kernel = jax.random.normal(KEY, (2, 1, 3, 5, 4)), jax.random.normal(KEY, (3, 3, 4, 2))
    gates = jnp.asarray([[[0.2, 0.0, 0.5]], [[0.0, 0.7, 0.1]]])

    @jax.jit
    def both(x, gates, kernel):
        kernels, biases = experts.products()
        each = jnp.stack([convolution.conv(x, k, padding=1) for k in kernels])
        each += biases[:, None, None, None, None]
        wide = convolution.conv(resize(x, (12, 20)), kernel, padding=1)
        return (
            (experts(x, gates), jnp.einsum("bte,ebthwc->bthwc", gates, each)),
            (enlarged_conv(x, kernel, 4), wide),
        )

    for actual, expected in both(x, gates, kernel):
        assert jnp.abs(expected).max() > 0.1
        np.testing.assert_allclose(actual, expected, atol=1e-5 * float(jnp.abs(expected).max()))


def test_merged_equals_unmerged_and_streams_feed_their_own_task():
    decoder = randomized(make(**ONE))
    merged = merge(decoder)
    trunk, streams = pyramid(2)[1:], pyramid(2, 2)[1:]

    @jax.jit
    def run(trunk, streams):
        return (
            decoder(trunk, None, dataset="pascal"),
            merged(trunk, None, dataset="pascal"),
            decoder(trunk, streams, dataset="pascal"),
            decoder([x[1] for x in streams], None, dataset="pascal"),
        )

    plain, folded, streamed, second = run(trunk, streams)
    for kind, channels in OUTPUTS["pascal"].items():
        assert plain[kind].shape == (2, 12, 16, channels)
        scale = float(jnp.abs(plain[kind]).max())
        np.testing.assert_allclose(folded[kind], plain[kind], atol=1e-5 * scale)
    np.testing.assert_allclose(streamed["normals"], second["normals"], atol=1e-5 * scale)
    assert jnp.abs(streamed["semseg"] - second["semseg"]).max() > 1e-3 * scale
    again = mtl.parameters(merge(merged))
    assert again.keys() == mtl.parameters(merged).keys() and not any("down" in p for p in again)


def test_training_touches_own_slices_keeps_the_balance_and_moves_statistics():
    decoder = make()
    params = mtl.parameters(decoder)
    graphdef, params, frozen, stats = mtl.split(decoder, dict.fromkeys(params, True))

    @jax.jit
    def train(params, key, noise):
        def loss(params):
            model = mtl.merge(graphdef, params, frozen, stats)
            out = model.heads["pascal"](pyramid(2), None, key=key, noise=noise)
            return jnp.square(out["normals"]).sum(), mtl.statistics(model)

        return jax.value_and_grad(loss, has_aux=True)(params)

    noise = jnp.zeros((2, 2, 2, 2, 3))
    (_, after), grads = train(params, KEY, noise)
    (_, other), _ = train(params, KEY, noise + 3 * jax.random.normal(KEY, noise.shape))
    heads = grads["heads"]["pascal"]
    for leaf in (heads["mix"]["kernel"], heads["first"][0]["task_up"]["kernel"]):
        assert jnp.abs(leaf[0]).max() == 0 < jnp.abs(leaf[1]).max()
    assert jnp.abs(heads["second"][1]["experts"]["up"]).max() > 0
    assert all(jnp.abs(g).max() == 0 for g in jax.tree.leaves(grads["heads"]["nyud"]))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats["heads"], after["heads"])
    assert all(jax.tree.leaves(moved["pascal"])) and not any(jax.tree.leaves(moved["nyud"]))
    penalties = [found["heads"]["pascal"]["penalty"] for found in (after, other)]
    assert penalties[0] > 0 and penalties[0] != penalties[1]
    assert penalties[0].dtype == jnp.float32


def test_the_shared_convolution_sends_no_gradient_back():
    block = make(**ONE).heads["pascal"].first[0]
    for layer in (block.experts.up, block.task_up.kernel):
        layer[...] = jnp.zeros_like(layer[...])
    graphdef, params, frozen, stats = mtl.split(block, dict.fromkeys(mtl.parameters(block), True))
    x = jax.random.normal(KEY, (1, 3, 4, 1, 8))

    @jax.jit
    @jax.grad
    def grad(params):
        y, _ = mtl.merge(graphdef, params, frozen, stats)(x)
        return jnp.square(y).sum()

    grads = grad(params)
    assert jnp.abs(grads["shared"]["kernel"]).max() > 0
    assert jnp.abs(grads["enter"]["kernel"]).max() == 0


def test_the_routers_places_are_resized_to_the_same_sum():
    router = make(**ONE).heads["pascal"].first[0].router
    x = jnp.ones((1, 6, 8, 2, 8))
    weights = router._weights(x)
    assert weights.shape == (2, 6, 8)
    np.testing.assert_allclose(weights.sum((1, 2)), router.places[...].sum((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(router._weights(x[:, :3, :4]), router.places[...])


@pytest.mark.parametrize(
    "sizes, strides, grid",
    [
        (((16, 12), (8, 6), (4, 3), (2, 2)), (4, 8, 16, 32), (16, 12)),
        (((4, 3), (2, 2)), (32, 64), (16, 12)),
        (((4, 3),) * 4, (16,) * 4, (16, 12)),
    ],
)
def test_taps_of_any_size_meet_on_one_grid(sizes, strides, grid):
    channels = (6, 8, 8, 8)[: len(sizes)]
    decoder = make(channels, strides, dtype="bfloat16")
    taps = pyramid(1, sizes=sizes, channels=channels)
    out = jax.eval_shape(lambda x: decoder(x, None, dataset="nyud"), taps)
    assert out["depth"].shape == (1, *grid, 1) and out["depth"].dtype == jnp.bfloat16


def test_datasets_may_have_grids_of_their_own():
    model = mtl.abstract(lambda: make(**ONE, grid={"pascal": (3, 4), "nyud": (2, 5)}))
    places = {d: model.heads[d].second[0].router.places.shape for d in OUTPUTS}
    assert places == {"pascal": (2, 3, 4), "nyud": (1, 2, 5)}


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(width=10), "multiple of 4"),
        (dict(ranks=(3,)), "two ranks at least"),
        (dict(task_rank=0), "must be positive"),
        (dict(top=4), "use 1 to 3"),
        (dict(balance=-1.0), "at least 0"),
        (dict(select="gate"), "Did you mean 'gates'"),
        (dict(grid=(3,)), "two positive sizes"),
        (dict(grid={"pascal": (3, 4)}), "no entry for nyud"),
        (dict(grid={"pascall": (3, 4)}), "Did you mean 'pascal'"),
    ],
)
def test_options_that_cannot_be_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        make(**fields)


def config(name):
    return check(load({path.stem: path for path in CONFIGS}[name]))


def test_vit_l_on_pascal_has_the_published_counts():
    cfg = config("mlore_vit_l")
    assert mlore.PRESETS["vit_l_pascal"].items() <= dict(cfg.decoder.options).items()
    model = mtl.abstract(build.model(cfg))
    sizes = mtl.sizes(model)
    products = flops.by_component(model, dataset="synth_pascal", size=(512, 512))
    assert round(sum(products.values()) / 1e9, 2) == 826.59
    # The authors' model keeps the position of a class token that it does not have.
    assert sum(sizes.values()) + 1024 == 407_690_406

    def count(*parts):
        return sum(n for path, n in sizes.items() if path.split("/")[3:4] in [[p] for p in parts])

    assert count("first") == count("second") == 44_149_312
    assert count("join", "join_norm", "vote") == 4_174_240
    assert count("fuse") == 1_853_200
    assert count("mix", "mix_norm", "predict") == 9_215_862


def test_vit_l_on_nyud_has_the_published_count():
    def network():
        grid = (28, 36)
        # For shapes: keys do not matter, and cost time.
        rngs = dict(rngs=types.SimpleNamespace(params=lambda: KEY))
        vit = build.BACKBONES["vit_l"](grid=grid, class_token=False, scan=True, **rngs)
        options = mlore.PRESETS["vit_l_nyud"] | dict(grid=grid)
        options |= dict(channels=vit.channels, strides=vit.strides)
        outputs = {"d": dict(semseg=40, depth=1, normals=3, edge=1)}
        return mtl.MultiTask(vit, DECODERS["mlore"](outputs=outputs, **options, **rngs))

    model = mtl.abstract(network)
    assert sum(mtl.sizes(model).values()) + 1024 == 551_625_533
    products = flops.by_component(model, dataset="d", size=(448, 576))
    assert round(sum(products.values()) / 1e9, 2) == 1405.80


def test_tasks_own_what_is_stacked_by_task():
    cfg = config("mlore_vit_b")
    assert mlore.PRESETS["vit_b_pascal"].items() <= dict(cfg.decoder.options).items()
    kinds = {name: [task.kind for task in group] for name, group in build.groups(cfg).items()}
    own = mtl.owners(mtl.abstract(build.model(cfg)), kinds)
    for dataset, names in kinds.items():
        first = f"decoder/heads/{dataset}/first/0"
        assert own[f"{first}/router/places"] == (tuple(f"{dataset}/{k}" for k in names), 0)
        assert f"{first}/experts/up" not in own and f"{first}/shared/kernel" not in own
