"""The names of ViT in the files of timm, Meta and transformers, as rules for `convert`.

Position tables have the class token first. DINO, DINOv2, MAE and DeiT are in timm's names but for
a few; of MAE the decoder is dropped, of DINO and DINOv2 what only training uses.
"""

from collections.abc import Sequence

from mtl_vision.models.convert import Rule, torch_convs, torch_layers, torch_norms
from mtl_vision.models.layouts import first, linear, position_table, row, rows, same

_BLOCK = r"blocks/\1"

TIMM = (
    *torch_convs(r"patch_embed\.proj", "patch_embed/proj"),
    Rule(r"cls_token", "cls_token", first, join=rows),
    Rule(r"dist_token", "cls_token", first, 1, rows),
    Rule(r"reg_token", "register_tokens", first),
    Rule(r"register_tokens", "register_tokens", first),
    Rule(r"pos_embed", "pos_embed", first, fit=position_table),
    *torch_layers(r"blocks\.(\d+)\.(attn|mlp)\.(qkv|proj|fc1|fc2)", rf"{_BLOCK}/\2/\3"),
    *torch_norms(r"blocks\.(\d+)\.(norm1|norm2)", rf"{_BLOCK}/\2"),
    Rule(r"blocks\.(\d+)\.ls([12])\.gamma", rf"{_BLOCK}/scale\2/gamma"),
    Rule(r"blocks\.(\d+)\.gamma_([12])", rf"{_BLOCK}/scale\2/gamma"),
    *torch_norms(r"norm_pre", "pre_norm"),
    *torch_norms(r"norm", "norm"),
    # Meta's gated MLP, both maps in one.
    *torch_layers(r"blocks\.(\d+)\.mlp\.w12", rf"{_BLOCK}/mlp/fc1"),
    *torch_layers(r"blocks\.(\d+)\.mlp\.w3", rf"{_BLOCK}/mlp/fc2"),
    Rule(r"mask_token|decoder_.*", None),
    Rule(r"(head|head_dist|pre_logits|fc_norm|attn_pool|dino_head|ibot_head)\..*", None),
)

_HF = r"encoder\.layer\.(\d+)"


def _attention(names: Sequence[str], source: str) -> list[Rule]:
    """Rules of queries, keys and values that are layers of their own."""
    return [
        Rule(rf"{source}\.{name}\.{kind}", f"{_BLOCK}/attn/qkv/{ours}", how, i)
        for i, name in enumerate(names)
        for kind, ours, how in (("weight", "kernel", linear), ("bias", "bias", same))
    ]


_HF_COMMON = (
    Rule(r"embeddings\.cls_token", "cls_token", first, join=rows),
    Rule(r"embeddings\.position_embeddings", "pos_embed", first, fit=position_table),
    Rule(r"embeddings\.mask_token", None),
    *torch_convs(r"embeddings\.patch_embeddings\.projection", "patch_embed/proj"),
    *_attention(("query", "key", "value"), rf"{_HF}\.attention\.attention"),
    *torch_layers(rf"{_HF}\.attention\.output\.dense", f"{_BLOCK}/attn/proj"),
    *torch_norms(r"layernorm", "norm"),
    Rule(r"(pooler|classifier|cls_classifier|distillation_classifier|decoder)\..*", None),
)

# transformers' ViT, ViT-MAE and DeiT, without the prefixes ``vit.`` and ``deit.``.
TRANSFORMERS = (
    *_HF_COMMON,
    Rule(r"embeddings\.distillation_token", "cls_token", first, 1, rows),
    *torch_layers(rf"{_HF}\.intermediate\.dense", f"{_BLOCK}/mlp/fc1"),
    *torch_layers(rf"{_HF}\.output\.dense", f"{_BLOCK}/mlp/fc2"),
    *torch_norms(rf"{_HF}\.layernorm_before", f"{_BLOCK}/norm1"),
    *torch_norms(rf"{_HF}\.layernorm_after", f"{_BLOCK}/norm2"),
)

_DINO_COMMON = (
    *torch_norms(rf"{_HF}\.(norm1|norm2)", rf"{_BLOCK}/\2"),
    Rule(rf"{_HF}\.layer_scale([12])\.lambda1", rf"{_BLOCK}/scale\2/gamma"),
)

# transformers' DINOv2, with registers or not, without the prefix ``dinov2.``.
DINOV2_TRANSFORMERS = (
    *_HF_COMMON,
    *_DINO_COMMON,
    Rule(r"embeddings\.register_tokens", "register_tokens", first),
    *torch_layers(rf"{_HF}\.mlp\.(fc1|fc2)", rf"{_BLOCK}/mlp/\2"),
)
# The same with a gated MLP.
DINOV2_GATED_TRANSFORMERS = (
    *DINOV2_TRANSFORMERS[:-2],
    *torch_layers(rf"{_HF}\.mlp\.weights_in", f"{_BLOCK}/mlp/fc1"),
    *torch_layers(rf"{_HF}\.mlp\.weights_out", f"{_BLOCK}/mlp/fc2"),
)

# transformers' towers of CLIP and SigLIP, without the prefix ``vision_model.``.
_TOWER = r"encoder\.layers\.(\d+)"
SIGLIP_TRANSFORMERS = (
    *torch_convs(r"embeddings\.patch_embedding", "patch_embed/proj"),
    Rule(r"embeddings\.position_embedding\.weight", "pos_embed", fit=position_table),
    *_attention(("q_proj", "k_proj", "v_proj"), rf"{_TOWER}\.self_attn"),
    *torch_layers(rf"{_TOWER}\.self_attn\.out_proj", f"{_BLOCK}/attn/proj"),
    *torch_layers(rf"{_TOWER}\.mlp\.(fc1|fc2)", rf"{_BLOCK}/mlp/\2"),
    *torch_norms(rf"{_TOWER}\.layer_norm([12])", rf"{_BLOCK}/norm\2"),
    *torch_norms(r"post_layernorm", "norm"),
    Rule(r"embeddings\.position_ids|logit_(scale|bias)", None),
    Rule(r"(text_model|head|visual_projection|text_projection|classifier)\..*", None),
)
CLIP_TRANSFORMERS = (
    Rule(r"embeddings\.class_embedding", "cls_token", row),
    *torch_norms(r"pre_layrnorm", "pre_norm"),
    *SIGLIP_TRANSFORMERS,
)
