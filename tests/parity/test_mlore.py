"""MLoRE against YuqiYang213/MLoRE, in double precision."""

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
from mtl_vision.models.gates import spread
from mtl_vision.models.released import LACKING, checkpoint
from mtl_vision.models.released import mlore as released
from mtl_vision.models.resize import resize
from tests.parity import networks, records
from tests.parity.family import DATASET, Watch, kinds_of, losses_of

EACH = pytest.mark.parametrize("file", records.family("mlore"), ids=lambda file: file.stem)


def table_of(meta):
    return released.checkpoint(kinds_of(meta), DATASET, len(meta["config"]["rank_list"]))


def build(meta):
    config, rngs = meta["config"], nnx.Rngs(params=jax.random.key(0))
    vit, patch = config["vit"], config["vit"]["patch_size"]
    grid = tuple(side // patch for side in config["img_size"])
    backbone = BACKBONES["vit"](
        channels=vit["embed_dim"],
        depth=vit["depth"],
        heads=vit["num_heads"],
        patch=patch,
        grid=grid,
        taps=(*vit["select_list"], vit["depth"]),
        class_token=False,
        rngs=rngs,
    )
    decoder = DECODERS["mlore"](
        outputs={DATASET: {kind: meta["num_outputs"][kind] for kind in kinds_of(meta)}},
        channels=backbone.channels,
        strides=backbone.strides,
        width=config["final_embed_dim"],
        ranks=tuple(config["rank_list"]),
        task_rank=config["spe_rank"],
        top=config["topk"],
        select="logits" if config["pre_softmax"] else "gates",
        balance=meta["loss_weights"]["load_balancing"],
        grid=grid,
        rngs=rngs,
    )
    return mtl.MultiTask(backbone, decoder)


def watch(heads):
    """Makes the decoder note what the record holds; returns the dict it fills."""
    seen, kinds = {}, heads.kinds

    def keep_block(number, i):
        def keep(x, out):
            if number == 1:
                seen[f"fused{i}"] = x[..., 0, :]
            for t, kind in enumerate(kinds):
                seen[f"moe{number}.{i}.{kind}"] = out[0][..., t, :]
                seen[f"route{number}.{i}.{kind}"] = out[1][:, t]

        return keep

    for number, blocks in ((1, heads.first), (2, heads.second)):
        for i in range(len(blocks)):
            blocks[i] = Watch(blocks[i], keep_block(number, i))
    return seen


def noise_of(meta, arrays):
    """The record's draws in the decoder's order: ``[levels, 2, B, T, E]``."""
    draws, names = arrays["train/noise"], meta["tasks"]
    draws = draws.reshape(-1, 2, len(names), *draws.shape[1:])
    order = [names.index(kind) for kind in kinds_of(meta)]
    return jnp.asarray(np.moveaxis(draws[:, :, order], 2, 3), jnp.float64)


@functools.cache
def measure(file):
    """Returns (meta, arrays, {mode: what the record holds}, gradients in evaluation by path)."""
    meta, arrays = records.load(file)
    with jax.enable_x64(True):
        model = mtl.abstract(lambda: build(meta))
        graphdef, params, _, stats = mtl.split(model, dict.fromkeys(mtl.parameters(model), True))
        state, zero = nnx.to_pure_dict(nnx.state(model)), released.LACKING
        found = convert(records.group(arrays, "param"), table_of(meta), state, zero=zero)
        found = rules.flatten(found)
        params, stats = (
            rules.map_with_path(lambda path, _: jnp.asarray(found[path], jnp.float64), tree)
            for tree in (params, stats)
        )
        run = jax.jit(
            functools.partial(_run, meta, arrays, graphdef, stats),
            compiler_options=networks.FAST_COMPILE,
        )
        return meta, arrays, *jax.device_get(run(params))


def _run(meta, arrays, graphdef, stats, params):
    image, factors = np.moveaxis(arrays["input/image"], 1, -1), meta["loss_weights"]
    image = jnp.asarray(image, jnp.float64)

    def forward(params, key=None, noise=None):
        model = mtl.merge(graphdef, params, {}, stats)
        heads = model.decoder.heads[DATASET]
        trunk = [x[0] for x in model.encode(image, dataset=DATASET)]
        seen = watch(heads)
        logits = heads(trunk, None, key=key, noise=noise)
        seen |= {f"head_logits.{kind}": y for kind, y in logits.items()}
        out = {kind: resize(y, image.shape[1:3]) for kind, y in logits.items()}
        found = losses_of(meta, arrays, out)
        total = sum(factors[kind] * x for kind, x in found.items())
        gates = [
            jnp.stack([seen[f"route{number}.{i}.{kind}"] for kind in heads.kinds], 1)
            for number in (1, 2)
            for i in range(len(trunk))
        ]
        cv = sum(spread(p.mean((0, 1))) for p in gates)
        penalty = heads.penalty[...] if key is not None else factors["load_balancing"] * cv
        found |= {"cv": cv, "total": total + penalty}
        return found["total"], dict(seen=seen, out=out, losses=found)

    (_, evaluation), grads = jax.value_and_grad(forward, has_aux=True)(params)
    _, training = forward(params, jax.random.key(0), noise_of(meta, arrays))
    return {"eval": evaluation, "train": training}, rules.flatten(grads)


def channels_first(x):
    return np.moveaxis(x, -1, 1) if x.ndim == 4 else x


def pick(name, tree, meta, arrays):
    """Returns the record's array `name` from a flat tree of ours, and the rule for it."""
    for rule in table_of(meta):
        if match := re.fullmatch(rule.pattern, name):
            break
    leaf = tree[match.expand(rule.path)]
    if rule.join is np.stack:
        return leaf[rule.part], rule
    if "lora_list_1" in name:  # ranks next to each other
        cuts = np.cumsum(meta["config"]["rank_list"])[:-1]
        return np.split(leaf, cuts, 0 if ".M." in name else -1)[rule.part], rule
    return leaf, rule


@EACH
def test_maps_gates_and_losses_match_the_record(file):
    meta, arrays, modes, _ = measure(file)
    for mode, found in modes.items():
        compared = 0
        for name, x in found["seen"].items():
            if f"{mode}/{name}" in arrays:
                expected = arrays[f"{mode}/{name}"]
                tolerance = 1e-6 if expected.dtype == np.float32 else 1e-10
                records.assert_close(channels_first(x), expected, tolerance, f"{mode} {name}")
                compared += 1
        fused, per_task = len(meta["config"]["vit"]["select_list"]) + 1, len(meta["tasks"])
        assert compared == (fused * (1 + 4 * per_task) if mode == "eval" else 0) + per_task
        for name, x in found["losses"].items():
            expected = arrays[f"{mode}/loss.{name}"]
            rounded = expected.dtype == np.float32 or name == "total"
            records.assert_close(x, expected, 1e-6 if rounded else 1e-10, f"{mode} {name}")
    for kind, x in modes["eval"]["out"].items():
        x = channels_first(x)[..., ::3, ::3]
        records.assert_close(x, arrays[f"eval/out_every3.{kind}"], 1e-10, kind)


@EACH
def test_gradients_match_the_record(file):
    meta, arrays, _, grads = measure(file)
    norms = arrays["eval/grad_norms"]
    whole = np.linalg.norm(norms)
    names = meta["grad_norm_names"]
    actual = [np.linalg.norm(pick(name, grads, meta, arrays)[0]) for name in names]
    np.testing.assert_allclose(actual, norms, rtol=1e-8, atol=1e-12 * whole)
    records.assert_close(np.linalg.norm([np.linalg.norm(g) for g in grads.values()]), whole, 1e-8)
    for name, expected in records.group(arrays, "eval").items():
        if not name.startswith("grad."):
            continue
        actual, rule = pick(name.removeprefix("grad."), grads, meta, arrays)
        records.assert_close(actual, rule.transform(expected), 1e-8, name)


@EACH
def test_checkpoint_is_imported_whole_or_not_at_all(file):
    meta, arrays = records.load(file)
    model = mtl.abstract(lambda: build(meta))
    state, zero = nnx.to_pure_dict(nnx.state(model)), released.LACKING
    saved = {f"module.{name}": x for name, x in records.group(arrays, "param").items()}
    table = checkpoint(saved, kinds_of(meta), DATASET)
    found = rules.flatten(convert(saved, table, state, zero=LACKING))
    bare = convert(records.group(arrays, "param"), table_of(meta), state, zero=zero)
    for path, x in rules.flatten(bare).items():
        np.testing.assert_array_equal(found[path], x)
    # All that the file has more is the position of a class token and what nothing reads.
    unread = [x.size for name, x in saved.items() if re.search(r"q_fuse|classify_route", name)]
    more = meta["config"]["vit"]["embed_dim"] + sum(unread)
    assert sum(mtl.sizes(model).values()) + more == meta["counts"]["total"]
    name = "module.backbone.MLoRE_1.2.router_1.semseg.0.ln_sp.weight"
    saved["module.backbone.MLoRE_3.weight"] = saved["module.backbone.share.bias"] = saved.pop(name)
    with pytest.raises(DataError) as raised:
        convert(saved, table_of(meta), state, zero=zero)
    for part in ("2 arrays unused (module.backbone.MLoRE_3.weight", "unfit", "far_norm/scale"):
        assert part in str(raised.value)
