"""Putting adapters into a built backbone: Swin or ViT, blocks in a loop or stacked."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.blocks import Block
from mtl_vision.models.layers import Identity


class Place(NamedTuple):
    """Where a block is.

    Attributes:
      stage: of Swin, or what lies between two taps of a ViT; from 0.
      index: of the block within the stage; of stacked blocks the first's.
      last: whether it ends the stage. Stacked blocks never do; `ViT.detach` takes the last out.
    """

    stage: int
    index: int
    last: bool


Edit = Callable[[Block, Place, nnx.Rngs], Block | None]


def edit_blocks(backbone: Any, edit: Edit, *, rngs: nnx.Rngs) -> None:
    """Calls ``edit(block, place, rngs)`` on all blocks in order.

    It changes them in place, or returns what stands in the place of a block from then on.

    Stacked blocks are edited under `jax.vmap`: `edit` sees one block, and what it adds gets the
    leading axis of the stack and starts differently in each.

    Args:
      backbone: Swin or ViT.
      edit: replaces layers of a block, see `wrap`, or the whole.
      rngs: of the parameters.
    """
    if getattr(backbone, "scan", False):
        _edit_stacks(backbone, edit, rngs)
        return
    for i, (blocks, indices) in enumerate(_stages(backbone)):
        for j in indices:
            place = Place(i, j - indices.start, j == indices.stop - 1)
            blocks[j] = _edited(blocks[j], edit, place, rngs)


def _stages(backbone):
    """Returns for every stage the list that holds its blocks, and where in it they are."""
    if hasattr(backbone, "stages"):
        return [(stage.blocks, range(len(stage.blocks))) for stage in backbone.stages]
    cuts = zip((0, *backbone.taps), backbone.taps, strict=False)
    return [(backbone.blocks, range(start, stop)) for start, stop in cuts]


def _edit_stacks(backbone, edit, rngs):
    for i, stack in enumerate(backbone.segments):
        count = 0
        if not isinstance(stack, Identity):
            count = jax.tree.leaves(stack)[0].shape[0]
            keys = jax.random.split(rngs.params(), count)
            backbone.segments[i] = _edited_stack(stack, edit, Place(i, 0, False), keys)
        if len(backbone.tails):
            place = Place(i, count, True)
            backbone.tails[i] = _edited(backbone.tails[i], edit, place, rngs)


def _edited_stack(stack, edit, place, keys):
    def one(block, key):
        return _edited(block, edit, place, nnx.Rngs(params=key))

    return jax.vmap(one)(stack, keys)


def _edited(block, edit, place, rngs):
    made = edit(block, place, rngs)
    return block if made is None else made


def wrap(module: nnx.Module, site: str, make: Callable[[nnx.Module], nnx.Module]) -> None:
    """Puts ``make(layer)`` in the place of the layer at the dotted path `site`, in place."""
    *holders, name = site.split(".")
    for holder in holders:
        module = getattr(module, holder)
    setattr(module, name, make(getattr(module, name)))


def widths(layer: nnx.Module) -> tuple[int, int]:
    """Returns (C, D) of a linear layer, however often it is wrapped."""
    while hasattr(layer, "linear"):
        layer = layer.linear
    return layer.kernel.shape


def name_tasks(backbone: Any, tasks: int | tuple[str, ...]) -> None:
    """Writes the tasks that an adapter serves to ``backbone.tasks``.

    Args:
      backbone: Swin or ViT.
      tasks: their names in order, ``dataset/kind`` where there are several datasets, or their
        number.

    Raises:
      ConfigError: an adapter before was given others.
    """
    names = tuple(map(str, range(tasks))) if isinstance(tasks, int) else tuple(tasks)
    if backbone.tasks not in ((), names):
        raise ConfigError(
            f"config.adapter: the tasks are {', '.join(names)}, but an adapter before was built "
            f"for {', '.join(backbone.tasks)}; give all the same."
        )
    backbone.tasks = names


def merged(layer: nnx.Module) -> nnx.Module:
    """Returns what a layer becomes when adapters are folded in: itself, if it cannot."""
    return layer.merged() if hasattr(layer, "merged") else layer


def merge(module: nnx.Module) -> nnx.Module:
    """Folds adapters into the layers they wrap, where that is exact, for inference.

    A layer that can be folded has a method ``merged() -> layer``, which also works on stacked
    parameters and may change the layer.

    Args:
      module: a backbone or a whole model; it is not changed.

    Returns: a copy that computes the same up to rounding.
    """

    def fold(part):
        for name, child in list(nnx.iter_children(part)):
            if hasattr(child, "merged"):
                setattr(part, name, merged(child))
            elif isinstance(child, nnx.Module):
                fold(child)

    made = nnx.clone(module)
    fold(made)
    return made
