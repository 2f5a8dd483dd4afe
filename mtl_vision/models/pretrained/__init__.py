"""Files of pretrained backbones: whose names they have, and the rules for `convert`.

A format is recognised by names that its files have and others have not.
"""

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision.errors import DataError
from mtl_vision.models.convert import Rule, convert, spread
from mtl_vision.models.layouts import bias_table, position_grid, position_table, same
from mtl_vision.models.pretrained import dinov3, google, swin, vit
from mtl_vision.models.stacks import stack

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Format:
    """How a project names what is in its files.

    Attributes:
      rules: for `convert`, of names as `rename` makes them.
      marks: regexes that each match some name, so made.
      without: regexes that match none.
      rename: (regex, replacement) pairs, applied to every name in order.
      unpack: changes the arrays before that.
      zero: regex of paths that are zero where a file has nothing for them.
    """

    rules: Sequence[Rule]
    marks: Sequence[str]
    without: Sequence[str] = ()
    rename: Sequence[tuple[str, str]] = ()
    unpack: Callable[[Arrays], Arrays] = same
    zero: str = ""


# Prefixes of wrapped, distilled and fine-tuned models; Meta's blocks in chunks.
_META = (
    (r"^(module\.)?(backbone\.|encoder\.)?(?=\w)", ""),
    (r"^blocks\.\d+\.(?=\d+\.)", "blocks."),
)
_HF = ((r"^(vit|deit|swin|dinov2|dinov2_with_registers|dinov3_vit|model)\.", ""),)
_TOWER = ((r"^vision_model\.", ""),)
_GOOGLE = ((r"^(params/)?(img/)?", ""),)

_SWIN_TABLE = r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table"
_QUERY = r"encoder\.layer\.0\.attention\.attention\.query\.weight"
_FUSED, _TOWER_QUERY = (
    r"blocks\.0\.attn\.qkv\.weight",
    r"encoder\.layers\.0\.self_attn\.q_proj\.weight",
)
_CLASS = r"embeddings\.class_embedding"
_ROTARY = r"rope_embed\.periods|storage_tokens"
_TIMM_GATES = r"blocks\.0\.mlp\.fc1_g\.weight"
_GATES = r"layer\.0\.mlp\.gate_proj\.weight"
_DINOV2_GATES = r"encoder\.layer\.0\.mlp\.weights_in\.weight"
_GOOGLE_QUERY = r"Transformer/encoderblock_0/MultiHeadDotProductAttention_{}/query/kernel"

FORMATS = {
    "converted": Format(
        (
            Rule("absolute_position", "absolute_position", fit=position_grid),
            Rule("(.*_bias_table)", r"\1", fit=bias_table),
            Rule("pos_embed", "pos_embed", fit=position_table),
            Rule("(.*)", r"\1"),
        ),
        ("patch_embed/proj/kernel",),
    ),
    "swin_microsoft": Format(
        swin.MICROSOFT, (_SWIN_TABLE, r"layers\.0\.downsample\..*"), rename=_META
    ),
    "swin_timm": Format(
        swin.TIMM, (_SWIN_TABLE, r"layers\.1\.downsample\..*"), (r"layers\.0\.downsample\..*",)
    ),
    "swin_transformers": Format(
        swin.TRANSFORMERS, (r"encoder\.layers\.0\.blocks\.0\.attention\..*",), rename=_HF
    ),
    "vit_timm": Format(vit.TIMM, (_FUSED, "pos_embed"), (_ROTARY,), _META),
    "vit_transformers": Format(
        vit.TRANSFORMERS, (_QUERY, r"encoder\.layer\.0\.layernorm_before\.weight"), rename=_HF
    ),
    "dinov2_transformers": Format(
        vit.DINOV2_TRANSFORMERS,
        (_QUERY, r"encoder\.layer\.0\.layer_scale1\.lambda1"),
        (_DINOV2_GATES,),
        _HF,
    ),
    "dinov2_gated_transformers": Format(
        vit.DINOV2_GATED_TRANSFORMERS, (_QUERY, _DINOV2_GATES), rename=_HF
    ),
    "dinov3_meta": Format(dinov3.META, (_FUSED, _ROTARY), rename=_META),
    "dinov3_timm": Format(
        dinov3.TIMM, (_FUSED, "reg_token"), ("pos_embed", _TIMM_GATES), _META, zero=dinov3.NO_BIAS
    ),
    "dinov3_gated_timm": Format(
        dinov3.GATED_TIMM,
        (_FUSED, "reg_token", _TIMM_GATES),
        ("pos_embed",),
        _META,
        zero=dinov3.NO_BIAS,
    ),
    "dinov3_transformers": Format(
        dinov3.TRANSFORMERS, (r"layer\.0\.attention\.q_proj\.weight",), (_GATES,), _HF
    ),
    "dinov3_gated_transformers": Format(
        dinov3.GATED_TRANSFORMERS, (r"layer\.0\.attention\.q_proj\.weight", _GATES), rename=_HF
    ),
    "clip_transformers": Format(vit.CLIP_TRANSFORMERS, (_TOWER_QUERY, _CLASS), rename=_TOWER),
    "siglip_transformers": Format(vit.SIGLIP_TRANSFORMERS, (_TOWER_QUERY,), (_CLASS,), _TOWER),
    "vision_transformer": Format(
        google.VISION_TRANSFORMER, (_GOOGLE_QUERY.format(1),), rename=_GOOGLE
    ),
    "big_vision": Format(
        google.BIG_VISION, (_GOOGLE_QUERY.format(0),), rename=_GOOGLE, unpack=google.unstacked
    ),
}


def renamed(arrays: Arrays, how: Format) -> dict[str, np.ndarray]:
    """Returns the arrays by the names that the rules of a format know."""
    return {_renamed(name, how): array for name, array in how.unpack(arrays).items()}


def _renamed(name, how):
    for pattern, replacement in how.rename:
        name = re.sub(pattern, replacement, name)
    return name


def _fits(names: Collection[str], how: Format) -> bool:
    def has(pattern):
        return any(re.fullmatch(pattern, name) for name in names)

    return all(map(has, how.marks)) and not any(map(has, how.without))


def recognise(arrays: Arrays) -> str:
    """Returns the key of `FORMATS` that a file is in.

    Raises:
      DataError: it is in none, or could be in several.
    """
    found = [key for key, how in FORMATS.items() if _fits(renamed(arrays, how), how)]
    if len(found) == 1:
        return found[0]
    first = ", ".join(list(arrays)[:3]) or "nothing"
    known = ", ".join(FORMATS)
    what = f"could be {' or '.join(found)}" if found else f"are in none of the formats {known}"
    raise DataError(f"{len(arrays)} arrays ({first}, ...) {what}.")


def load(arrays: Arrays, targets: Any, *, position_resize: str = "bicubic") -> Any:
    """Converts a file to the tree of a backbone's parameters.

    Args:
      arrays: the file, by name.
      targets: nested dict of the shapes of an unscanned backbone without adapters.
      position_resize: the backbone's, for a table of positions on another grid.

    Returns: a tree like `targets` of NumPy arrays.

    Raises:
      DataError: the format is not recognised, or the arrays do not fit; all unused, missing and
        misshapen ones are named.
    """
    key = recognise(arrays)
    how = FORMATS[key]
    fit = functools.partial(position_table, method=position_resize)
    table = [replace(r, fit=fit) if r.fit is position_table else r for r in how.rules]
    try:
        return convert(renamed(arrays, how), table, targets, zero=how.zero)
    except DataError as e:
        raise DataError(f"A file in the format {key}: {e}") from e


def fill(backbone: nnx.Module, tree: Any) -> None:
    """Gives a backbone without adapters, stacked or not, what `load` returned for it."""
    if getattr(backbone, "segments", None):
        tree = stack(tree, backbone.taps)
    state = nnx.state(backbone, nnx.Param)
    tree = jax.tree.map(jnp.asarray, tree, nnx.to_pure_dict(jax.tree.map(lambda x: x.dtype, state)))
    nnx.replace_by_pure_dict(state, tree)
    nnx.update(backbone, state)


def converted(arrays: Arrays) -> tuple[str, dict[str, np.ndarray]]:
    """Returns the key of a file's format, and its arrays by our paths, in the sizes they have.

    Raises:
      DataError: the format is not recognised, an array is of no use, or blocks differ.
    """
    key = recognise(arrays)
    how = FORMATS[key]
    tree = spread(renamed(arrays, how), how.rules)
    _check_blocks(key, tree)
    return key, tree


def _check_blocks(key, tree):
    """Asks every block to have what the first has."""
    blocks: dict[str, set[str]] = {}
    for path in tree:
        if match := re.fullmatch(r"((?:stages/\d+/)?blocks/\d+)/(.*)", path):
            blocks.setdefault(match[1], set()).add(match[2])
    whole = set.union(*blocks.values()) if blocks else set()
    lacking = [f"{block}/{rest}" for block, has in blocks.items() for rest in whole - has]
    if lacking:
        raise DataError(f"A file in the format {key} lacks {', '.join(sorted(lacking))}.")
