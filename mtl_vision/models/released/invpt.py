"""The ViT checkpoints of InvPT (prismformore/Multi-Task-Transformer) as rules for `convert`."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mtl_vision.models.convert import (
    Rule,
    torch_batch_norms,
    torch_convs,
    torch_layers,
    torch_norms,
    under,
)
from mtl_vision.models.layouts import Join, conv, last
from mtl_vision.models.pretrained import vit

# The order in which the file numbers its tasks.
ORDER = ("semseg", "depth", "human_parts", "sal", "normals", "edge")

_STAGE = r"invpt\.invpt_stages\.(\d)"
_BLOCK = rf"{_STAGE}\.blocks\.0"

# What the authors' model never reads, and ours does not have.
UNREAD = (
    Rule(r"scale_embed\.2\..*", None),
    Rule(r"invpt\.redu_chan\.0\..*", None),
    Rule(r"invpt\.norm_mt\..*", None),
    Rule(r"invpt\.invpt_stages\.0\.blocks\.0\.attn\.fuse_attn\..*", None),
)


def _deconv(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[in, out, kh, kw]`` -> kernel ``[kh, kw, in, out]``."""
    return array.transpose(2, 3, 0, 1)


def _pointwise(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[out, in, 1, 1]`` -> kernel ``[in, out]``."""
    return array[..., 0, 0].T


# What exists once.
SHARED = (
    Rule(r"scale_embed\.0\.weight", "skips/1/kernel", _deconv),
    Rule(r"scale_embed\.0\.bias", "skips/1/bias"),
    *torch_convs(r"scale_embed\.1", "skips/0"),
    *torch_norms(rf"{_BLOCK}\.(norm[12])", r"stages/\1/block/\2"),
    *torch_layers(rf"{_BLOCK}\.attn\.proj", r"stages/\1/block/attn/proj"),
    *(
        rule
        for letter, ours in (("q", "query"), ("k", "key"), ("v", "value"))
        for rule in torch_layers(rf"{_BLOCK}\.attn\.proj_{letter}", rf"stages/\1/block/attn/{ours}")
    ),
    Rule(rf"{_BLOCK}\.attn\.fuse_attn\.weight", r"stages/\1/block/attn/fuse/kernel", _pointwise),
    Rule(rf"{_BLOCK}\.attn\.fuse_attn\.bias", r"stages/\1/block/attn/fuse/bias"),
    *torch_layers(rf"{_BLOCK}\.mlp\.(fc[12])", r"stages/\1/block/mlp/\2"),
)


def _joined(rules: Sequence[Rule], part: int, join: Join) -> list[Rule]:
    return [replace(rule, part=part, join=join) for rule in rules]


def _task(t: int, kind: str, number: int) -> list[Rule]:
    """Returns the rules of the task at place `t`, which the file calls `kind` or `number`."""
    one = rf"preliminary_decoder\.{kind}"
    up, query = rf"{_STAGE}\.patch_embed\.{number}\.proj", rf"{_BLOCK}\.attn\.conv_proj_q\.{number}"
    project = rf"invpt\.mt_proj\.{kind}"
    stacked = [
        Rule(rf"{one}\.0\.conv\.weight", "preliminary/hidden/conv/kernel", conv),
        Rule(rf"{one}\.1\.conv\.weight", "preliminary/feature/conv/kernel", conv),
        Rule(rf"{up}\.1\.weight", r"stages/\1/up1/conv/kernel", conv),
        Rule(rf"{up}\.4\.weight", r"stages/\1/up2/conv/kernel", conv),
        *torch_convs(rf"invpt\.redu_chan\.(\d)\.{number}", r"mix/widen/\1"),
        *torch_convs(rf"{project}\.0", "mix/conv"),
        *torch_batch_norms(rf"{project}\.1", "mix/norm"),
    ]
    beside = [  # tasks next to each other as channels
        *torch_batch_norms(rf"{one}\.0\.bn1", "preliminary/hidden/norm"),
        *torch_batch_norms(rf"{one}\.1\.bn1", "preliminary/feature/norm"),
        *torch_batch_norms(rf"{up}\.2", r"stages/\1/up1/norm"),
        *torch_batch_norms(rf"{up}\.5", r"stages/\1/up2/norm"),
        Rule(rf"{query}\.conv\.weight", r"stages/\1/block/attn/query_conv/kernel", conv),
        *torch_batch_norms(rf"{query}\.bn", r"stages/\1/block/attn/query_norm"),
    ]
    return [
        *_joined(stacked, t, np.stack),
        *_joined(beside, t, last),
        *torch_convs(rf"intermediate_head\.{kind}", f"preliminary/predict/{t}"),
        *torch_convs(rf"invpt\.mix_proj\.{kind}\.0", f"preliminary/mix/{t}"),
    ]


def heads(kinds: Sequence[str]) -> tuple[Rule, ...]:
    """Returns the rules of the decoder of one dataset, without ``multi_task_decoder.``.

    Args:
      kinds: the tasks, in the order of the model; the file has its own.
    """
    places = [kind for kind in ORDER if kind in kinds]
    order = [places.index(kind) for kind in kinds]

    def by_task(array: np.ndarray) -> np.ndarray:  # [T C] of the file -> [T, C] of the model
        return array.reshape(len(order), -1)[order]

    norms = torch_norms(r"invpt\.norm_mts\.(\d)", r"stages/\1/norm")
    rules = [*UNREAD, *SHARED, *(replace(rule, transform=by_task) for rule in norms)]
    for t, kind in enumerate(kinds):
        rules += _task(t, kind, order[t])
    return tuple(rules)


def checkpoint(kinds: Sequence[str], dataset: str) -> tuple[Rule, ...]:
    """Returns the rules of a whole `MultiTask` model: a ViT, unscanned, and the decoder `invpt`.

    Args:
      kinds: the tasks, in order.
      dataset: whose heads these become.
    """
    target = f"decoder/heads/{dataset}"
    predict = torch_convs(r"(\w+)\.linear_pred", r"predict/\1")
    return (
        *under(vit.TIMM, r"(?:module\.)?backbone\.", "backbone"),
        *under(predict, r"(?:module\.)?heads\.", target),
        *under(heads(kinds), r"(?:module\.)?multi_task_decoder\.", target),
    )
