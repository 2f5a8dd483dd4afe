"""The ViT checkpoints of TaskPrompter (prismformore/Multi-Task-Transformer) as rules."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mtl_vision.models.convert import Rule, torch_batch_norms, torch_convs, torch_layers, under
from mtl_vision.models.pretrained import vit

# The order of the prompts in the file.
ORDER = ("semseg", "depth", "human_parts", "sal", "normals", "edge")


def _pointwise(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[out, in, 1, 1]`` -> ``[in, out]``."""
    return array[..., 0, 0].T


def _to_one(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[1, in, 1, 1]`` -> ``[in]``."""
    return array[0, :, 0, 0]


def _bias(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[1]`` -> ``[]``."""
    return array.reshape(())


def _stacked(rules: Sequence[Rule], part: int) -> list[Rule]:
    return [replace(rule, part=part, join=np.stack) for rule in rules]


def _features(kind: str, dataset: str) -> list[Rule]:
    """Returns the rules of what the task `kind` has at the taps."""
    fuse, weigh = rf"fea_fuse\.(\d)\.{kind}", rf"ctr_attn_conv\.(\d)\.{kind}"
    to = rf"tap/taps/\1/by_dataset/{dataset}"
    return [
        *torch_convs(rf"fea_decode_spa\.(\d)\.{kind}\.0", f"{to}/spatial"),
        *torch_convs(rf"fea_decode_chan\.(\d)\.{kind}\.0", f"{to}/channel"),
        *torch_convs(rf"{fuse}\.0", f"{to}/join"),
        *torch_convs(rf"{fuse}\.1", f"{to}/mix"),
        *torch_batch_norms(rf"{fuse}\.2", f"{to}/norm"),
        *torch_convs(rf"{fuse}\.4", f"{to}/out"),
        Rule(rf"{weigh}\.0\.weight", f"{to}/reweigh/hidden", _pointwise),
        Rule(rf"{weigh}\.0\.bias", f"{to}/reweigh/hidden_bias"),
        Rule(rf"{weigh}\.2\.weight", f"{to}/reweigh/out", _to_one),
        Rule(rf"{weigh}\.2\.bias", f"{to}/reweigh/out_bias", _bias),
    ]


def backbone(kinds: Sequence[str], dataset: str) -> tuple[Rule, ...]:
    """Returns the rules of the ViT with the adapter, without ``backbone.``; see `checkpoint`."""
    places = [kind for kind in ORDER if kind in kinds]
    order = [places.index(kind) for kind in kinds]
    pixels = rf"blocks/\1/attn/pixels/by_dataset/{dataset}"
    rules = [
        Rule("task_prompts", "entry/prompts", lambda array: array[order]),
        *torch_layers(r"blocks\.(\d+)\.attn\.token_trans", f"{pixels}/spread"),
        *torch_layers(r"blocks\.(\d+)\.attn\.token_trans1", f"{pixels}/gather"),
    ]
    for t, kind in enumerate(kinds):
        rules += _stacked(_features(kind, dataset), t)
    return (*rules, *vit.TIMM)


def heads(kinds: Sequence[str]) -> tuple[Rule, ...]:
    """Returns the rules of the decoder of one dataset, without ``heads.``; see `checkpoint`."""
    rules = []
    for t, kind in enumerate(kinds):
        project, predict = rf"{kind}\.mt_proj", rf"{kind}\.linear_pred"
        mix = [*torch_convs(rf"{project}\.0", "mix"), *torch_batch_norms(rf"{project}\.1", "norm")]
        rules += [
            *_stacked(mix, t),
            Rule(rf"{predict}\.weight", f"predict/{kind}/kernel", _pointwise),
            Rule(rf"{predict}\.bias", f"predict/{kind}/bias"),
        ]
    return tuple(rules)


def checkpoint(kinds: Sequence[str], dataset: str) -> tuple[Rule, ...]:
    """Returns the rules of a whole `MultiTask` model: adapter and decoder `task_prompter`.

    The ViT is unscanned, made with a class token, and the images have the size of the file's.

    Args:
      kinds: the tasks, in the order of the model; the file has its own.
      dataset: whose tasks these become, the only one of the model.
    """
    return (
        *under(backbone(kinds, dataset), r"(?:module\.)?backbone\.", "backbone"),
        *under(heads(kinds), r"(?:module\.)?heads\.", f"decoder/heads/{dataset}"),
    )
