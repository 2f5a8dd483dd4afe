"""DoRA: weights decomposed into magnitude and direction (arXiv 2402.09353).

As laid out for dense tasks in FAAR (arXiv 2603.20403): shared by all tasks in every block, and
one per task beside it in the last block of a stage, there on all layers but qkv.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models.adapters.inject import edit_blocks, merged, widths, wrap
from mtl_vision.models.adapters.low_rank import LowRank, TaskLowRank
from mtl_vision.models.adapters.options import Numbers, TaskNumbers, per_stage, per_task
from mtl_vision.models.adapters.sharing import Owners, foldable, per_channel, plain, share_streams
from mtl_vision.models.layers import (
    AdapterParam,
    Dtype,
    TaskParam,
    compute_type,
    dropout,
    split,
)

SITES = {"attn.qkv": False, "attn.proj": True, "mlp.fc1": True, "mlp.fc2": True}


class Decomposed(nnx.Module):
    """What ``W' = m (W + s A B) / |W + s A B|`` adds to a frozen response, for all or per task.

    Norms and m are per output. The parameter is ``m - |W|``, zero at the start: its gradient is
    that of m, and it does not depend on when W is loaded.

    Args:
      d_in, d_out: C, D.
      ranks: one, or one per task if `own`.
      scale: s, not divided by the rank.
      own: whether there is one per task.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        ranks: Sequence[int],
        *,
        scale: float,
        own: bool,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        if own:
            self.low = TaskLowRank(d_in, d_out, ranks, dtype=dtype, rngs=rngs)
            self.magnitude = TaskParam(jnp.zeros((len(ranks), d_out), jnp.float32))
        else:
            self.low = LowRank(d_in, d_out, ranks[0], dtype=dtype, rngs=rngs)
            self.magnitude = AdapterParam(jnp.zeros(d_out, jnp.float32))
        self.scale, self.own, self.dtype = scale, own, dtype

    @property
    def tasks(self) -> int:
        """T, or 0."""
        return self.magnitude.shape[-2] if self.own else 0

    def __call__(
        self, x: jax.Array, frozen: jax.Array, kernel: jax.Array, bias: jax.Array | None
    ) -> jax.Array:
        """``[1 or S, ..., C]`` and the layer's ``x W + b`` -> ``[S, ..., D]``."""
        product = self.scale * (self.low.a[...] @ self.low.b[...])
        kernel = kernel[None] if self.own else kernel
        # The norm counts as a constant in the backward pass (section 4.3).
        gain = relative_gain(kernel, jax.lax.stop_gradient(product), self.magnitude[...])
        gain = per_channel(gain.astype(compute_type(self.dtype, gain)), frozen, self.tasks)
        if self.own:
            added = self.low(x, jnp.full(self.tasks, self.scale))
        else:
            added = self.low(x, self.scale)
        linear = (
            frozen if bias is None else frozen - per_channel(bias.astype(frozen.dtype), frozen, 0)
        )
        # A gain of 0 leaves `frozen` as it is, to the bit.
        return frozen + gain * linear + (1 + gain) * added


def relative_gain(kernel: jax.Array, product: jax.Array, magnitude: jax.Array) -> jax.Array:
    """``m / |W + P| - 1`` per output; exactly 0 if P and ``m - |W|`` are.

    Args:
      kernel: W, ``[..., C, D]``.
      product: P, ``[..., C, D]``.
      magnitude: ``m - |W|``, ``[..., D]``.
    """
    before = jnp.square(kernel).sum(-2)
    grown = (product * (2 * kernel + product)).sum(-2)
    norm = jnp.sqrt(jnp.maximum(before + grown, jnp.finfo(kernel.dtype).tiny))
    return (jnp.sqrt(before) - norm + magnitude) / norm


class DoRALinear(nnx.Module):
    """A linear layer in DoRA's form: ``[1 or S, ..., C]`` -> ``[S, ..., D]``.

    Where tasks have weights beside the shared ones, these decompose W on the frozen response to
    the shared stream, as MTLoRA's branches do, unless streams are carried through the backbone.

    Args:
      linear: the layer, plain.
      owners: who has weights.
      rank: of the shared ones.
      task_ranks: of those per task.
      scale: s.
      rate: of dropout before A.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self,
        linear: nnx.Module,
        owners: Owners,
        *,
        rank: int,
        task_ranks: Sequence[int],
        scale: float,
        rate: float,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        made = dict(scale=scale, dtype=dtype, rngs=rngs)
        size = widths(linear)
        self.linear, self.owners, self.rate = linear, owners, rate
        self.dora = Decomposed(*size, (rank,), own=False, **made) if owners.common else None
        own = Decomposed(*size, task_ranks, own=True, **made) if owners.tasks else None
        self.task_dora = own
        if owners.mixed:
            self.carried = owners.carried

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        keys = split(key, 2)
        kernel, bias = self.linear.kernel[...], self.linear.bias
        frozen = self.linear(x if getattr(self, "carried", True) else x[:1], key=keys[0])
        x = dropout(x, self.rate, keys[1])
        if self.task_dora is None:
            return self.dora(x, frozen, kernel, bias)
        shared = self.owners.shared
        own = [part if part.shape[0] == 1 else part[shared:] for part in (x, frozen)]
        tasks = self.task_dora(*own, kernel, bias)
        if not shared:
            return tasks
        first = self.dora(x[:1], frozen[:1], kernel, bias) if self.dora else frozen[:1]
        return jnp.concatenate([first, tasks])

    def merged(self) -> nnx.Module:
        """Returns the layer with W', or itself where tasks have weights of their own."""
        if not foldable(self.owners, self.task_dora):
            return self
        branch = self.task_dora or self.dora
        parts = branch.low.a[...], branch.low.b[...], branch.magnitude[..., None, :]
        a, b, magnitude = (part[..., 0, :, :] for part in parts) if branch.own else parts
        kernel, product = self.linear.kernel, branch.scale * (a @ b)
        gain = relative_gain(kernel[...], product, magnitude[..., 0, :])
        kernel[...] = (1 + gain[..., None, :]) * (kernel[...] + product)
        return merged(self.linear)


def dora(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    rank: Numbers = 64,
    task_rank: TaskNumbers = 64,
    scale: Numbers = 4.0,
    dropout: Numbers = 0.05,
    share: str = "last",
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts DoRA on every linear layer of every block, in place; the start is the backbone.

    A layer ``C -> D`` gets ``R (C + D) + D`` parameters per set.

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      rank: of the shared weights.
      task_rank: of those per task.
      scale: factor on A B; it is not divided by the rank.
      dropout: rate before A.
      share: how tasks share, see `sharing`.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: numbers that do not fit stages, tasks or layers, layers that an adapter before
        has wrapped, or a backbone that it does not work on.
    """
    owned = share_streams(backbone, tasks, share)
    count = len(backbone.channels)
    options = dict(rank=rank, scale=scale, rate=dropout)
    columns = [per_stage(v, count, name) for name, v in options.items()]
    own_ranks = per_task(task_rank, backbone.tasks, count, "task_rank")

    def edit(block, place, rngs):
        made = {name: column[place.stage] for name, column in zip(options, columns, strict=True)}
        made |= dict(task_ranks=own_ranks[place.stage], dtype=dtype, rngs=rngs)
        for site, late in SITES.items():
            owners = owned(place, late)
            wrap(block, site, lambda x, o=owners: DoRALinear(plain(x, "dora"), o, **made))

    edit_blocks(backbone, edit, rngs=rngs)
    return backbone
