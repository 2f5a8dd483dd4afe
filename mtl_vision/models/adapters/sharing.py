"""How tasks share what an adapter adds: one set for all, some per task, or one set per task.

- ``all``: one set of parameters; the backbone runs once.
- ``last``: beside it one set per task in the last block of a stage, in all sites behind the
  attention. The task streams open there and end with the stage, as MTLoRA's do.
- ``none``: one set per task everywhere; a stream per task runs through the whole backbone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models.adapters.inject import Place, name_tasks
from mtl_vision.models.adapters.streams import end_streams, open_streams, task_streams
from mtl_vision.models.layers import Identity

SHARES = ("all", "last", "none")


class Owners(NamedTuple):
    """Who has parameters in a layer.

    Attributes:
      common: whether there are some for the shared stream.
      tasks: for how many tasks there are some of their own, 0 for none.
      shared: leading streams of the activations that belong to all tasks, once streams are open.
      carried: whether streams enter every block, opened by an adapter before.
    """

    common: bool
    tasks: int
    shared: int
    carried: bool = False

    @property
    def mixed(self) -> bool:
        """Whether shared parameters and a task's own stand side by side."""
        return self.common and self.tasks > 0


Owned = Callable[..., Owners]


def share_streams(backbone: Any, tasks: int | tuple[str, ...], share: str) -> Owned:
    """Names the tasks and prepares the streams of `backbone`, in place, before the edit.

    Args:
      backbone: Swin or ViT.
      tasks: their names in order, or their number.
      share: one of `SHARES`.

    Returns: ``(place, late) -> Owners`` of a layer; `late` says that it stands behind the
      attention. Without a place the layer is outside of the blocks.

    Raises:
      ConfigError: an unknown `share`, a backbone whose shared stream has ended, or an adapter
        before that makes streams of its own kind.
    """
    lookup(dict.fromkeys(SHARES), share, "adapter.share")
    name_tasks(backbone, tasks)
    if share == "none":
        open_streams(backbone, trunk=False)
    elif share == "last":
        remedy = "put it first, or use share='none'"
        end_streams(backbone, "an adapter with share='last'", remedy)
    count, shared = len(backbone.tasks), backbone.shared

    def owned(place: Place | None = None, late: bool = False) -> Owners:
        if share == "none":
            return Owners(False, count, shared)
        last = share == "last" and late and place is not None and place.last
        return Owners(True, count if last else 0, shared, backbone.carried)

    return owned


def per_stream(
    x: jax.Array, owners: Owners, common: nnx.Module | None, own: nnx.Module | None
) -> jax.Array:
    """Applies `common` to the shared stream and `own` to those of the tasks.

    Without `own`, `common` meets all streams; without `common` the shared one stays as it is.

    Args:
      x: ``[S, ..., C]`` with S = 1 or the number of all streams.
      owners: says which streams there are.
      common: ``[S, ..., C]`` -> ``[S, ..., D]``, or None.
      own: ``[T, ..., C]`` -> ``[T, ..., D]``, or None.
    """
    common = common or Identity()
    if own is None:
        return common(x)
    tasks = own(task_streams(x, owners.shared, own.tasks))
    return jnp.concatenate([common(x[:1]), tasks]) if owners.shared else tasks


def foldable(owners: Owners, own: nnx.Module | None) -> bool:
    """Says whether all streams are treated alike, so that an adapter folds into its layer."""
    return own is None or (not owners.shared and own.tasks == 1)


def per_channel(vector: jax.Array, x: jax.Array, tasks: int) -> jax.Array:
    """Returns ``[C]``, or ``[T, C]`` if `tasks`, with the axes to broadcast against `x`."""
    return jax.lax.expand_dims(vector, range(bool(tasks), bool(tasks) + x.ndim - vector.ndim))


def columns(vector: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns ``[..., D]``, stacked or not, with the axes to broadcast against ``[..., C, D]``."""
    lead = vector.ndim - 1
    return jax.lax.expand_dims(vector, range(lead, lead + kernel.ndim - vector.ndim))


def plain(layer: nnx.Module, adapter: str) -> nnx.Module:
    """Returns a layer whose weight an adapter reads.

    Raises:
      ConfigError: another adapter has wrapped it.
    """
    if not hasattr(layer, "kernel"):
        raise ConfigError(
            f"config.adapter: {adapter} needs the weight of a layer that another adapter has "
            f"wrapped; put {adapter} first."
        )
    return layer
