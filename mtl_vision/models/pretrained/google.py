"""The names of ViT in the ``.npz`` files of Google, as rules for `convert`.

google-research/vision_transformer (AugReg among them) and google-research/big_vision (SigLIP among
them) name the same layers by other numbers. big_vision may stack all blocks, and its class token
has no position.
"""

import re
from collections.abc import Mapping

import numpy as np

from mtl_vision.models.convert import Rule
from mtl_vision.models.layouts import first, heads_in, heads_out, position_table, ravel

_BLOCK, _OURS = r"Transformer/encoderblock_(\d+)", r"blocks/\1"


def _rules(*, norms: str, attention: int, mlp: int) -> tuple[Rule, ...]:
    """Rules of files whose modules in a block have these numbers."""
    attn = rf"{_BLOCK}/MultiHeadDotProductAttention_{attention}"
    one, two = norms
    return (
        Rule(r"embedding/(kernel|bias)", r"patch_embed/proj/\1"),
        Rule(r"cls", "cls_token", first),
        Rule(
            r"(?:Transformer/posembed_input/)?pos_embedding",
            "pos_embed",
            first,
            0,
            fit=position_table,
        ),
        *(
            rule
            for i, name in enumerate(("query", "key", "value"))
            for rule in (
                Rule(rf"{attn}/{name}/kernel", f"{_OURS}/attn/qkv/kernel", heads_out, i),
                Rule(rf"{attn}/{name}/bias", f"{_OURS}/attn/qkv/bias", ravel, i),
            )
        ),
        Rule(rf"{attn}/out/kernel", f"{_OURS}/attn/proj/kernel", heads_in),
        Rule(rf"{attn}/out/bias", f"{_OURS}/attn/proj/bias"),
        Rule(rf"{_BLOCK}/LayerNorm_{one}/(scale|bias)", rf"{_OURS}/norm1/\2"),
        Rule(rf"{_BLOCK}/LayerNorm_{two}/(scale|bias)", rf"{_OURS}/norm2/\2"),
        Rule(rf"{_BLOCK}/MlpBlock_{mlp}/Dense_0/(kernel|bias)", rf"{_OURS}/mlp/fc1/\2"),
        Rule(rf"{_BLOCK}/MlpBlock_{mlp}/Dense_1/(kernel|bias)", rf"{_OURS}/mlp/fc2/\2"),
        Rule(r"Transformer/encoder_norm/(scale|bias)", r"norm/\1"),
        Rule(r"(head|pre_logits|MAPHead_0)/.*", None),
        Rule(r"(params/)?(txt/.*|t|b)", None),
    )


VISION_TRANSFORMER = _rules(norms="02", attention=1, mlp=3)
BIG_VISION = _rules(norms="01", attention=0, mlp=0)


def unstacked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays with stacked blocks, ``encoderblock/...``, taken apart."""
    made = {}
    for name, array in arrays.items():
        before, stacked, after = name.partition("Transformer/encoderblock/")
        if not stacked or re.search("MAPHead|txt/", before):
            made[name] = array
            continue
        for i, one in enumerate(array):
            made[f"{before}Transformer/encoderblock_{i}/{after}"] = one
    return made
