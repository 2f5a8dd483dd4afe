"""The names of Swin in the files of Microsoft, timm and transformers, as rules for `convert`."""

from mtl_vision.models.convert import Rule, torch_convs, torch_layers, torch_norms
from mtl_vision.models.layouts import bias_table, first, linear, position_grid, same

_BLOCK = r"stages/\1/blocks/\2"

# What Microsoft and timm name alike.
_COMMON = (
    *torch_convs(r"patch_embed\.proj", "patch_embed/proj"),
    *torch_norms(r"patch_embed\.norm", "patch_embed/norm"),
    Rule(r"absolute_pos_embed", "absolute_position", first, fit=position_grid),
    Rule(r".*\.(attn_mask|relative_position_index)", None),
    Rule(
        r"layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table",
        f"{_BLOCK}/attn/relative_position_bias_table",
        fit=bias_table,
    ),
    *torch_layers(
        r"layers\.(\d+)\.blocks\.(\d+)\.(attn|mlp)\.(qkv|proj|fc1|fc2)", rf"{_BLOCK}/\3/\4"
    ),
    *torch_norms(r"layers\.(\d+)\.blocks\.(\d+)\.(norm1|norm2)", rf"{_BLOCK}/\3"),
)

# microsoft/Swin-Transformer and scale-lab/MTLoRA, without the prefix ``backbone.``.
MICROSOFT = (
    *_COMMON,
    *torch_layers(r"layers\.(\d+)\.downsample\.reduction", r"stages/\1/merging/reduction"),
    *torch_norms(r"layers\.(\d+)\.downsample\.norm", r"stages/\1/merging/norm"),
    Rule(r"(norm|head)\.(weight|bias)", None),
)

# timm's SwinTransformer: merging comes first in a stage instead of last.
TIMM = (
    *_COMMON,
    *(
        rule
        for i in range(3)
        for rule in (
            Rule(
                rf"layers\.{i + 1}\.downsample\.reduction\.weight",
                f"stages/{i}/merging/reduction/kernel",
                linear,
            ),
            *torch_norms(rf"layers\.{i + 1}\.downsample\.norm", f"stages/{i}/merging/norm"),
        )
    ),
    Rule(r"(norm|head\.fc|head)\.(weight|bias)", None),
)

_HF_BLOCK = r"encoder\.layers\.(\d+)\.blocks\.(\d+)"
# transformers' SwinBackbone, safetensors names without the prefix ``swin.``.
TRANSFORMERS = (
    *torch_convs(r"embeddings\.patch_embeddings\.projection", "patch_embed/proj"),
    *torch_norms(r"embeddings\.norm", "patch_embed/norm"),
    Rule(r".*\.relative_position_index", None),
    Rule(
        rf"{_HF_BLOCK}\.attention\.self\.relative_position_bias_table",
        f"{_BLOCK}/attn/relative_position_bias_table",
        fit=bias_table,
    ),
    *(
        Rule(rf"{_HF_BLOCK}\.attention\.self\.{name}\.{kind}", f"{_BLOCK}/attn/qkv/{ours}", *how)
        for i, name in enumerate(("query", "key", "value"))
        for kind, ours, how in (("weight", "kernel", (linear, i)), ("bias", "bias", (same, i)))
    ),
    *torch_layers(rf"{_HF_BLOCK}\.attention\.output\.dense", f"{_BLOCK}/attn/proj"),
    *torch_layers(rf"{_HF_BLOCK}\.intermediate\.dense", f"{_BLOCK}/mlp/fc1"),
    *torch_layers(rf"{_HF_BLOCK}\.output\.dense", f"{_BLOCK}/mlp/fc2"),
    *torch_norms(rf"{_HF_BLOCK}\.layernorm_before", f"{_BLOCK}/norm1"),
    *torch_norms(rf"{_HF_BLOCK}\.layernorm_after", f"{_BLOCK}/norm2"),
    *torch_layers(r"encoder\.layers\.(\d+)\.downsample\.reduction", r"stages/\1/merging/reduction"),
    *torch_norms(r"encoder\.layers\.(\d+)\.downsample\.norm", r"stages/\1/merging/norm"),
    *(
        rule
        for i in range(4)
        for rule in torch_norms(rf"hidden_states_norms\.stage{i + 1}", f"out_norms/{i}")
    ),
    Rule(r"embeddings\.mask_token", None),
    Rule(r"(layernorm|pooler|classifier)\..*", None),
)
