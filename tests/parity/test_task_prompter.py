"""TaskPrompter against prismformore/Multi-Task-Transformer, in double precision."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.errors import DataError
from mtl_vision.models import adapters, mtl
from mtl_vision.models.adapters.task_features import Tapped
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.convert import convert
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.released import checkpoint
from mtl_vision.models.released import task_prompter as released
from mtl_vision.models.resize import resize
from tests.parity import networks, records
from tests.parity.family import DATASET, Watch, kinds_of, losses_of

EACH = pytest.mark.parametrize("file", records.family("taskprompter"), ids=lambda file: file.stem)


def table_of(meta):
    return released.checkpoint(kinds_of(meta), DATASET)


def build(meta):
    config, rngs = meta["config"], nnx.Rngs(params=jax.random.key(0))
    vit, patch, size = config["vit"], config["vit"]["patch_size"], tuple(config["img_size"])
    backbone = BACKBONES["vit"](
        channels=vit["embed_dim"],
        depth=vit["depth"],
        heads=vit["num_heads"],
        patch=patch,
        grid=tuple(side // patch for side in size),
        taps=(*vit["select_list"], vit["depth"]),
        rngs=rngs,
    )
    options = dict(
        size=size,
        embed=config["embed_dim"],
        width=config["final_embed_dim"],
        windows=round(config["chan_nheads"] ** 0.5),
        reweigh=config["use_ctr"],
    )
    names = tuple(f"{DATASET}/{kind}" for kind in kinds_of(meta))
    backbone = adapters.adapt(backbone, [("task_prompter", options)], tasks=names, rngs=rngs)
    decoder = DECODERS["task_prompter"](
        outputs={DATASET: {kind: meta["num_outputs"][kind] for kind in kinds_of(meta)}},
        channels=backbone.channels,
        strides=backbone.strides,
        rngs=rngs,
    )
    return mtl.MultiTask(backbone, decoder)


def watch(model, kinds):
    """Makes the model note what the record holds; returns the dict it fills."""
    seen, backbone = {}, model.backbone
    order = [kinds.index(kind) for kind in released.ORDER if kind in kinds]

    def keep_block(i):
        def keep(_, x):
            (tokens,) = x.tokens if isinstance(x, Tapped) else x
            prompts, patches = tokens[:, : len(kinds)], tokens[:, len(kinds) :]
            seen[f"block{i}.patches"], seen[f"block{i}.prompts"] = (
                patches,
                prompts[:, np.array(order)],
            )

        return keep

    def keep_tap(i):
        return lambda _, x: seen.update(
            {f"tap{i}.{kind}": y for kind, y in zip(kinds, x, strict=True)}
        )

    for i in range(len(backbone.blocks)):
        backbone.blocks[i] = Watch(backbone.blocks[i], keep_block(i))
    for i, tap in enumerate(backbone.tap.taps):
        tap.by_dataset[DATASET] = Watch(tap.chosen, keep_tap(i))
    return seen


@functools.cache
def measure(file):
    """Returns (meta, arrays, {mode: what the record holds, and gradients by path})."""
    meta, arrays = records.load(file)
    with jax.enable_x64(True):
        model = mtl.abstract(lambda: build(meta))
        graphdef, params, _, stats = mtl.split(model, dict.fromkeys(mtl.parameters(model), True))
        state = nnx.to_pure_dict(nnx.state(model))
        found = rules.flatten(convert(records.group(arrays, "param"), table_of(meta), state))
        params, stats = (
            rules.map_with_path(lambda path, _: jnp.asarray(found[path], jnp.float64), tree)
            for tree in (params, stats)
        )
        run = jax.jit(
            functools.partial(_run, meta, arrays, graphdef, stats),
            compiler_options=networks.FAST_COMPILE,
        )
        return meta, arrays, jax.device_get(run(params))


def _run(meta, arrays, graphdef, stats, params):
    factors, kinds = meta["loss_weights"], kinds_of(meta)
    image = jnp.asarray(np.moveaxis(arrays["input/image"], 1, -1), jnp.float64)

    def forward(params, key):
        model = mtl.merge(graphdef, params, {}, stats)
        seen = watch(model, kinds)
        taps = model.encode(image, dataset=DATASET, key=key)
        logits = model.decoder([], taps, dataset=DATASET, key=key)
        size = (4 * taps[0].shape[2], 4 * taps[0].shape[3])
        for kind, total in zip(kinds, sum(taps), strict=True):
            seen |= {
                f"head_logits.{kind}": logits[kind],
                f"task_feature.{kind}": resize(total, size),
            }
        out = {kind: resize(y, image.shape[1:3]) for kind, y in logits.items()}
        found = losses_of(meta, arrays, out)
        found["total"] = sum(factors[kind] * x for kind, x in found.items())
        return found["total"], dict(seen=seen, out=out, losses=found)

    modes = {}
    for mode, key in (("eval", None), ("train", jax.random.key(0))):
        (_, modes[mode]), grads = jax.value_and_grad(forward, has_aux=True)(params, key)
        modes[mode]["grads"] = rules.flatten(grads)
    return modes


def channels_first(x):
    return np.moveaxis(x, -1, 1) if x.ndim == 4 else x


def pick(name, tree, meta):
    """Returns the record's array `name` from a flat tree of ours, and the rule for it."""
    for rule in table_of(meta):
        if match := re.fullmatch(rule.pattern, name):
            break
    leaf = tree[match.expand(rule.path)]
    return (leaf[rule.part] if rule.join is np.stack else leaf), rule


@EACH
def test_tokens_maps_and_losses_match_the_record(file):
    meta, arrays, modes = measure(file)
    for mode, found in modes.items():
        compared = 0
        for name, x in found["seen"].items():
            if f"{mode}/{name}" in arrays:
                expected = arrays[f"{mode}/{name}"]
                tolerance = 1e-6 if expected.dtype == np.float32 else 1e-10
                records.assert_close(channels_first(x), expected, tolerance, f"{mode} {name}")
                compared += 1
        depth, per_task = meta["config"]["vit"]["depth"], len(meta["tasks"])
        taps = len(meta["config"]["vit"]["select_list"]) + 1
        assert compared == per_task + (2 * depth + (taps + 1) * per_task if mode == "eval" else 0)
        for name, x in found["losses"].items():
            expected = arrays[f"{mode}/loss.{name}"]
            rounded = expected.dtype == np.float32 or name == "total"
            records.assert_close(x, expected, 1e-6 if rounded else 1e-10, f"{mode} {name}")
    for kind, x in modes["eval"]["out"].items():
        x = channels_first(x)[..., ::3, ::3]
        records.assert_close(x, arrays[f"eval/out_every3.{kind}"], 1e-10, kind)


@EACH
def test_gradients_match_the_record(file):
    meta, arrays, modes = measure(file)
    names = meta["grad_norm_names"]
    for mode, found in modes.items():
        norms = arrays[f"{mode}/grad_norms"]
        whole = np.linalg.norm(norms)
        actual = [np.linalg.norm(pick(name, found["grads"], meta)[0]) for name in names]
        np.testing.assert_allclose(actual, norms, rtol=1e-8, atol=1e-12 * whole)
        ours = np.linalg.norm([np.linalg.norm(g) for g in found["grads"].values()])
        records.assert_close(ours, whole, 1e-8, mode)
        for name, expected in records.group(arrays, mode).items():
            if name.startswith("grad."):
                actual, rule = pick(name.removeprefix("grad."), found["grads"], meta)
                records.assert_close(actual, rule.transform(expected), 1e-8, f"{mode} {name}")


@EACH
def test_checkpoint_is_imported_whole_or_not_at_all(file):
    meta, arrays = records.load(file)
    model = mtl.abstract(lambda: build(meta))
    state = nnx.to_pure_dict(nnx.state(model))
    saved = {f"module.{name}": x for name, x in records.group(arrays, "param").items()}
    found = rules.flatten(convert(saved, checkpoint(saved, kinds_of(meta), DATASET), state))
    bare = rules.flatten(convert(records.group(arrays, "param"), table_of(meta), state))
    assert all(np.array_equal(found[path], x) for path, x in bare.items())
    assert sum(mtl.sizes(model).values()) == meta["counts"]["total"]
    kept = saved.pop("module.backbone.blocks.2.attn.token_trans1.bias")
    saved["module.backbone.cls_token"] = kept
    with pytest.raises(DataError) as raised:
        convert(saved, table_of(meta), state)
    for part in ("1 arrays unused (module.backbone.cls_token)", "1 missing", "2/attn/pixels"):
        assert part in str(raised.value)
