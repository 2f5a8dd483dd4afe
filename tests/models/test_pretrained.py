"""Files of pretrained backbones: every format is known by its names, loads, and leads back."""

import jax
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.errors import DataError
from mtl_vision.models import mtl, pretrained, stacks
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.convert import invert
from mtl_vision.models.pretrained import FORMATS, recognise

VIT = dict(name="vit", channels=8, depth=2, heads=2, patch=4, grid=(2, 2), taps=(1, 2))
DINO = VIT | dict(layer_scale=1.0, register_tokens=2)
DINOV3 = DINO | dict(rotary=True)
GATED = dict(act="swiglu")
SWIN = dict(name="swin", embed=4, depths=(1, 2), heads=(1, 2), window=2)
# What a file in every format is of.
MODELS = {
    "converted": VIT,
    "swin_microsoft": SWIN | dict(absolute_position=(2, 3)),
    "swin_timm": SWIN,
    "swin_transformers": SWIN | dict(taps="stage", out_norm=True),
    "vit_timm": DINO | dict(distillation_token=True, pre_norm=False),
    "vit_transformers": VIT | dict(distillation_token=True),
    "dinov2_transformers": DINO,
    "dinov2_gated_transformers": DINO | GATED,
    "dinov3_timm": DINOV3,
    "dinov3_gated_timm": DINOV3 | GATED,
    "dinov3_transformers": DINOV3,
    "dinov3_gated_transformers": DINOV3 | GATED,
    "clip_transformers": VIT | dict(pre_norm=True),
    "siglip_transformers": VIT | dict(class_token=False),
}
PREFIXES = {
    "swin_transformers": "swin.",
    "vit_timm": "module.backbone.",
    "vit_transformers": "vit.",
    "dinov2_transformers": "dinov2.",
    "clip_transformers": "vision_model.",
}


def targets(name, **options):
    model = mtl.abstract(lambda: BACKBONES[name](**options, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model))


def drawn(shapes, seed=0):
    draws = np.random.default_rng(seed)
    tree = jax.tree.map(lambda x: draws.normal(size=x.shape).astype(np.float32), shapes)
    for path, x in rules.flatten(tree).items():
        if path.endswith("attn/qkv/bias"):  # DINOv3 has none of keys
            x[len(x) // 3 : 2 * len(x) // 3] = 0
    return tree


def public(key):
    """Returns (the arrays of a file, the tree it was made of)."""
    tree = drawn(targets(**MODELS[key]))
    arrays = rules.flatten(tree) if key == "converted" else invert(tree, FORMATS[key].rules)
    return {PREFIXES.get(key, "") + name: x for name, x in arrays.items()}, tree


def same_tree(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("key", MODELS)
def test_a_file_is_recognised_and_loads_as_it_was(key):
    arrays, tree = public(key)
    assert recognise(arrays) == key
    same_tree(pretrained.load(arrays, tree), tree)
    found, flat = pretrained.converted(arrays)
    assert found == key and flat.keys() == rules.flatten(tree).keys()
    same_tree(pretrained.load(flat, tree), tree)  # what was converted loads again


def google(tree, *, norms, attention, mlp):
    """The names and layouts of Google's files, of a ViT with two heads."""
    out = {
        "embedding/kernel": tree["patch_embed"]["proj"]["kernel"],
        "embedding/bias": tree["patch_embed"]["proj"]["bias"],
        "cls": tree["cls_token"][None],
        "Transformer/encoder_norm/scale": tree["norm"]["scale"],
        "Transformer/encoder_norm/bias": tree["norm"]["bias"],
    }
    for i, block in tree["blocks"].items():
        to = f"Transformer/encoderblock_{i}"
        attn = f"{to}/MultiHeadDotProductAttention_{attention}"
        for j, name in enumerate(("query", "key", "value")):
            part = slice(8 * j, 8 * j + 8)
            out[f"{attn}/{name}/kernel"] = block["attn"]["qkv"]["kernel"][:, part].reshape(8, 2, 4)
            out[f"{attn}/{name}/bias"] = block["attn"]["qkv"]["bias"][part].reshape(2, 4)
        out[f"{attn}/out/kernel"] = block["attn"]["proj"]["kernel"].reshape(2, 4, 8)
        out[f"{attn}/out/bias"] = block["attn"]["proj"]["bias"]
        for j, number in enumerate(norms, start=1):
            for kind in ("scale", "bias"):
                out[f"{to}/LayerNorm_{number}/{kind}"] = block[f"norm{j}"][kind]
        for j in (0, 1):
            for kind in ("kernel", "bias"):
                out[f"{to}/MlpBlock_{mlp}/Dense_{j}/{kind}"] = block["mlp"][f"fc{j + 1}"][kind]
    return out


def test_files_of_vision_transformer():
    tree = drawn(targets(**VIT))
    arrays = google(tree, norms=(0, 2), attention=1, mlp=3)
    arrays |= {"Transformer/posembed_input/pos_embedding": tree["pos_embed"][None]}
    arrays |= {"head/kernel": np.zeros((8, 3)), "pre_logits/bias": np.zeros(8)}
    assert recognise(arrays) == "vision_transformer"
    same_tree(pretrained.load(arrays, tree), tree)


@pytest.mark.parametrize("stacked", [False, True])
def test_files_of_big_vision(stacked):
    tree = drawn(targets(**VIT))
    tree["pos_embed"][0] = 0  # its class token has no position
    arrays = google(tree, norms=(0, 1), attention=0, mlp=0)
    if stacked:
        blocks = {n: x for n, x in arrays.items() if "encoderblock_0" in n}
        rest = {n: x for n, x in arrays.items() if "encoderblock_" not in n}
        for name, x in blocks.items():
            second = arrays[name.replace("encoderblock_0", "encoderblock_1")]
            rest[name.replace("encoderblock_0", "encoderblock")] = np.stack([x, second])
        arrays = rest
    arrays = {f"params/img/{name}": x for name, x in arrays.items()}
    arrays |= {"params/img/pos_embedding": tree["pos_embed"][None, 1:]}
    arrays |= {"params/img/MAPHead_0/probe": np.zeros((1, 1, 8)), "params/t": np.zeros(1)}
    arrays |= {"params/txt/Transformer/encoderblock/LayerNorm_0/scale": np.zeros((2, 8))}
    assert recognise(arrays) == "big_vision"
    same_tree(pretrained.load(arrays, tree), tree)


def test_files_of_dinov3_by_meta():
    tree = drawn(targets(**DINOV3 | GATED))
    arrays = {}
    for name, x in invert(tree, FORMATS["dinov3_gated_timm"].rules).items():
        for old, new in (
            ("reg_token", "storage_tokens"),
            ("gamma_1", "ls1.gamma"),
            ("gamma_2", "ls2.gamma"),
            ("fc1_g", "w1"),
            ("fc1_x", "w2"),
            ("mlp.fc2", "mlp.w3"),
        ):
            name = name.replace(old, new)
        if "_bias" not in name:
            arrays[name] = x
    ones, wrong = np.ones(8, np.float32), np.full(8, 9.0, np.float32)
    for i, block in tree["blocks"].items():
        bias = block["attn"]["qkv"]["bias"]
        arrays[f"blocks.{i}.attn.qkv.bias"] = bias + np.concatenate([0 * ones, wrong, 0 * ones])
        arrays[f"blocks.{i}.attn.qkv.bias_mask"] = np.concatenate([ones, 0 * ones, ones])
    arrays |= {"rope_embed.periods": ones, "mask_token": ones[None]}
    assert recognise(arrays) == "dinov3_meta"
    same_tree(pretrained.load(arrays, tree), tree)


def test_blocks_in_chunks_and_a_gated_mlp_of_dinov2_by_meta():
    tree = drawn(targets(**DINO | GATED))
    arrays = {}
    for name, x in invert(tree, FORMATS["vit_timm"].rules).items():
        name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        name = name.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0.")
        arrays[f"backbone.{name.replace('reg_token', 'register_tokens')}"] = x
    arrays |= {"dino_head.mlp.0.weight": np.zeros((2, 2)), "backbone.mask_token": np.zeros((1, 8))}
    same_tree(pretrained.load(arrays, tree), tree)


def test_dinov3_without_biases_of_queries_has_zeros():
    arrays, tree = public("dinov3_timm")
    arrays = {name: x for name, x in arrays.items() if "_bias" not in name}
    found = pretrained.load(arrays, tree)
    assert not found["blocks"][0]["attn"]["qkv"]["bias"].any()


def test_positions_are_resized_to_the_grid_of_the_backbone():
    arrays, tree = public("dinov2_transformers")
    larger = targets(**DINO | dict(grid=(3, 3)))
    for method in ("bicubic", "bicubic_antialias"):
        found = pretrained.load(arrays, larger, position_resize=method)["pos_embed"]
        np.testing.assert_array_equal(found[0], tree["pos_embed"][0])
        assert found.shape == (10, 8) and found.dtype == np.float32
    larger = targets(**SWIN | dict(window=3, absolute_position=(4, 6)))
    arrays, _ = public("swin_microsoft")
    found = pretrained.load(arrays | {"absolute_pos_embed": np.ones((1, 4, 4))}, larger)
    np.testing.assert_allclose(found["absolute_position"], np.ones((4, 6, 4)), atol=1e-6)


def test_a_stacked_backbone_is_filled():
    arrays, tree = public("vit_timm")
    options = MODELS["vit_timm"] | dict(scan=True)
    model = BACKBONES[options.pop("name")](**options, rngs=nnx.Rngs(0))
    pretrained.fill(model, pretrained.load(arrays, tree))
    same_tree(stacks.unstack(nnx.to_pure_dict(nnx.state(model))), tree)


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda a: {}, r"0 arrays \(nothing, ...\) are in none of the formats"),
        (lambda a: {"x": a["pos_embed"]}, r"1 arrays \(x, ...\) are in none of the formats"),
        (lambda a: a | public("siglip_transformers")[0], "could be vit_timm or siglip_trans"),
        (lambda a: a | {"extra": np.zeros(1)}, r"1 arrays unused \(extra\)"),
        (lambda a: a | {"blocks.2.norm1.bias": np.zeros(8)}, r"unused \(blocks.2.norm1.bias\)"),
        (lambda a: a | {"norm.bias": np.zeros(9)}, r"norm/bias is \(9,\) and should be \(8,\)"),
        (lambda a: a | {"cls_token": np.zeros(())}, "cls_token cannot be made"),
        (lambda a: a | {"patch_embed.proj.weight": np.zeros(3)}, "kernel cannot be made of what"),
        (lambda a: {n: x for n, x in a.items() if n != "norm.bias"}, r"1 missing \(norm/bias\)"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(change, fault):
    tree = drawn(targets(**VIT))
    arrays = invert(tree, FORMATS["vit_timm"].rules)
    with pytest.raises(DataError, match=fault):
        pretrained.load(change(arrays), tree)


def test_a_block_that_lacks_something_is_named_without_a_model():
    arrays, _ = public("vit_transformers")
    del arrays["vit.encoder.layer.1.layernorm_after.bias"]
    with pytest.raises(DataError, match="lacks blocks/1/norm2/bias"):
        pretrained.converted(arrays)


def test_what_a_format_has_no_place_for_is_named():
    tree = drawn(targets(**VIT | dict(pre_norm=True)))
    with pytest.raises(DataError, match="no place for 2 parameters: pre_norm/bias, pre_norm/scale"):
        invert(tree, FORMATS["vit_transformers"].rules)
