"""Swin against the Microsoft-layout code of scale-lab/MTLoRA: features and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.models import convert, mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.pretrained import swin
from tests.parity import records
from tests.parity.family import Watch

RECORDS = records.records("swin_ms")


def build(meta):
    config = meta["config"]
    size = np.broadcast_to(config["img_size"], 2) // config["patch_size"]
    return BACKBONES["swin"](
        embed=config["embed_dim"],
        depths=tuple(config["depths"]),
        heads=tuple(config["num_heads"]),
        window=tuple(stage[0]["window"] for stage in meta["geometry"]),
        patch=config["patch_size"],
        mlp_ratio=config["mlp_ratio"],
        absolute_position=tuple(int(n) for n in size) if config["ape"] else (),
        rngs=nnx.Rngs(params=jax.random.key(0)),
    )


def features(swin, image):
    """Every recorded map by name, from one run of the model."""
    kept, names = [], []
    for i, stage in enumerate(swin.stages):
        names += [f"stage{i}.block{j}" for j in range(len(stage.blocks))]
        stage.blocks = nnx.List(
            [Watch(block, lambda _, y: kept.append(y)) for block in stage.blocks]
        )
    taps = {f"stage{i}.after_merge": tap for i, tap in enumerate(swin(image))}
    out = {"patch_embed": swin.patch_embed(image)[None]} | dict(zip(names, kept, strict=True))
    return {name: x.reshape(x.shape[1], -1, x.shape[-1]) for name, x in (out | taps).items()}


def compare(file, dtype, forward, backward):
    meta, arrays = records.load(file)
    model = mtl.abstract(lambda: build(meta))
    graphdef, targets = nnx.split(model)
    targets = nnx.to_pure_dict(targets)
    weights = convert.convert(records.group(arrays, "param"), swin.MICROSOFT, targets)
    weights = jax.tree.map(lambda a: jnp.asarray(a, dtype), weights)
    image = jnp.asarray(np.moveaxis(arrays["input/image"], 1, -1), dtype)
    probes = records.group(arrays, "probe")

    def probe(weights):
        out = features(nnx.merge(graphdef, weights), image)
        value = sum(
            (out[f"{name}.after_merge"] * p.astype(dtype)).sum() for name, p in probes.items()
        )
        return value, out

    (value, out), grads = jax.jit(jax.value_and_grad(probe, has_aux=True))(weights)
    for name, expected in records.group(arrays, "out").items():
        actual = value if name == "probe_value" else out[name]
        records.assert_close(actual, expected, forward, name)
    expected = convert.convert(records.group(arrays, "grad"), swin.MICROSOFT, targets)
    expected = rules.flatten(expected)
    for path, actual in rules.flatten(grads).items():
        records.assert_close(actual, expected[path], backward, path)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_swin_has_the_recorded_windows_and_shifts(file):
    meta, _ = records.load(file)
    model = mtl.abstract(lambda: build(meta))
    for stage, recorded in zip(model.stages, meta["geometry"], strict=True):
        for block, expected in zip(stage.blocks, recorded, strict=True):
            actual = block.attn.geometry(*expected["resolution"])
            assert actual == (expected["window"], expected["shift"])


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_swin_matches_the_record_in_double_precision(file, x64):
    # The recorded gradients are rounded to float32.
    compare(file, jnp.float64, forward=1e-10, backward=2e-7)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_swin_matches_the_record_in_single_precision(file):
    compare(file, jnp.float32, forward=5e-5, backward=1e-3)
