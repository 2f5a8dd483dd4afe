"""InvPT against prismformore/Multi-Task-Transformer, in double precision."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.errors import DataError
from mtl_vision.models import mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.convert import convert
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.released import invpt as released
from mtl_vision.models.resize import resize
from mtl_vision.train import weights
from mtl_vision.train.state import TrainState
from tests.parity import networks, records
from tests.parity.family import DATASET, Watch, kinds_of, losses_of, two_modes

EACH = pytest.mark.parametrize("file", records.family("invpt"), ids=lambda file: file.stem)


def build(meta):
    config, rngs = meta["config"], nnx.Rngs(params=jax.random.key(0))
    vit, patch = config["vit"], config["vit"]["patch_size"]
    assert config["mtt_resolution_downsample_rate"] == 2
    backbone = BACKBONES["vit"](
        channels=vit["embed_dim"],
        depth=vit["depth"],
        heads=vit["num_heads"],
        patch=patch,
        grid=tuple(side // patch for side in config["img_size"]),
        taps=(*vit["select_list"], vit["depth"]),
        rngs=rngs,
    )
    decoder = DECODERS["invpt"](
        outputs={DATASET: {kind: meta["num_outputs"][kind] for kind in kinds_of(meta)}},
        channels=backbone.channels,
        strides=backbone.strides,
        width=config["embed_dim"],
        margin=config["PRED_OUT_NUM_CONSTANT"],
        rngs=rngs,
    )
    return mtl.MultiTask(backbone, decoder)


def watch(heads):
    """Makes the decoder of a dataset note what the record holds; returns the dict it fills."""
    seen, kinds = {}, heads.kinds

    def keep_feature(_, y):
        seen.update({f"preliminary_feature.{kind}": y[..., t, :] for t, kind in enumerate(kinds)})

    def keep_preliminary(_, y):
        seen.update({f"intermediate_logits.{kind}": y[1][t] for t, kind in enumerate(kinds)})

    def keep_prediction(kind):
        return lambda x, y: seen.update({f"task_feature.{kind}": x, f"head_logits.{kind}": y})

    heads.preliminary.feature = Watch(heads.preliminary.feature, keep_feature)
    heads.preliminary = Watch(heads.preliminary, keep_preliminary)
    for kind in kinds:
        heads.predict[kind] = Watch(heads.predict[kind], keep_prediction(kind))
    return seen


def load(file, dtype):
    """Returns (meta, arrays, structure, parameters, statistics) of a record."""
    meta, arrays = records.load(file)
    model = mtl.abstract(lambda: build(meta))
    graphdef, params, _, stats = mtl.split(model, dict.fromkeys(mtl.parameters(model), True))
    table = released.checkpoint(kinds_of(meta), DATASET)
    state = nnx.to_pure_dict(nnx.state(model))
    found = rules.flatten(convert(records.group(arrays, "param"), table, state))
    trees = (
        rules.map_with_path(lambda path, _: jnp.asarray(found[path], dtype), tree)
        for tree in (params, stats)
    )
    return meta, arrays, graphdef, *trees


@functools.cache
def measure(file):
    """Returns (meta, arrays, {mode: what the record holds, gradients by path})."""
    with jax.enable_x64(True):
        meta, arrays, graphdef, params, stats = load(file, jnp.float64)
        image = jnp.asarray(np.moveaxis(arrays["input/image"], 1, -1), jnp.float64)
        run = functools.partial(_run, meta, arrays, graphdef, image, stats)
        run = jax.jit(run, compiler_options=networks.FAST_COMPILE)
        return meta, arrays, jax.device_get(run(params))


def _run(meta, arrays, graphdef, image, stats, params):
    def encode(tree):
        model = mtl.merge(graphdef, params | {"backbone": tree}, {}, stats)
        return model.encode(image, dataset=DATASET)

    def decode(tree, taps, key):
        model, size = mtl.merge(graphdef, params | {"decoder": tree}, {}, stats), image.shape[1:3]
        seen = watch(model.decoder.heads[DATASET])
        out = model.decode(taps, size, dataset=DATASET, key=key)
        # Without a key the preliminary predictions stay inside.
        final = {kind: y if key is None else y[0] for kind, y in out.items()}
        between = {
            f"inter_{kind}": resize(seen[f"intermediate_logits.{kind}"], size)
            if key is None
            else y[1]
            for kind, y in out.items()
        }
        found, weights = losses_of(meta, arrays, final | between), meta["loss_weights"]
        total = sum(weights[name.removeprefix("inter_")] * x for name, x in found.items())
        found["total"] = total
        return total, dict(seen=seen, out=final, losses=found)

    _, modes = two_modes(encode, decode, params["backbone"], params["decoder"])
    return modes


def pick(name, tree, meta, arrays):
    """Returns the record's array `name` from a flat tree of ours, and how its layout changes."""
    for rule in released.checkpoint(kinds_of(meta), DATASET):
        if match := re.fullmatch(rule.pattern, name):
            break
    if rule.path is None:
        return None, rule
    leaf, shape = tree[match.expand(rule.path)], rule.transform(arrays[f"param/{name}"]).shape
    if rule.join is np.stack:
        return leaf[rule.part], rule
    return np.split(leaf, leaf.shape[-1] // shape[-1], -1)[rule.part], rule


def maps(found):
    return {name: np.moveaxis(x, -1, 1) for name, x in found.items()}


@EACH
def test_maps_and_losses_match_the_record(file):
    meta, arrays, modes = measure(file)
    for mode, found in modes.items():
        # Maps of the training mode are recorded in float32, and so are cross-entropies.
        tolerance = 1e-10 if mode == "eval" else 1e-6
        assert len(found["seen"]) == 4 * len(meta["tasks"])
        for name, x in maps(found["seen"]).items():
            if f"{mode}/{name}" in arrays:
                records.assert_close(x, arrays[f"{mode}/{name}"], tolerance, f"{mode} {name}")
        for name, x in found["losses"].items():
            expected = arrays[f"{mode}/loss.{name}"]
            rounded = expected.dtype == np.float32 or name == "total"
            records.assert_close(x, expected, 1e-6 if rounded else 1e-10, f"{mode} {name}")
    for kind, x in maps(modes["eval"]["out"]).items():
        records.assert_close(x[..., ::3, ::3], arrays[f"eval/out_every3.{kind}"], 1e-10, kind)


@EACH
def test_gradients_match_the_record(file):
    meta, arrays, modes = measure(file)
    for mode, found in modes.items():
        norms = arrays[f"{mode}/grad_norms"]
        whole = np.linalg.norm(norms)
        actual = [
            np.linalg.norm(pick(name, found["grads"], meta, arrays)[0])
            for name in meta["grad_norm_names"]
        ]
        np.testing.assert_allclose(actual, norms, rtol=1e-8, atol=1e-12 * whole)
        ours = np.linalg.norm([np.linalg.norm(g) for g in found["grads"].values()])
        records.assert_close(ours, whole, 1e-8, mode)
        for name, expected in records.group(arrays, mode).items():
            if name.startswith("grad."):
                actual, rule = pick(name.removeprefix("grad."), found["grads"], meta, arrays)
                records.assert_close(actual, rule.transform(expected), 1e-8, f"{mode} {name}")


@EACH
def test_count_is_that_of_the_record(file):
    meta, _ = records.load(file)
    model = mtl.abstract(lambda: build(meta))
    unread, _ = model.decoder.unread(DATASET, tuple(meta["config"]["img_size"]))
    assert sum(mtl.sizes(model).values()) + unread == meta["counts"]["total"]


@EACH
def test_a_released_file_is_taken_whole_or_not_at_all(file, tmp_path):
    meta, arrays, _, params, stats = load(file, jnp.float32)
    blank = (jax.tree.map(jnp.zeros_like, tree) for tree in (params, {}, stats))
    state, path = TrainState(0, *blank, opt=(), ema=(), key=()), tmp_path / "invpt.npz"
    named = {f"module.{name}": x for name, x in records.group(arrays, "param").items()}
    kinds = [f"{DATASET}/{kind}" for kind in kinds_of(meta)]
    np.savez(path, **named)
    found = weights.load(path, state, kinds)
    for actual, expected in ((found.trainable, params), (found.stats, stats)):
        jax.tree.map(np.testing.assert_array_equal, actual, expected)
    named["module.extra"] = named.pop("module.heads.edge.linear_pred.bias")
    np.savez(path, **named)
    message = rf"1 arrays unused \(module.extra\); 1 missing \(decoder/heads/{DATASET}/predict/edge"
    with pytest.raises(DataError, match=message):
        weights.load(path, state, kinds)
