"""Adapters (arXiv 1902.00751), shared by tasks as in VL-Adapter (arXiv 2112.06825) or not."""

from typing import Any

from flax import nnx

from mtl_vision.errors import lookup
from mtl_vision.models.adapters.bottleneck import insert
from mtl_vision.models.adapters.inject import name_tasks
from mtl_vision.models.adapters.maps import SMALL, ZEROS, Dense
from mtl_vision.models.adapters.streams import open_streams
from mtl_vision.models.layers import Dtype

# Which maps all tasks share; the reference of VL-Adapter has the same four.
SHARES = {"all": (True, True), "down": (True, False), "up": (False, True), "none": (False, False)}


def owned(
    backbone: Any, tasks: int | tuple[str, ...], *, share: str, norm: str = "none"
) -> tuple[int, int]:
    """Names the tasks, opens their streams if anything is per task, in place.

    Returns: T for the map down and for that up, or 0 where all tasks share it.

    Raises:
      ConfigError: an unknown `share`, or tasks that differ from those before.
    """
    name_tasks(backbone, tasks)
    shared = lookup(SHARES, share, "adapter.share")
    if norm == "task" or not all(shared):
        open_streams(backbone, trunk=backbone.carried and bool(backbone.shared))
    down, up = (0 if yes else len(backbone.tasks) for yes in shared)
    return down, up


def adapter(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    sites: tuple[str, ...] = ("mlp",),
    ratio: int = 2,
    act: str = "gelu_tanh",
    norm: str = "shared",
    gain: float = 0.0,
    share: str = "all",
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts ``x + norm(act(x W1 + b1) W2 + b2)`` behind MLPs, in place.

    The function is the same until it is trained: norms start with the scale `gain` = 0 (the
    references have 1), and without norms W2 starts at zero.

    On Swin-T the defaults have 2,172,000 parameters, which the published "Adapter" counts once per
    task, for runs with one task each. "Shared Adapter", or VL-Adapter, is ``norm="task"``:
    2,198,496 for four tasks. The paper (arXiv 2210.03265) gives no settings; these reproduce its
    totals.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      sites: what it stands behind, of ``attn`` and ``mlp``.
      ratio: of the width of a block to that of the bottleneck.
      act: ``gelu_tanh``, ``swish`` or ``relu``.
      norm: ``none``, one ``shared`` by all tasks, or one per ``task``.
      gain: scale of the norms at the start.
      share: which of the two maps all tasks share: ``all``, ``down``, ``up`` or ``none``.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: an unknown name, or a ratio that does not divide a width.
    """
    down, up = owned(backbone, tasks, share=share, norm=norm)
    last = ZEROS if norm == "none" else SMALL

    def maps(C, d, rngs):
        make = dict(dtype=dtype, rngs=rngs)
        return Dense(C, d, tasks=down, **make), Dense(d, C, init=last, tasks=up, **make)

    options = dict(sites=sites, ratio=ratio, act=act, norm=norm, gain=gain)
    return insert(backbone, maps, **options, dtype=dtype, rngs=rngs)
