"""A whole multi-task network of scale-lab/MTLoRA: plain Swin with hrnet heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.models import convert, mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.decoders import DECODERS
from tests.parity import records

RECORDS = records.records("swin_mtl_full")
RULES = (
    *convert.under(convert.SWIN_MICROSOFT, r"backbone\.", "backbone"),
    *convert.under(convert.HRNET_MTLORA, "", "decoder/heads/pascal"),
)


def build(meta):
    rngs = nnx.Rngs(params=jax.random.key(0))
    config, swin = meta["config"]["MODEL"], meta["config"]["MODEL"]["SWIN"]
    sides = [meta["config"]["DATA"]["IMG_SIZE"] // 4 >> i for i in range(len(swin["DEPTHS"]))]
    backbone = BACKBONES["swin"](
        embed=swin["EMBED_DIM"],
        depths=tuple(swin["DEPTHS"]),
        heads=tuple(swin["NUM_HEADS"]),
        window=tuple(min(swin["WINDOW_SIZE"], side) for side in sides),
        rngs=rngs,
    )
    decoder = DECODERS["hrnet"](
        outputs={"pascal": meta["num_outputs"]},
        channels=backbone.channels,
        strides=backbone.strides,
        widths=config["DECODER_CHANNELS"],
        rngs=rngs,
    )
    return mtl.MultiTask(backbone, decoder)


def load(file, dtype):
    """Returns the record's arrays, task kinds, model as (structure, weights), and image."""
    meta, arrays = records.load(file)
    graphdef, targets = nnx.split(mtl.abstract(lambda: build(meta)))
    weights = convert.convert(records.group(arrays, "param"), RULES, nnx.to_pure_dict(targets))
    weights = jax.tree.map(lambda a: jnp.asarray(a, dtype), weights)
    image = jnp.asarray(np.moveaxis(arrays["input/image"], 1, -1), dtype)
    return arrays, list(meta["num_outputs"]), graphdef, weights, image


def compare(file, dtype, tolerance):
    arrays, kinds, graphdef, weights, image = load(file, dtype)

    @jax.jit
    def forward(weights):
        model = nnx.merge(graphdef, weights)
        taps = model.backbone(image)
        heads = model.decoder([x[0] for x in taps], None, dataset="pascal")
        return taps, heads, model(image, dataset="pascal")

    taps, heads, out = forward(weights)
    for i, x in enumerate(taps):
        expected = arrays[f"eval/stage{i}.shared"]
        records.assert_close(x[0].reshape(expected.shape), expected, tolerance, f"stage{i}")
    for kind in kinds:
        for name, x in (("head", heads[kind]), ("out_every3", out[kind][:, ::3, ::3])):
            name = f"eval/{name}.{kind}"
            records.assert_close(jnp.moveaxis(x, -1, 1), arrays[name], tolerance, name)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_network_matches_the_record_in_double_precision(file, x64):
    compare(file, jnp.float64, 1e-10)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_network_matches_the_record_in_single_precision(file):
    compare(file, jnp.float32, 5e-5)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_training_uses_and_moves_the_statistics_of_the_record(file, x64):
    arrays, kinds, graphdef, weights, image = load(file, jnp.float64)

    @jax.jit
    def forward(weights):
        model = nnx.merge(graphdef, weights)
        key = jax.random.key(0)
        taps = [x[0] for x in model.backbone(image, key=key)]
        heads = model.decoder(taps, None, dataset="pascal", key=key)
        return heads, mtl.statistics(model)["decoder"]["heads"]["pascal"]

    heads, statistics = forward(weights)
    for kind in kinds:
        actual = jnp.moveaxis(heads[kind], -1, 1)
        records.assert_close(actual, arrays[f"train/head.{kind}"], 1e-10, kind)
        for name in ("mean", "var"):
            expected = arrays[f"train/after.decoders.decoders.{kind}.last_layer.1.running_{name}"]
            records.assert_close(statistics[kind]["norm"][name], expected, 1e-10, name)
