"""TaskPrompter: scores by hand, whose parameters are whose, scans, sizes, published counts."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import build, rules
from mtl_vision.check import check
from mtl_vision.errors import ConfigError
from mtl_vision.models import adapters, flops, mtl
from mtl_vision.models.adapters import task_features
from mtl_vision.models.adapters.task_prompter import PRESETS, PromptPixels, dropped
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.decoders import DECODERS
from tests.test_check import CONFIGS, load

KEY = jax.random.key(0)
RNGS = types.SimpleNamespace(params=lambda: KEY)  # for shapes: keys do not matter and cost time
OUTPUTS = {"a": {"semseg": 3, "normals": 3}, "b": {"depth": 1}}
TASKS = tuple(f"{d}/{kind}" for d, kinds in OUTPUTS.items() for kind in kinds)
VIT = dict(channels=8, depth=3, heads=2, patch=8, grid=(2, 2), taps=(1, 3))
REGULARISED = dict(scan=True, remat="block", drop_path=0.5)
SMALL = dict(size={"a": (16, 32), "b": (16, 16)}, embed=3, width=4, windows=2)


def make(name="vit", vit=VIT, dtype=None, outputs=OUTPUTS, **options):
    tasks = tuple(f"{d}/{kind}" for d, kinds in outputs.items() for kind in kinds)
    common = dict(dtype=dtype, rngs=RNGS)
    backbone = BACKBONES[name](**vit, **common)
    chosen = [("task_prompter", SMALL | options)]
    backbone = adapters.adapt(backbone, chosen, tasks=tasks, **common)
    taps = dict(channels=backbone.channels, strides=backbone.strides)
    return mtl.MultiTask(backbone, DECODERS["task_prompter"](outputs=outputs, **taps, **common))


def filled(model):
    """The parts of a model with random weights; drawing them with jax compiles too much."""
    draw = np.random.default_rng(0)
    graphdef, params, _, stats = mtl.split(model, dict.fromkeys(mtl.parameters(model), True))

    def weights(path, leaf):
        return (path.endswith("scale") + 0.4 * draw.normal(size=leaf.shape)).astype("float32")

    params = rules.map_with_path(weights, params)
    stats = rules.map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, float(path.endswith("var"))), stats
    )
    return graphdef, params, stats


def image(height=16, width=32):
    return jax.random.normal(KEY, (2, height, width, 3))


def test_scores_multiply_heads_at_places_and_channels_in_windows():
    x = jnp.arange(16.0).reshape(1, 2, 2, 4)
    heads = jnp.array([[[1.0, 0, 0, 0], [0, 0, 0, -1.0]]])  # [1, 2, 4]
    expected = x.at[0, 0, 0, :2].multiply(2).at[0, 1, 1, 2:].multiply(0)
    np.testing.assert_array_equal(task_features.by_head(x, heads), expected)
    windows = jnp.zeros((1, 2, 2, 4)).at[0, 0, 1, 3].set(4.0)
    expected = x.at[0, 0, 1, 3].multiply(5)
    np.testing.assert_array_equal(task_features.by_window(x, windows), expected)
    one = jnp.array([0.0, 0, 2.0, 0]).reshape(1, 1, 1, 4)  # one window is the whole map
    np.testing.assert_array_equal(task_features.by_window(x, one), x.at[..., 2].multiply(3))


def test_channels_are_scored_in_windows():
    pixels = PromptPixels(1, (2, 4), 2, dtype=None, rngs=nnx.Rngs(params=KEY))
    prompts, patches = jnp.ones((1, 1, 8)), jnp.arange(8.0).reshape(1, 8, 1)
    # Rows 0 1 | 2 3 and 4 5 | 6 7.
    scores = pixels.scores(prompts, patches)
    np.testing.assert_array_equal(scores.reshape(2, 2), [[1, 5], [9, 13]])


@functools.cache
def training(reweigh):
    """Gradients of a/normals by path, statistics before and after, owners."""
    model = mtl.abstract(lambda: make(reweigh=reweigh))
    graphdef, params, stats = filled(model)

    @jax.jit
    def run(params):
        def loss(params):
            model = mtl.merge(graphdef, params, {}, stats)
            out = model(image(), dataset="a", key=KEY)
            return jnp.square(out["normals"] - 1).sum(), mtl.statistics(model)

        return jax.grad(loss, has_aux=True)(params)

    grads, after = jax.device_get(run(params))
    kinds = {name: tuple(kinds) for name, kinds in OUTPUTS.items()}
    return rules.flatten(grads), (stats, after), mtl.owners(model, kinds)


@pytest.mark.parametrize("reweigh", [False, True])
def test_a_tasks_own_parameters_are_reached_by_its_loss_only(reweigh):
    grads, _, owners = training(reweigh)
    layers = {path.split("/")[6] for path in owners if path.startswith("backbone")}
    every = {"spatial", "channel", "join", "mix", "norm", "out"}
    assert layers == ({"reweigh"} if reweigh else every)
    for path, (names, axis) in owners.items():
        parts = grads[path][None] if axis is None else grads[path]
        for name, part in zip(names, parts, strict=True):
            assert bool(np.abs(part).max() > 0) == (name == "a/normals"), (path, name)


def test_prompts_and_what_is_exchanged_are_shared_by_the_tasks_of_a_dataset():
    grads, _, owners = training(True)
    reached = np.abs(grads["backbone/entry/prompts"]).max(1) > 0
    assert reached.tolist() == [True, True, False]
    # The row of the class token, and a constant for all keys, change nothing; nor do last prompts.
    still = ("pos_embed", "attn/qkv/bias", "2/attn/pixels/by_dataset/a/gather")
    for path, grad in grads.items():
        if path not in owners and not any(part in path for part in still):
            assert bool(np.abs(grad).max() > 0) == ("/b/" not in path), path


def test_a_key_moves_the_statistics_of_the_dataset_only():
    _, (before, after), _ = training(True)
    before, after = rules.flatten(before), rules.flatten(after)
    assert len(before) == 12  # mean and variance at two taps and in the head, for two datasets
    for path, x in before.items():
        assert bool((x != after[path]).any()) == ("/a/" in path), path


def scanned(params):
    """Parameters of `make` with blocks in a loop -> those of it with a scan."""
    backbone = dict(params["backbone"])
    first, second, third = backbone.pop("blocks").values()
    stack = jax.tree.map(lambda x: x[None], second)
    return params | {"backbone": backbone | {"segments": {1: stack}, "tails": {0: first, 1: third}}}


def test_a_scan_and_other_datasets_leave_the_maps_as_they_are():
    loop, scan = (mtl.abstract(lambda s=s: make(vit=VIT | dict(scan=s))) for s in (False, True))
    graphdef, params, stats = filled(loop)
    other = mtl.split(scan, dict.fromkeys(mtl.parameters(scan), True))[0]
    shifted = jax.tree.map(lambda x: x, params)
    shifted["backbone"]["entry"]["prompts"] = params["backbone"]["entry"]["prompts"] + np.array(
        [[0.0], [0], [1]], "float32"
    )

    @jax.jit
    def run(params, stacked):
        whole = mtl.merge(graphdef, params, {}, stats)
        parts = mtl.merge(other, stacked, {}, stats)
        return [model.encode(image(), dataset="a") for model in (whole, parts)]

    expected, actual = run(params, scanned(shifted))
    for x, y in zip(expected, actual, strict=True):
        assert x.shape == (2, 2, 2, 4, 4) and jnp.abs(x[0] - x[1]).max() > 0.1
        np.testing.assert_allclose(y, x, atol=1e-5 * float(jnp.abs(x).max()))


def test_prompts_and_patches_are_dropped_apart():
    x = dropped(jnp.ones((1, 32, 3, 2)), 1, 0.5, KEY)
    rows = np.asarray(x[0, :, :, 0])
    assert set(rows.flat) == {0.0, 2.0} and (rows[:, 1] == rows[:, 2]).all()
    assert (rows[:, 0] != rows[:, 1]).any()


def test_both_grids_and_bfloat16_give_maps():
    model = mtl.abstract(lambda: make(dtype="bfloat16", vit=VIT | REGULARISED))
    graphdef, state = nnx.split(model)

    def run(state, image, dataset):
        features = nnx.merge(graphdef, state).encode(image, dataset=dataset, key=KEY)
        return nnx.merge(graphdef, state).decoder(None, features, dataset=dataset)

    for dataset, size in SMALL["size"].items():
        call = functools.partial(run, dataset=dataset)
        out = jax.eval_shape(call, state, jax.ShapeDtypeStruct((2, *size, 3), jnp.float32))
        wide = (2, size[0] // 2, size[1] // 2)
        expected = {kind: (*wide, c) for kind, c in OUTPUTS[dataset].items()}
        assert {kind: y.shape for kind, y in out.items()} == expected
        assert {y.dtype for y in out.values()} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("size", [(16, 16), (32, 16)])
def test_an_image_of_another_size_is_named(size):
    graphdef, state = nnx.split(mtl.abstract(make))
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    with pytest.raises(ConfigError, match="but task_prompter was made for 2 x 4; set config"):
        jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x, dataset="a"), state, x)


SWIN = dict(embed=8, depths=(1, 1), heads=(1, 2), window=2)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(embed=0), "embed=0 must be 1 at least"),
        (dict(windows=3), r"size=\(16, 32\) must be .* 3 windows"),
        (dict(size={"a": (16, 32)}), "no entry for b"),
        (dict(size=SMALL["size"] | {"aa": (16, 32)}), "Did you mean 'a'"),
        (dict(name="swin", vit=SWIN), "use a ViT"),
    ],
)
def test_options_that_cannot_be_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        mtl.abstract(lambda: make(**fields))


@pytest.mark.parametrize(
    "chosen, message",
    [
        (("vpt", "task_prompter"), "makes the tokens and the streams"),
        (("taps", "task_prompter"), "makes the tokens and the streams"),
        (("task_prompter", "taps"), "opens and ends the streams of tasks itself"),
        (("task_prompter", "mtlora"), "mtlora needs the shared stream"),
    ],
)
def test_another_adapter_with_streams_or_tokens_is_named(chosen, message):
    def both():
        specs = [(name, SMALL if name == "task_prompter" else {}) for name in chosen]
        return adapters.adapt(BACKBONES["vit"](**VIT, rngs=RNGS), specs, tasks=TASKS, rngs=RNGS)

    with pytest.raises(ConfigError, match=message):
        mtl.abstract(both)


def test_taps_of_different_width_are_named():
    with pytest.raises(ConfigError, match="must be equal"):
        DECODERS["task_prompter"](outputs=OUTPUTS, channels=(8, 16), strides=(8, 16), rngs=RNGS)


PASCAL = {"semseg": 21, "normals": 3, "edge": 1, "sal": 2, "human_parts": 7}
NYUD = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
PUBLISHED = {
    "vit_b_pascal": dict(
        total=418_332_214,
        blocks=103_950_336,
        fuse=241_766_400,
        weigh=3_380,
        decode=11_996_400,
        heads=47_236_130,
    ),
    "vit_l_pascal": dict(
        total=401_104_864,
        blocks=352_690_176,
        fuse=28_735_000,
        weigh=5_780,
        decode=6_150_000,
        heads=5_529_684,
        work=496.58,
    ),
    "vit_l_nyud": dict(
        total=513_505_709,
        blocks=351_903_360,
        fuse=113_307_648,
        weigh=0,
        decode=12_595_200,
        heads=21_277_485,
    ),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_have_the_published_parameters_and_multiply_adds(preset):
    pascal, published = "pascal" in preset, PUBLISHED[preset]
    size, kinds = ((512, 512), PASCAL) if pascal else ((448, 576), NYUD)
    options = PRESETS[preset] | dict(size=size)
    grid = tuple(side // 16 for side in size)
    model = mtl.abstract(
        lambda: make(preset[:5], dict(grid=grid, scan=True), outputs={"d": kinds}, **options)
    )
    sizes = mtl.sizes(model)

    def count(start, *layers):
        return sum(
            n
            for path, n in sizes.items()
            if path.startswith(start) and (not layers or path.split("/")[6] in layers)
        )

    assert sum(sizes.values()) == published["total"]
    blocks = count("backbone/segments") + count("backbone/tails")
    assert blocks == published["blocks"] and count("decoder") == published["heads"]
    assert count("backbone/tap", "join", "mix", "norm", "out") == published["fuse"]
    assert count("backbone/tap", "reweigh") == published["weigh"]
    for layer in ("spatial", "channel"):
        assert count("backbone/tap", layer) == published["decode"]
    if "work" not in published:  # one is enough, counting takes seconds
        return
    # Theirs include channel attention that nothing reads, and not the exchange of maps.
    work = sum(flops.by_component(model, dataset="d", size=size).values())
    np.testing.assert_allclose(work / 1e9, published["work"], rtol=4e-4)


@pytest.mark.parametrize("size", ["b", "l"])
def test_configs_have_the_options_of_the_authors(size):
    cfg = check(load({path.stem: path for path in CONFIGS}[f"taskprompter_vit_{size}"]))
    (adapter,) = cfg.adapter
    assert PRESETS[f"vit_{size}_pascal"].items() <= dict(adapter.options).items()
    assert adapter.options["size"] == {name: data.size for name, data in cfg.datasets.items()}
    shapes = mtl.parameters(mtl.abstract(build.model(cfg)))
    assert all(rules.resolve(build.trainable(cfg), shapes, "trainable").values())
