"""ViT from whole files of Google and transformers: recognised, loaded, every feature the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.models import mtl, pretrained
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.convert import invert
from tests.parity import records

# The format that each kind of record is in.
FORMATS = {
    "vit_hf": "vit_transformers",
    "dinov2_hf": "dinov2_transformers",
    "dinov2reg_hf": "dinov2_transformers",
    "dinov2_swiglu_hf": "dinov2_gated_transformers",
    "vit_google_npz": "vision_transformer",
}
RECORDS = [file for kind in FORMATS for file in records.records(kind)]


def fields(meta):
    """The backbone's options, from the configuration in a record."""
    c = meta["config"]
    if "embed_dim" in c:
        sizes = dict(channels=c["embed_dim"], depth=c["depth"], heads=c["num_heads"])
        grid, taps = (meta["source_grid"],) * 2, (*c["select_list"], c["depth"])
        return sizes | dict(patch=c["patch_size"], grid=grid, taps=taps)
    C, depth = c["hidden_size"], c["num_hidden_layers"]
    hidden = c.get("intermediate_size", c.get("mlp_ratio", 4) * C)
    found = dict(
        channels=C,
        depth=depth,
        heads=c["num_attention_heads"],
        patch=c["patch_size"],
        grid=(c["image_size"] // c["patch_size"],) * 2,
        taps=tuple(range(1, depth + 1)),
        layer_scale=float("dinov2" in meta["kind"]),
        norm_eps=meta["layer_norm_eps"],
    )
    if c.get("use_swiglu_ffn"):
        found["act"], hidden = "swiglu", 8 * -(-int(2 * hidden / 3) // 8)
    if count := c.get("num_register_tokens", 0):
        found |= dict(register_tokens=count, position_resize="bicubic_antialias")
    return found | dict(mlp_ratio=hidden / C)


@functools.cache
def loaded(file):
    """Returns (record, arrays of the file, structure, weights)."""
    meta, arrays = records.load(file)
    options = fields(meta)
    model = mtl.abstract(lambda: BACKBONES["vit"](**options, rngs=nnx.Rngs(0)))
    graphdef, targets = nnx.split(model)
    public = records.group(arrays, "param") or records.group(arrays, "checkpoint")
    resize = options.get("position_resize", "bicubic")
    weights = pretrained.load(public, nnx.to_pure_dict(targets), position_resize=resize)
    return arrays, public, graphdef, weights


def features(vit, image):
    """Every recorded array by name."""
    patches = vit.patches(image)
    x = vit.embed(patches)[None]
    out = {"pos_embed_resized": vit.positions(*patches.shape[1:3]), "hidden_state0": x}
    for i, block in enumerate(vit.blocks, start=1):
        x = out[f"hidden_state{i}"] = block(x)
    taps = vit(image)
    out |= {f"selected{i}": tap for i, tap in enumerate(taps)} | {"final": taps[-1]}
    return out | {"last_hidden_state": vit.norm(x)}


def compare(file, dtype, tolerance):
    arrays, _, graphdef, weights = loaded(file)
    weights = jax.tree.map(lambda a: jnp.asarray(a, dtype), weights)
    image = jnp.asarray(np.moveaxis(arrays["input/image"], 1, -1), dtype)
    found = jax.jit(lambda w: features(nnx.merge(graphdef, w), image))(weights)
    for name, expected in records.group(arrays, "out").items():
        records.assert_close(found[name].reshape(expected.shape), expected, tolerance, name)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_vit_matches_the_record_in_double_precision(file, x64):
    compare(file, jnp.float64, 1e-10)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_vit_matches_the_record_in_single_precision(file):
    compare(file, jnp.float32, 5e-5)


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_the_format_is_recognised(file):
    _, public, _, _ = loaded(file)
    assert pretrained.recognise(public) == FORMATS[file.stem.rpartition("_")[0]]


# Google's files keep the heads apart; ours do not, so nothing leads back to them.
@pytest.mark.parametrize("file", RECORDS[:-1], ids=lambda file: file.stem)
def test_the_rules_lead_back(file):
    _, public, _, weights = loaded(file)
    back = invert(weights, pretrained.FORMATS[pretrained.recognise(public)].rules)
    assert public.keys() - back.keys() <= {"embeddings.mask_token"}
    for name, array in back.items():
        np.testing.assert_array_equal(array, public[name], err_msg=name)


def test_the_google_file_is_what_the_reference_made_of_it():
    file = records.records("vit_google_npz")[0]
    arrays, _, _, weights = loaded(file)
    timm = records.group(arrays, "timm")
    timm["pos_embed"] = np.zeros((1, *weights["pos_embed"].shape))  # recorded resized
    expected = pretrained.load(timm, weights)
    expected["pos_embed"] = weights["pos_embed"]
    jax.tree.map(np.testing.assert_array_equal, weights, expected)
