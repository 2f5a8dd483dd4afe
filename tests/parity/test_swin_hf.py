"""Swin against transformers' SwinBackbone, on sizes that nothing divides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.models import convert, mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.pretrained import FORMATS, renamed
from tests.parity import records

RECORDS = records.records("swin_hf")


def build(config, out_norm):
    return BACKBONES["swin"](
        embed=config["embed_dim"],
        depths=tuple(config["depths"]),
        heads=tuple(config["num_heads"]),
        window=config["window_size"],
        patch=config["patch_size"],
        map_rule="transformers",
        taps="stage",
        out_norm=out_norm,
        rngs=nnx.Rngs(params=jax.random.key(0)),
    )


def compare(file, dtype, tolerance):
    meta, arrays = records.load(file)
    graphdef, targets = nnx.split(mtl.abstract(lambda: build(meta["config"], True)))
    how = FORMATS["swin_transformers"]
    given = renamed(records.group(arrays, "param"), how)
    weights = convert.convert(given, how.rules, nnx.to_pure_dict(targets))
    weights = jax.tree.map(lambda a: jnp.asarray(a, dtype), weights)
    image = jnp.asarray(np.moveaxis(arrays["input/image"], 1, -1), dtype)

    @jax.jit
    def forward(weights):
        swin = nnx.merge(graphdef, weights)
        normalised = swin(image)
        swin.out_norms = nnx.List([swin.handover] * len(normalised))
        return normalised, swin(image), swin.embed(image)[None]

    normalised, plain, embedded = forward(weights)
    for i, (a, b) in enumerate(zip(normalised, plain, strict=True), start=1):
        for name, x in ((f"feature_map_stage{i}", a), (f"hidden_state{i}", b)):
            records.assert_close(jnp.moveaxis(x[0], -1, 1), arrays[f"out/{name}"], tolerance, name)
    embedded = jnp.moveaxis(embedded[0], -1, 1)
    records.assert_close(embedded, arrays["out/hidden_state0"], tolerance, "embeddings")


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_swin_matches_transformers_in_double_precision(file, x64):
    compare(file, jnp.float64, 1e-10)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_swin_matches_transformers_in_single_precision(file):
    compare(file, jnp.float32, 5e-5)
