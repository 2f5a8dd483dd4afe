"""The checkpoints of VITA-Group/M3ViT into our trees: rules for `convert`.

Their folders have a file per rank, with that rank's experts: join these on axis 0 first.
"""

from collections.abc import Sequence

import numpy as np

from mtl_vision.models.convert import (
    Rule,
    torch_batch_norms,
    torch_convs,
    torch_norms,
    under,
)
from mtl_vision.models.pretrained import vit

ORDER = ("semseg", "human_parts", "sal", "normals", "edge", "depth")  # of the gates in a file

# The heads, onto those of one dataset. The file has more for training, which we do not have.
HEADS = (
    *torch_norms(r"decoders\.(\w+)\.norm", r"\1/norm"),
    *torch_convs(r"decoders\.(\w+)\.conv_([0-3])", r"\1/convs/\2"),
    *torch_batch_norms(r"decoders\.(\w+)\.syncbn_fc_(\d)", r"\1/norms/\2"),
    *torch_convs(r"decoders\.(\w+)\.conv_4", r"\1/predict"),
    Rule(r"tam_model\d\..*", None),
)


def transposed(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[E, out, in]`` -> kernels ``[E, in, out]``."""
    return array.swapaxes(1, 2)


def by_task(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks the tasks' arrays on a new first axis."""
    return np.stack(parts)


def backbone(names: Sequence[str]) -> tuple[Rule, ...]:
    """Returns the rules of the backbone with `m3vit`: a gate per task, or one for all.

    Args:
      names: of the tasks in the file, in the order of the model.
    """
    mlp, ours = r"blocks\.(\d+)\.mlp", r"blocks/\1/mlp"
    rules = [
        *(
            rule
            for name, layer in (("htoh4", "fc1"), ("h4toh", "fc2"))
            for rule in (
                Rule(
                    rf"{mlp}\.experts\.{name}\.weight", f"{ours}/experts/{layer}/kernel", transposed
                ),
                Rule(rf"{mlp}\.experts\.{name}\.bias", f"{ours}/experts/{layer}/bias"),
            )
        )
    ]
    for source, target in (("w_gate", "kernel"), ("w_noise", "noise")):
        rules.append(Rule(rf"{mlp}\.gate\.{source}", f"{ours}/gate/{target}"))
    for t, name in enumerate(names):
        task = dict(part=t, join=by_task)
        rules += [
            Rule(rf"{mlp}\.gate\.{name}\.w_gate", f"{ours}/gate/kernel", **task),
            Rule(rf"{mlp}\.gate\.{name}\.w_noise", f"{ours}/gate/noise", **task),
        ]
    return (*rules, *vit.TIMM)


def checkpoint(kinds: Sequence[str], dataset: str) -> tuple[Rule, ...]:
    """Returns the rules of a whole `MultiTask` model: a ViT with `m3vit`, and heads `pup`.

    Args:
      kinds: the tasks, in order. The file numbers its gates, in an order of its own.
      dataset: whose heads these become.
    """
    theirs = [kind for kind in ORDER if kind in kinds]
    gates = [str(theirs.index(kind)) for kind in kinds]
    return (
        *under(backbone(gates), r"(?:module\.)?backbone\.", "backbone"),
        *under(HEADS, r"(?:module\.)?", f"decoder/heads/{dataset}"),
    )
