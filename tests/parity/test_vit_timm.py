"""ViT against prismformore/Multi-Task-Transformer: features and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.models import convert, mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.pretrained import vit
from mtl_vision.models.resize import matrix
from tests.parity import records

RECORDS = records.records("vit_timm")


def build(meta):
    config = meta["config"]
    return BACKBONES["vit"](
        channels=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        patch=config["patch_size"],
        grid=(meta["source_grid"],) * 2,
        taps=(*config["select_list"], config["depth"]),
        rngs=nnx.Rngs(params=jax.random.key(0)),
    )


def features(vit, image):
    """Every recorded array by name."""
    patches = vit.patch_embed(image)
    batch, h, w, channels = patches.shape
    out = {"patch_embed": patches, "pos_embed_resized": vit.positions(h, w)[None]}
    x = vit.embed(patches)[None]
    for i, block in enumerate(vit.blocks):
        x = block(x)
        out[f"block{i}"] = x
    taps = vit(image)
    out |= {f"selected{i}": tap for i, tap in enumerate(taps)} | {"final": taps[-1]}
    return {name: x.reshape(batch, -1, channels) for name, x in out.items()}


def pull_back(gradient, source, target):
    """The gradient of the resized position table as that of the source's."""
    rows, columns = (matrix(source, n, "bicubic") for n in target)
    grid = gradient[0, 1:].reshape(*target, -1).astype(np.float64)
    grid = np.einsum("hp,wq,hwc->pqc", rows, columns, grid).reshape(source**2, -1)
    return np.concatenate([gradient[0, :1], grid])[None]


def compare(file, dtype, forward, backward):
    meta, arrays = records.load(file)
    graphdef, targets = nnx.split(mtl.abstract(lambda: build(meta)))
    targets = nnx.to_pure_dict(targets)
    weights = convert.convert(records.group(arrays, "param"), vit.TIMM, targets)
    weights = jax.tree.map(lambda a: jnp.asarray(a, dtype), weights)
    image = jnp.asarray(np.moveaxis(arrays["input/image"], 1, -1), dtype)
    probes = records.group(arrays, "probe")

    def probe(weights):
        out = features(nnx.merge(graphdef, weights), image)
        return sum((out[name] * p.astype(dtype)).sum() for name, p in probes.items()), out

    (value, out), grads = jax.jit(jax.value_and_grad(probe, has_aux=True))(weights)
    for name, expected in records.group(arrays, "out").items():
        actual = value if name == "probe_value" else out[name]
        records.assert_close(actual, expected, forward, name)
    expected = records.group(arrays, "grad")
    resized = expected.pop("pos_embed_resized")
    expected["pos_embed"] = pull_back(resized, meta["source_grid"], meta["target_grid"])
    expected = rules.flatten(convert.convert(expected, vit.TIMM, targets))
    for path, actual in rules.flatten(grads).items():
        records.assert_close(actual, expected[path], backward, path)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_vit_matches_the_record_in_double_precision(file, x64):
    # The recorded gradients are rounded to float32.
    compare(file, jnp.float64, forward=1e-10, backward=2e-7)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_vit_matches_the_record_in_single_precision(file):
    compare(file, jnp.float32, forward=5e-5, backward=1e-3)
