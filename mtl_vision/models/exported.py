"""Trained backbones under the names that others give them: without adapters, as arrays by name."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from mtl_vision import rules
from mtl_vision.errors import ConfigError, DataError
from mtl_vision.models import adapters, pretrained
from mtl_vision.models.adapters.inject import merge
from mtl_vision.models.convert import invert
from mtl_vision.models.stacks import unstack

# Formats by library, in the order in which they are tried.
LIBRARIES = {
    "timm": ("swin_timm", "vit_timm", "dinov3_timm", "dinov3_gated_timm"),
    "hf": (
        "swin_transformers",
        "siglip_transformers",  # a ViT without a class token
        "vit_transformers",
        "dinov2_transformers",
        "dinov2_gated_transformers",
        "clip_transformers",
        "dinov3_transformers",
        "dinov3_gated_transformers",
    ),
}
# What no array shows: formats of models with rotary positions, whose MLP is gated, or may be.
ROTARY = ("dinov3_meta", *LIBRARIES["timm"][2:], *LIBRARIES["hf"][6:])
GATED = ("dinov2_gated_transformers", "dinov3_gated_timm", "dinov3_gated_transformers")
EITHER = ("vit_timm", "dinov3_meta")


def parameters(backbone: nnx.Module, added: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the parameters of a backbone, its adapters folded in and its blocks in a row.

    Args:
      backbone: Swin or ViT; it is not changed.
      added: names of its adapters, for the message.

    Returns: nested dict of NumPy arrays.

    Raises:
      ConfigError: something of the adapters cannot be folded into the layers they wrap.
    """
    folded = merge(backbone)
    left = {
        "/".join(map(str, path)): type(module).__name__
        for path, module in nnx.iter_modules(folded)
        if type(module).__module__.startswith(f"{adapters.__name__}.")
    }
    if left:
        path, name = next(iter(left.items()))
        raise ConfigError(
            f"config.adapter: {', '.join(added)} cannot be folded into the backbone; {len(left)} "
            f"modules remain, first {name} at {path}. Export it as native."
        )
    tree = nnx.to_pure_dict(nnx.state(folded, nnx.Param))
    tree = unstack(tree) if "segments" in tree else tree
    return jax.tree.map(np.asarray, tree)


def export(tree: dict[str, Any], library: str) -> tuple[str, dict[str, np.ndarray]]:
    """Returns a backbone's parameters by the names of a library, and the format of these.

    What the library's model has besides, such as a classifier, is not there, nor are tables that it
    computes. Reading the arrays again gives the same parameters, bit for bit.

    Args:
      tree: of `parameters`.
      library: a key of `LIBRARIES`, or of `pretrained.FORMATS`.

    Raises:
      ConfigError: no format of the library has a place for all parameters.
    """
    reasons = []
    for key in LIBRARIES.get(library, (library,)):
        if not _possible(tree, key):
            reasons.append(f"{key} has other positions or another MLP.")
            continue
        try:
            arrays = invert(tree, pretrained.FORMATS[key].rules)
            arrays = _with_biases(key, arrays) | _positions(tree, key, arrays)
            _compare(tree, key, arrays)
            return key, arrays
        except DataError as e:
            reasons.append(f"{key}: {e}")
    raise ConfigError(f"no format of {library} fits the backbone. {' '.join(reasons)}"[:2000])


def _possible(tree, key):
    if "blocks" not in tree or key == "converted":
        return True
    mlp = tree["blocks"][0]["mlp"]
    gated = mlp["fc1"]["kernel"].shape[1] == 2 * mlp["fc2"]["kernel"].shape[0]
    rotary = "pos_embed" not in tree
    return rotary == (key in ROTARY) and (key in EITHER or gated == (key in GATED))


def _with_biases(key, arrays):
    """Leaves biases of queries and values out if all are zero: most of timm's DINOv3 have none."""
    biases = [name for name in arrays if name.endswith((".q_bias", ".v_bias"))]
    if key not in LIBRARIES["timm"] or any(arrays[name].any() for name in biases):
        return arrays
    return {name: x for name, x in arrays.items() if name not in biases}


def _positions(tree, key, arrays):
    """Leaves positions of tokens out that are zero: timm's DeiT III and ViTs with registers do."""
    if key != "vit_timm" or "cls_token" not in tree:
        return {}
    tokens, table = len(tree["cls_token"]), arrays["pos_embed"]
    if not table[:, :tokens].any():
        return {"pos_embed": np.ascontiguousarray(table[:, tokens:])}
    if "register_tokens" in tree:
        raise DataError("beside registers its class token has no position, which must be zero.")
    return {}


def _compare(tree, key, arrays):
    """Reads the arrays as a file of theirs is read."""
    if (found := pretrained.recognise(arrays)) != key:
        raise DataError(f"its files would be taken for {found}.")
    expected, again = (rules.flatten(t) for t in (tree, pretrained.load(arrays, tree)))
    for path, array in expected.items():
        if not np.array_equal(array, again[path]):
            raise DataError(f"{path} would be read as something else.")
