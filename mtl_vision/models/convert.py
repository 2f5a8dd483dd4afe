"""Public weights into our trees, by ordered rules.

A rule says where the arrays whose name it matches go and how they change. Converting is strict:
every array is used or dropped by a rule on purpose, and every parameter is found.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from mtl_vision import rules as paths
from mtl_vision.errors import DataError
from mtl_vision.models.resize import matrix

Transform = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
Join = Callable[[Sequence[np.ndarray]], np.ndarray]


def same(array: np.ndarray) -> np.ndarray:
    """Returns the array."""
    return array


def linear(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[out, in]`` -> kernel ``[in, out]``."""
    return array.T


def conv(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[out, in, kh, kw]`` -> kernel ``[kh, kw, in, out]``."""
    return array.transpose(2, 3, 1, 0)


def first(array: np.ndarray) -> np.ndarray:
    """Drops a leading axis of size 1."""
    return array.reshape(array.shape[1:]) if array.shape[:1] == (1,) else array


def scalar(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[1]`` -> ``[]``."""
    return array.reshape(())


def last(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Joins arrays on the last axis; one alone may have none."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, -1)


def padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks arrays on a new first axis, each filled up with zeros to the largest."""
    shape = np.max([part.shape for part in parts], 0)
    return np.stack([np.pad(part, [(0, n) for n in shape - part.shape]) for part in parts])


def exact(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Changes nothing; a shape that differs is an error of the conversion."""
    del shape
    return array


def _resize_grid(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bicubic (a = -0.75) resize of ``[h, w, C]``, in float64."""
    rows, columns = (matrix(grid.shape[i], size[i], "bicubic") for i in range(2))
    wide = np.einsum("hp,wq,pqc->hwc", rows, columns, grid.astype(np.float64))
    return wide.astype(grid.dtype)


def _side(count: int) -> int | None:
    side = int(round(max(count, 0) ** 0.5))
    return side if side * side == count else None


def bias_table(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resizes a relative position bias table ``[(2w - 1)^2, heads]`` to another window."""
    source, target = _side(array.shape[0]), _side(shape[0])
    if array.shape == shape or source is None or target is None:
        return array
    grid = array.reshape(source, source, -1)
    return _resize_grid(grid, (target, target)).reshape(target**2, -1)


def position_table(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resizes ``[1 + n*n, C]``, class token first, to another square grid."""
    source, target = _side(array.shape[0] - 1), _side(shape[0] - 1)
    if array.shape == shape or source is None or target is None:
        return array
    grid = _resize_grid(array[1:].reshape(source, source, -1), (target, target))
    return np.concatenate([array[:1], grid.reshape(target**2, -1)])


def position_grid(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``[n, C]`` of the wanted grid or, to be resized, of a square one -> ``[h, w, C]``."""
    if len(shape) != 3:
        return array
    if array.shape[0] == shape[0] * shape[1]:
        return array.reshape(*shape[:2], -1)
    source = _side(array.shape[0])
    return array if source is None else _resize_grid(array.reshape(source, source, -1), shape[:2])


@dataclass(frozen=True)
class Rule:
    """Where arrays of a public file go.

    Attributes:
      pattern: regex that matches a whole name.
      path: template of the target path, with ``\\1`` for groups; None drops the array.
      transform: changes layout, whatever the target's shape.
      part: of targets made of several arrays, such as a fused qkv: this one's place among them.
      join: how these become one.
      fit: changes size to the target's shape, where a table may be resized.
    """

    pattern: str
    path: str | None
    transform: Transform = same
    part: int = 0
    join: Join = last
    fit: Fit = exact


def convert(
    arrays: Mapping[str, np.ndarray], table: Sequence[Rule], targets: Any, *, zero: str = ""
) -> Any:
    """Converts named arrays to the tree of a module's parameters.

    Args:
      arrays: the public file, by name.
      table: rules; the first that matches a name decides.
      targets: nested dict of anything with a shape, such as `jax.ShapeDtypeStruct`.
      zero: regex of paths that are zero where the file has nothing for them; "" for none.

    Returns: a tree like `targets` of NumPy arrays.

    Raises:
      DataError: arrays that no rule or no target takes, targets without an array, shapes that
        differ, or arrays of other than finite real numbers; all of them in one message.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in paths.flatten(targets).items()}
    found, unused = _gather(arrays, table, shapes)
    made, faults = {}, []
    for path, shape in shapes.items():
        if path not in found:
            if re.fullmatch(zero, path):
                made[path] = np.zeros(shape, np.float32)
            continue
        parts, rule = found[path]
        array = rule.fit(rule.join([parts[i] for i in sorted(parts)]), shape)
        made[path] = array
        faults += unfit(path, array, shape)
    missing = [path for path in shapes if path not in found and path not in made]
    _report(unused, missing, faults)
    return paths.map_with_path(lambda path, _: made[path], targets)


def unfit(path: str, array: np.ndarray, shape: tuple[int, ...]) -> list[str]:
    """Says why an array cannot become the parameter at `path`, if it cannot."""
    if array.shape != shape:
        return [f"{path} is {array.shape} and should be {shape}"]
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return [f"{path} is {array.dtype} and should be of real numbers"]
    return [] if np.isfinite(array).all() else [f"{path} is not finite"]


def _gather(arrays, table, shapes):
    """Returns ({path: ({part: array}, rule)}, names of arrays with no use)."""
    compiled = [(re.compile(rule.pattern), rule) for rule in table]
    found, unused = {}, []
    for name, array in arrays.items():
        match, rule = next(((m, r) for p, r in compiled if (m := p.fullmatch(name))), (None, None))
        if rule is not None and rule.path is None:
            continue
        path = match.expand(rule.path) if match else None
        if path not in shapes:
            unused.append(name)
            continue
        parts, _ = found.setdefault(path, ({}, rule))
        if rule.part in parts:
            unused.append(name)
        else:
            parts[rule.part] = rule.transform(np.asarray(array))
    return found, unused


def _report(unused, missing, faults):
    listed = [
        f"{len(names)} {what} ({', '.join(names)})"
        for names, what in ((unused, "arrays unused"), (missing, "missing"), (faults, "unfit"))
        if names
    ]
    if listed:
        raise DataError(f"The weights do not fit the model: {'; '.join(listed)}.")


def under(table: Sequence[Rule], source: str, target: str) -> tuple[Rule, ...]:
    """Returns `table` for names below ``source`` and paths below ``target/``.

    Args:
      table: rules of a part of the model.
      source: regex without groups, such as ``backbone\\.``.
      target: path of the part.
    """
    return tuple(
        replace(
            rule,
            pattern=f"{source}(?:{rule.pattern})",
            path=None if rule.path is None else f"{target}/{rule.path}",
        )
        for rule in table
    )


def torch_layers(source: str, target: str) -> list[Rule]:
    """Weight and bias of linear layers whose names `source` matches."""
    return [
        Rule(rf"{source}\.weight", f"{target}/kernel", linear),
        Rule(rf"{source}\.bias", f"{target}/bias"),
    ]


def torch_norms(source: str, target: str) -> list[Rule]:
    return [
        Rule(rf"{source}\.weight", f"{target}/scale"),
        Rule(rf"{source}\.bias", f"{target}/bias"),
    ]


def torch_convs(source: str, target: str) -> list[Rule]:
    return [
        Rule(rf"{source}\.weight", f"{target}/kernel", conv),
        Rule(rf"{source}\.bias", f"{target}/bias"),
    ]


def torch_batch_norms(source: str, target: str) -> list[Rule]:
    return [
        *torch_norms(source, target),
        Rule(rf"{source}\.running_(mean|var)", rf"{target}/\{re.compile(source).groups + 1}"),
        Rule(rf"{source}\.num_batches_tracked", None),
    ]


# microsoft/Swin-Transformer and scale-lab/MTLoRA, without the prefix ``backbone.``.
SWIN_MICROSOFT = (
    *torch_convs(r"patch_embed\.proj", "patch_embed/proj"),
    *torch_norms(r"patch_embed\.norm", "patch_embed/norm"),
    Rule(r"absolute_pos_embed", "absolute_position", first, fit=position_grid),
    Rule(r".*\.(attn_mask|relative_position_index)", None),
    Rule(
        r"layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table",
        r"stages/\1/blocks/\2/attn/relative_position_bias_table",
        fit=bias_table,
    ),
    *torch_layers(
        r"layers\.(\d+)\.blocks\.(\d+)\.(attn|mlp)\.(qkv|proj|fc1|fc2)",
        r"stages/\1/blocks/\2/\3/\4",
    ),
    *torch_norms(r"layers\.(\d+)\.blocks\.(\d+)\.(norm1|norm2)", r"stages/\1/blocks/\2/\3"),
    *torch_layers(r"layers\.(\d+)\.downsample\.reduction", r"stages/\1/merging/reduction"),
    *torch_norms(r"layers\.(\d+)\.downsample\.norm", r"stages/\1/merging/norm"),
    Rule(r"(norm|head)\.(weight|bias)", None),
)

_HF_BLOCK = r"encoder\.layers\.(\d+)\.blocks\.(\d+)"
_BLOCK = r"stages/\1/blocks/\2"
# transformers' SwinBackbone, safetensors names without the prefix ``swin.``.
SWIN_TRANSFORMERS = (
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
    Rule(r"(swin\.)?(layernorm|pooler|classifier)\..*", None),
)

# timm's VisionTransformer.
VIT_TIMM = (
    *torch_convs(r"patch_embed\.proj", "patch_embed/proj"),
    Rule(r"cls_token", "cls_token", first),
    Rule(r"reg_token", "register_tokens", first),
    Rule(r"pos_embed", "pos_embed", first, fit=position_table),
    *torch_layers(r"blocks\.(\d+)\.(attn|mlp)\.(qkv|proj|fc1|fc2)", r"blocks/\1/\2/\3"),
    *torch_norms(r"blocks\.(\d+)\.(norm1|norm2)", r"blocks/\1/\2"),
    Rule(r"blocks\.(\d+)\.ls([12])\.gamma", r"blocks/\1/scale\2/gamma"),
    *torch_norms(r"norm", "norm"),
    Rule(r"(head|pre_logits|fc_norm)\..*", None),
)
