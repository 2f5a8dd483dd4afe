"""TAPS: every task learns which layers to change (arXiv 2203.16708).

A layer of task t has the weight ``W + 1[s_t >= 0.1] D_t``: a change D_t, and a score s_t that says
whether it counts. The scores are kept small by a penalty, see `ScorePenalty`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.adapters.inject import edit_blocks, merged, widths, wrap
from mtl_vision.models.adapters.low_rank import TaskLowRank
from mtl_vision.models.adapters.options import Numbers, per_stage
from mtl_vision.models.adapters.sharing import Owners, foldable, share_streams
from mtl_vision.models.adapters.streams import task_axis, task_streams
from mtl_vision.models.layers import Dtype, Penalty, TaskParam, compute_type

SITES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
THRESHOLD, START = 0.1, 0.15


def indicator(score: jax.Array) -> jax.Array:
    """Returns ``1[s >= 0.1]``, with the gradient of s itself (straight through)."""
    active = (score >= THRESHOLD).astype(score.dtype)
    return active + score - jax.lax.stop_gradient(score)


class Change(nnx.Module):
    """``f_t x_t D_t`` for every task: ``[T, ..., C]`` -> ``[T, ..., D]``; D_t is zero at first."""

    def __init__(self, d_in: int, d_out: int, tasks: int, *, dtype: Dtype):
        self.kernel = TaskParam(jnp.zeros((tasks, d_in, d_out), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array, factor: jax.Array) -> jax.Array:
        kernel = self.kernel[...] * factor[:, None, None]
        kernel = kernel.astype(compute_type(self.dtype, self.kernel))
        return jnp.einsum("t...c,tcd->t...d", x.astype(kernel.dtype), kernel)


class TAPSLinear(nnx.Module):
    """``x_t W + b + 1[s_t >= 0.1] x_t D_t``: ``[1 or S, ..., C]`` -> ``[S, ..., D]``.

    Args:
      linear: the layer, ``[..., C]`` -> ``[..., D]``.
      owners: says how many tasks and shared streams there are.
      rank: of D_t, 0 for a full one.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self, linear: nnx.Module, owners: Owners, *, rank: int, dtype: Dtype, rngs: nnx.Rngs
    ):
        size, tasks = widths(linear), owners.tasks
        self.linear, self.owners, self.rank = linear, owners, rank
        self.taps_score = TaskParam(jnp.full(tasks, START, jnp.float32))
        if rank:
            self.taps = TaskLowRank(*size, (rank,) * tasks, dtype=dtype, rngs=rngs)
        else:
            self.taps = Change(*size, tasks, dtype=dtype)

    @property
    def tasks(self) -> int:
        """T."""
        return self.taps_score.shape[-1]

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        frozen, shared = self.linear(x, key=key), self.owners.shared
        own, rest = (task_streams(part, shared, self.tasks) for part in (x, frozen))
        tasks = rest + self.taps(own, indicator(self.taps_score[...]))
        return jnp.concatenate([frozen[:1], tasks]) if shared else tasks

    def merged(self) -> nnx.Module:
        """Returns the layer of the only task, or itself if there are more."""
        self.linear = merged(self.linear)
        if not foldable(self.owners, self) or not hasattr(self.linear, "kernel"):
            return self
        change = self.taps.a[...] @ self.taps.b[...] if self.rank else self.taps.kernel[...]
        active = indicator(self.taps_score[...])[..., None, None]
        self.linear.kernel[...] += (active * change)[..., 0, :, :]
        return self.linear


class ScorePenalty(nnx.Module):
    """A slot `generate` that writes the loss that keeps the scores small, and changes nothing.

    The loss is ``weight / L sum |s_t|`` over the L layers and the tasks of the pass.

    Args:
      generate: what was in the slot before.
      weight: of the loss.
      warmup: passes of training before it counts.
    """

    def __init__(self, generate: nnx.Module, *, weight: float, warmup: int):
        self.generate, self.weight, self.warmup = generate, weight, warmup
        self.penalty = Penalty(jnp.zeros((), jnp.float32))
        self.passes = nnx.BatchStat(jnp.zeros((), jnp.float32))

    def __call__(self, backbone: Any) -> Any:
        if scores(backbone):  # none where all layers are folded
            value = penalty(backbone, weight=self.weight).sum()
            self.penalty[...] = jnp.where(self.passes[...] < self.warmup, 0.0, value)
            self.passes[...] += 1
        return self.generate(backbone)


def taps(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    rank: Numbers = 4,
    penalty: float = 1.0,
    warmup: int = 0,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts TAPS on every linear layer of every block, in place; the start is the backbone.

    A stream per task runs through the whole backbone. The paper's changes are full, rank 0; low
    ranks keep the number of parameters down. In its joint variant W trains too:
    ``config.trainable=((".*", True),)``.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      rank: of the changes, 0 for full ones.
      penalty: weight of the loss that keeps the scores small, 0 for none.
      warmup: passes of training before that loss counts, one for each dataset, micro-batch and
        gradient of a step; 2 epochs in the paper.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: ranks that do not fit stages or layers, or a negative weight or warm-up.
    """
    if min(penalty, warmup) < 0:
        raise ConfigError(
            f"config.adapter: penalty={penalty} and warmup={warmup} must be at least 0."
        )
    owned = share_streams(backbone, tasks, "none")
    ranks = per_stage(rank, len(backbone.channels), "rank")

    def edit(block, place, rngs):
        made = dict(rank=ranks[place.stage], dtype=dtype, rngs=rngs)
        for site in SITES:
            wrap(block, site, lambda x: TAPSLinear(x, owned(place), **made))

    edit_blocks(backbone, edit, rngs=rngs)
    if penalty:
        slot = dict(weight=penalty, warmup=warmup)
        backbone.generate = ScorePenalty(backbone.generate, **slot)
    return backbone


def scores(backbone: Any) -> dict[str, jax.Array]:
    """Returns the scores of every layer by its path, ``[T]``; stacked layers by ``path/i``."""
    found = {}
    for keys, variable in nnx.to_flat_state(nnx.state(backbone, TaskParam)):
        *path, name = map(str, keys)
        if name != "taps_score":
            continue
        layer = "/".join(path)
        if task_axis(layer):
            found |= {f"{layer}/{i}": row for i, row in enumerate(variable[...])}
        else:
            found[layer] = variable[...]
    return found


def penalty(backbone: Any, *, weight: float = 1.0) -> jax.Array:
    """Returns ``weight / L sum |s_t|`` over the L layers, ``[T]``."""
    rows = jnp.stack(list(scores(backbone).values()))
    return weight * jnp.abs(rows).mean(0)


def active(backbone: Any) -> dict[str, jax.Array]:
    """Returns for every layer which tasks change it, ``[T]`` bool."""
    return {path: row >= THRESHOLD for path, row in scores(backbone).items()}
