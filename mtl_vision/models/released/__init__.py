"""Released checkpoints of other projects into our trees: rules for `convert`, by project."""

import re
from collections.abc import Collection, Sequence

from mtl_vision.models.convert import Rule
from mtl_vision.models.released import invpt, m3vit, mlore, mtlora, task_prompter

# A name that only files of a project have, and the function from kinds and dataset to their rules.
FAMILIES = (
    (r"(module\.)?multi_task_decoder\.invpt\..*", invpt.checkpoint),
    (r"(module\.)?backbone\.MLoRE_1\..*", mlore.checkpoint),
    (r"(module\.)?backbone\.task_prompts", task_prompter.checkpoint),
    (r"(module\.)?backbone\..*\.mlp\.experts\.htoh4\.weight", m3vit.checkpoint),
)
# Paths that a file may lack; they become zero.
LACKING = f"{mtlora.LACKING}|{mlore.LACKING}"


def checkpoint(names: Collection[str], kinds: Sequence[str], dataset: str) -> tuple[Rule, ...]:
    """Returns the rules of the project that a file is from: MTLoRA where no other is recognised.

    Args:
      names: of the arrays in the file.
      kinds: the tasks, in the order of the model.
      dataset: whose heads these become.
    """
    made = (make for name, make in FAMILIES if any(re.fullmatch(name, n) for n in names))
    return next(made, mtlora.checkpoint)(kinds, dataset)
