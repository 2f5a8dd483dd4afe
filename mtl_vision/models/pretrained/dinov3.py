"""The names of DINOv3 in the files of Meta, timm and transformers, as rules for `convert`.

There is no table of positions. Keys have no bias; a bias of theirs would change nothing, as softmax
takes a constant out. Meta stores one with a mask, the others leave it out.
"""

from mtl_vision.models.convert import Rule, torch_convs, torch_layers, torch_norms
from mtl_vision.models.layouts import around_zero, first, last, linear, product, same

_BLOCK, _OURS = r"blocks\.(\d+)", r"blocks/\1"
_WEIGHT_AND_BIAS = (("weight", "kernel", linear), ("bias", "bias", same))


def _gated(source: str, names: tuple[str, str]) -> list[Rule]:
    """Rules of a gate and of what it gates, one layer here."""
    return [
        Rule(rf"{source}\.{name}\.{kind}", f"{_OURS}/mlp/fc1/{ours}", how, i, last)
        for i, name in enumerate(names)
        for kind, ours, how in _WEIGHT_AND_BIAS
    ]


def _queries_and_values(source: str, names: str) -> list[Rule]:
    """Rules of the biases of queries and values."""
    target = f"{_OURS}/attn/qkv/bias"
    return [Rule(source.format(name), target, same, i, around_zero) for i, name in enumerate(names)]


# What Meta and timm name alike.
_COMMON = (
    *torch_convs(r"patch_embed\.proj", "patch_embed/proj"),
    Rule(r"cls_token", "cls_token", first),
    Rule(rf"{_BLOCK}\.attn\.qkv\.weight", f"{_OURS}/attn/qkv/kernel", linear),
    *torch_layers(rf"{_BLOCK}\.attn\.proj", f"{_OURS}/attn/proj"),
    *torch_norms(rf"{_BLOCK}\.(norm1|norm2)", rf"{_OURS}/\2"),
    *torch_norms(r"norm", "norm"),
)
_MLP = [
    rule
    for name in ("fc1", "fc2")
    for rule in torch_layers(rf"{_BLOCK}\.mlp\.{name}", f"{_OURS}/mlp/{name}")
]

META = (
    *_COMMON,
    *_MLP,
    *_gated(rf"{_BLOCK}\.mlp", ("w1", "w2")),
    *torch_layers(rf"{_BLOCK}\.mlp\.w3", f"{_OURS}/mlp/fc2"),
    Rule(r"storage_tokens", "register_tokens", first),
    Rule(rf"{_BLOCK}\.attn\.qkv\.bias", f"{_OURS}/attn/qkv/bias", join=product),
    Rule(rf"{_BLOCK}\.attn\.qkv\.bias_mask", f"{_OURS}/attn/qkv/bias", same, 1, product),
    Rule(rf"{_BLOCK}\.ls([12])\.gamma", rf"{_OURS}/scale\2/gamma"),
    Rule(r"mask_token|rope_embed\.periods", None),
    Rule(r"(local_cls_norm|cls_norm|dino_head|ibot_head)\..*", None),
)

_TIMM = (
    *_COMMON,
    Rule(r"reg_token", "register_tokens", first),
    *_queries_and_values(rf"{_BLOCK}\.attn\.{{}}_bias", "qv"),
    Rule(rf"{_BLOCK}\.gamma_([12])", rf"{_OURS}/scale\2/gamma"),
    Rule(r"(head|fc_norm)\..*", None),
)
# timm's Eva; there are files without biases of queries and values.
TIMM = (*_TIMM, *_MLP)
GATED_TIMM = (*_TIMM, *_MLP[2:], *_gated(rf"{_BLOCK}\.mlp", ("fc1_g", "fc1_x")))
NO_BIAS = r"blocks/\d+/attn/qkv/bias"

_HF = r"layer\.(\d+)"
_TRANSFORMERS = (
    Rule(r"embeddings\.cls_token", "cls_token", first),
    Rule(r"embeddings\.register_tokens", "register_tokens", first),
    Rule(r"embeddings\.mask_token", None),
    *torch_convs(r"embeddings\.patch_embeddings", "patch_embed/proj"),
    *(
        Rule(rf"{_HF}\.attention\.{name}_proj\.weight", f"{_OURS}/attn/qkv/kernel", linear, i)
        for i, name in enumerate("qkv")
    ),
    *_queries_and_values(rf"{_HF}\.attention\.{{}}_proj\.bias", "qv"),
    *torch_layers(rf"{_HF}\.attention\.o_proj", f"{_OURS}/attn/proj"),
    *torch_norms(rf"{_HF}\.(norm1|norm2)", rf"{_OURS}/\2"),
    Rule(rf"{_HF}\.layer_scale([12])\.lambda1", rf"{_OURS}/scale\2/gamma"),
    *torch_layers(rf"{_HF}\.mlp\.down_proj", f"{_OURS}/mlp/fc2"),
    *torch_norms(r"norm", "norm"),
)
TRANSFORMERS = (*_TRANSFORMERS, *torch_layers(rf"{_HF}\.mlp\.up_proj", f"{_OURS}/mlp/fc1"))
GATED_TRANSFORMERS = (*_TRANSFORMERS, *_gated(rf"{_HF}\.mlp", ("gate_proj", "up_proj")))
