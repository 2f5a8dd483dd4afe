"""The checkpoints of VITA-Group/M3ViT into our trees: rules for `convert`.

Their files are one per rank, with that rank's experts: join these on axis 0 first.
"""

from collections.abc import Sequence

import numpy as np

from mtl_vision.models.convert import Rule
from mtl_vision.models.pretrained import vit


def transposed(array: np.ndarray) -> np.ndarray:
    """PyTorch's ``[E, out, in]`` -> kernels ``[E, in, out]``."""
    return array.swapaxes(1, 2)


def by_task(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks the tasks' arrays on a new first axis."""
    return np.stack(parts)


def backbone(names: Sequence[str]) -> tuple[Rule, ...]:
    """Returns the rules of the backbone with `m3vit`, one gate per task.

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
    for t, name in enumerate(names):
        task = dict(part=t, join=by_task)
        rules += [
            Rule(rf"{mlp}\.gate\.{name}\.w_gate", f"{ours}/gate/kernel", **task),
            Rule(rf"{mlp}\.gate\.{name}\.w_noise", f"{ours}/gate/noise", **task),
        ]
    return (*rules, *vit.TIMM)
