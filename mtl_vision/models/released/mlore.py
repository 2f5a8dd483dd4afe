"""The ViT checkpoints of MLoRE (YuqiYang213/MLoRE) as rules for `convert`."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mtl_vision.models.convert import Rule, torch_batch_norms, torch_convs, torch_norms, under
from mtl_vision.models.layouts import Join, last, scalar
from mtl_vision.models.pretrained import vit

_BLOCKS = (("MLoRE_1", "first"), ("MLoRE_2", "second"))

EXPERTS = 15  # in all that was released

# What the authors' model never reads, and ours does not have; the variants for ViT-B have these.
UNREAD = (Rule(r"q_fuse\..*", None), Rule(r"classify_route_[12]\..*", None))


# What no file holds: losses that every call makes anew. For the argument `zero` of `convert`.
LACKING = r".*/penalty"


def _pointwise(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[out, in, 1, 1]`` -> ``[in, out]``."""
    return array[..., 0, 0].T


def _dense(source: str, target: str) -> list[Rule]:
    """Weight and bias of 1x1 convolutions that are linear layers here."""
    return [
        Rule(rf"{source}\.weight", f"{target}/kernel", _pointwise),
        Rule(rf"{source}\.bias", f"{target}/bias"),
    ]


def _patches(array: np.ndarray) -> np.ndarray:
    """Position table ``[1, 1 + N, C]`` -> ``[N, C]``: the model has no class token to add 0 to."""
    return array[0, 1:]


def _rows(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts, 0)


def _places(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``[T, 1, h w]`` -> ``[T, h, w]``."""
    return array.reshape(shape) if array.size == np.prod(shape) else array


def _stacked(rules: Sequence[Rule], part: int, join: Join = np.stack) -> list[Rule]:
    return [replace(rule, part=part, join=join) for rule in rules]


def _shared(source: str, target: str, experts: int) -> list[Rule]:
    """Returns the rules of what the tasks share in the blocks `source`."""
    block, path = rf"{source}\.(\d)", rf"{target}/\1"
    rules = torch_convs(rf"{block}\.share_conv", f"{path}/shared")
    for i in range(experts):
        expert, to = rf"{block}\.lora_list_1\.{i}", f"{path}/experts"
        rules += [
            *_stacked(torch_convs(rf"{expert}\.W", f"{to}/down"), i, last),
            *_stacked([Rule(rf"{expert}\.M\.weight", f"{to}/up", _pointwise)], i, _rows),
            *_stacked([Rule(rf"{expert}\.M\.bias", f"{to}/up_bias")], i),
        ]
    return rules


def _own(source: str, target: str, kind: str) -> list[Rule]:
    """Returns the rules of what the task `kind` has in the blocks `source`."""
    block, path = rf"{source}\.(\d)", rf"{target}/\1"
    router, to = rf"{block}\.router_1\.{kind}", f"{path}/router"
    return [
        *_dense(rf"{block}\.conv1\.{kind}", f"{path}/enter"),
        *torch_convs(rf"{block}\.conv2\.{kind}\.W", f"{path}/task_down"),
        *_dense(rf"{block}\.conv2\.{kind}\.M", f"{path}/task_up"),
        *_dense(rf"{block}\.conv3\.{kind}", f"{path}/leave"),
        *torch_batch_norms(rf"{block}\.bn_all\.{kind}", f"{path}/experts_norm"),
        *torch_batch_norms(rf"{block}\.bn\.{kind}", f"{path}/norm"),
        *_dense(rf"{router}\.0\.conv1", f"{to}/near_in"),
        *torch_norms(rf"{router}\.0\.ln", f"{to}/near_norm"),
        *_dense(rf"{router}\.0\.conv3", f"{to}/near_out"),
        Rule(rf"{router}\.0\.convsp\.weight", f"{to}/places", fit=_places),
        Rule(rf"{router}\.0\.convsp\.bias", f"{to}/places_bias", scalar),
        *torch_norms(rf"{router}\.0\.ln_sp", f"{to}/far_norm"),
        *_dense(rf"{router}\.0\.conv2", f"{to}/far_out"),
        *_dense(rf"{router}\.1", f"{to}/out"),
    ]


def decoder(kinds: Sequence[str], experts: int = EXPERTS) -> tuple[Rule, ...]:
    """Returns the rules of the decoder `mlore` of one dataset, without ``backbone.``.

    Args:
      kinds: the tasks, in the order of the model; the file names them, in its own order.
      experts: how many a block has at most.
    """
    rules = [*UNREAD, *torch_convs(r"fea_fuse\.(\d)", r"fuse/\1")]
    for source, target in _BLOCKS:
        rules += _shared(source, target, experts)
        for t, kind in enumerate(kinds):
            rules += _stacked(_own(source, target, kind), t)
    for t, kind in enumerate(kinds):
        mask = rf"task_mask\.{kind}"
        own = [
            *_dense(rf"{mask}\.0", "join"),
            *torch_batch_norms(rf"{mask}\.1", "join_norm"),
            *torch_convs(rf"{mask}\.3", "vote"),
        ]
        rules += _stacked(own, t)
    return tuple(rules)


def heads(kinds: Sequence[str]) -> tuple[Rule, ...]:
    """Returns the rules of the prediction heads, without ``heads.``; see `decoder`."""
    rules = []
    for t, kind in enumerate(kinds):
        project = rf"{kind}\.mt_proj"
        mix = [
            *torch_convs(rf"{project}\.0", "mix"),
            *torch_batch_norms(rf"{project}\.1", "mix_norm"),
        ]
        rules += [
            *_stacked(mix, t),
            *_dense(rf"{kind}\.linear_pred", f"predict/{kind}"),
        ]
    return tuple(rules)


def checkpoint(kinds: Sequence[str], dataset: str, experts: int = EXPERTS) -> tuple[Rule, ...]:
    """Returns the rules of a whole `MultiTask` model: a ViT, unscanned, and the decoder `mlore`.

    The ViT has no class token, and the grids of its position table and of the routers are those of
    the file. Of the file's position table, the class token's row is dropped.

    Args:
      kinds: the tasks, in order.
      dataset: whose heads these become.
      experts: how many a block has at most.
    """
    target, source = f"decoder/heads/{dataset}", r"(?:module\.)?backbone\."
    positions = Rule(r"pos_embed", "pos_embed", _patches)
    return (
        *under((positions,), source, "backbone"),
        *under(decoder(kinds, experts), source, target),
        *under(vit.TIMM, source, "backbone"),
        *under(heads(kinds), r"(?:module\.)?heads\.", target),
    )
