"""Backbones under other names: read again they are the same, and what cannot be folded is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.errors import ConfigError
from mtl_vision.models import adapters, exported, mtl, pretrained
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.stacks import unstack

SWIN = dict(embed=8, depths=(1, 1), heads=(1, 2), window=4)
VIT = dict(channels=8, depth=1, taps=(1,), heads=2, patch=4, grid=(3, 3))
DINO = VIT | dict(layer_scale=1.0, register_tokens=2)
NO_CLASS = VIT | dict(class_token=False)
CLIP = VIT | dict(pre_norm=True, act="quick_gelu")
ROTARY = DINO | dict(rotary=True)
CASES = [
    ("swin", SWIN, "timm", "swin_timm"),
    ("swin", SWIN, "hf", "swin_transformers"),
    ("swin", SWIN | dict(out_norm=True), "hf", "swin_transformers"),
    ("swin", SWIN, "swin_microsoft", "swin_microsoft"),
    ("swin", SWIN | dict(absolute_position=(8, 8)), "swin_microsoft", "swin_microsoft"),
    ("vit", VIT, "timm", "vit_timm"),
    ("vit", VIT, "hf", "vit_transformers"),
    ("vit", VIT | dict(distillation_token=True), "hf", "vit_transformers"),
    ("vit", VIT | dict(distillation_token=True), "timm", "vit_timm"),
    ("vit", DINO, "hf", "dinov2_transformers"),
    ("vit", DINO | dict(act="swiglu"), "hf", "dinov2_gated_transformers"),
    ("vit", NO_CLASS, "hf", "siglip_transformers"),
    ("vit", CLIP, "hf", "clip_transformers"),
    ("vit", CLIP, "timm", "vit_timm"),
    ("vit", ROTARY, "timm", "dinov3_timm"),
    ("vit", ROTARY, "hf", "dinov3_transformers"),
    ("vit", ROTARY | dict(act="swiglu"), "timm", "dinov3_gated_timm"),
    ("vit", ROTARY | dict(act="swiglu"), "hf", "dinov3_gated_transformers"),
]


def drawn(name, options):
    """Parameters of a backbone at random; of DINOv3 the keys have no bias."""
    model = mtl.abstract(lambda: BACKBONES[name](**options, rngs=nnx.Rngs(0)))
    draws = np.random.default_rng(0)

    def draw(path, x):
        array = draws.normal(size=x.shape).astype(np.float32)
        if options.get("rotary") and path.endswith("qkv/bias"):
            array[len(array) // 3 : -(len(array) // 3)] = 0
        return array

    return rules.map_with_path(draw, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("name, options, library, key", CASES)
def test_a_library_reads_what_was_trained(name, options, library, key):
    tree = drawn(name, options)
    found, arrays = exported.export(tree, library)
    assert found == key == pretrained.recognise(arrays)
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(arrays, tree), tree)


def test_timm_leaves_out_biases_that_are_zero():
    tree = drawn("vit", ROTARY)
    tree["blocks"][0]["attn"]["qkv"]["bias"][:] = 0
    _, arrays = exported.export(tree, "timm")
    assert not [name for name in arrays if "q_bias" in name or "v_bias" in name]
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(arrays, tree), tree)


@pytest.mark.parametrize("options", [DINO, VIT])
def test_timm_leaves_out_positions_of_tokens_that_are_zero(options):
    tree = drawn("vit", options)
    if options is DINO:
        with pytest.raises(ConfigError, match="beside registers its class token has no position"):
            exported.export(tree, "timm")
    tree["pos_embed"][0] = 0
    key, arrays = exported.export(tree, "timm")
    assert key == "vit_timm" and arrays["pos_embed"].shape == (1, 9, 8)
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(arrays, tree), tree)


def test_a_backbone_that_no_format_fits_is_an_error():
    tree = drawn("vit", VIT | dict(layer_scale=1.0))
    with pytest.raises(ConfigError, match="no format of vit_transformers .*no place for 2 param"):
        exported.export(tree, "vit_transformers")
    tree = drawn("vit", ROTARY)
    tree["blocks"][0]["attn"]["qkv"]["bias"][:] = 1  # a bias of keys, which is nowhere
    with pytest.raises(ConfigError, match="blocks/0/attn/qkv/bias would be read as something else"):
        exported.export(tree, "hf")


def adapted(adapter, **fields):
    """A ViT with an adapter, all of its parameters drawn at random."""

    def make():
        backbone = BACKBONES["vit"](**VIT, rngs=nnx.Rngs(0))
        given = dict(tasks=("a", "b"), rngs=nnx.Rngs(1))
        return adapters.adapt(backbone, [(adapter, fields)], **given)

    graphdef, shapes = nnx.split(mtl.abstract(make))
    draws = np.random.default_rng(0)
    return nnx.merge(
        graphdef, jax.tree.map(lambda x: jnp.float32(draws.normal(size=x.shape)), shapes)
    )


def test_adapters_are_folded_in():
    model = adapted("mtlora", rank=2, mode="lora_only")
    tree = exported.parameters(model, ["mtlora"])
    bare = drawn("vit", VIT)
    assert jax.tree.map(np.shape, tree) == jax.tree.map(np.shape, bare)
    layer = model.blocks[0].attn.qkv  # the model is as it was
    expected = layer.linear.kernel[...] + 4.0 * layer.lora.product()
    np.testing.assert_allclose(tree["blocks"][0]["attn"]["qkv"]["kernel"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["mtlora", "vpt", "adapter"])
def test_what_cannot_be_folded_is_named(name):
    fields = dict(rank=2, task_rank=1) if name == "mtlora" else {}
    with pytest.raises(ConfigError, match=rf"config.adapter: {name} cannot be folded .* first "):
        exported.parameters(adapted(name, **fields), [name])


def test_stacked_blocks_come_back_to_their_places():
    def stack(*values):
        return {"kernel": np.array(values)}

    plain = {"blocks": {i: {"kernel": np.array(i)} for i in range(4)}, "norm": 5}
    stacked = {"segments": {0: stack(0), 1: stack(1, 2, 3)}, "norm": 5}
    detached = {"segments": {1: stack(1, 2)}, "norm": 5}
    detached["tails"] = {0: {"kernel": np.array(0)}, 1: {"kernel": np.array(3)}}
    for tree in (stacked, detached):
        jax.tree.map(np.testing.assert_array_equal, unstack(tree), plain)
