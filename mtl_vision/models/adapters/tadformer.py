"""TADFormer: task prompts and dynamic task filters in a shared Swin (arXiv 2501.04293).

One low-rank branch per layer, shared by all tasks. A prompt per task goes through the windows
with the tokens; in the last block of a stage its attention to them makes the task's features,
which pass the low-rank branches through a filter that depends on the image.

All prompts take part in the attention of all tasks, so they are shared parameters, and the
function of the backbone changes at the start. The prompts' way is in `prompts`.

The released code (Min100KM/TADFormer) has a static filter per task in place of the dynamic one;
the default is that of the paper, which the published numbers of parameters agree with.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models.adapters.inject import merged, name_tasks, widths, wrap
from mtl_vision.models.adapters.low_rank import LowRank
from mtl_vision.models.adapters.options import Numbers, per_stage
from mtl_vision.models.adapters.prompts import (
    EndPrompts,
    EnterPrompts,
    OnlyMaps,
    PromptBlock,
    PromptMerging,
)
from mtl_vision.models.layers import (
    AdapterParam,
    Dtype,
    Identity,
    Linear,
    TaskParam,
    compute_type,
    dropout,
    split,
    torch_uniform,
)

SITES = {"attn.qkv": False, "attn.proj": True, "mlp.fc1": True, "mlp.fc2": True}
TAPS = 9  # of a filter of 3x3


class DynamicFilter(nnx.Module):
    """Filters every channel of a map by a 3x3 kernel made from the map: ``[..., h, w, R]``.

    The kernel is a linear function of the map's mean, normalised over its 9 taps and given a
    learned standard deviation and mean per tap. One filter serves all tasks.
    """

    def __init__(self, rank: int, *, dtype: Dtype, rngs: nnx.Rngs):
        init = torch_uniform(rank)
        self.make = Linear(rank, rank * TAPS, init=init, bias_init=init, dtype=dtype, rngs=rngs)
        draw = jax.random.normal(rngs.params(), (2, rank, TAPS))
        self.std, self.mean = AdapterParam(draw[0] * 2**0.5 / 3), AdapterParam(draw[1])

    def __call__(self, z: jax.Array) -> jax.Array:
        kernel = self.make(z.mean((-3, -2)))
        kernel = normalised(kernel.reshape(*kernel.shape[:-1], -1, TAPS))
        lead = range(kernel.ndim - 2)
        std, mean = (jax.lax.expand_dims(v[...], lead) for v in (self.std, self.mean))
        return depthwise(z, (kernel * std + mean).astype(z.dtype))


class StaticFilter(nnx.Module):
    """Filters every channel of a task's map by its own 3x3 kernel: ``[T, ..., h, w, R]``."""

    def __init__(self, rank: int, tasks: int, *, rngs: nnx.Rngs):
        init = torch_uniform(TAPS)
        self.kernel = TaskParam(init(rngs.params(), (tasks, rank, TAPS)))
        self.bias = TaskParam(init(rngs.params(), (tasks, rank)))

    def __call__(self, z: jax.Array) -> jax.Array:
        kernel, bias = self.kernel.astype(z.dtype), self.bias.astype(z.dtype)
        made = depthwise(z, jax.lax.expand_dims(kernel, range(1, z.ndim - 3)))
        return made + jax.lax.expand_dims(bias, range(1, z.ndim - 1))


def normalised(kernel: jax.Array) -> jax.Array:
    """Returns ``(k - mean) / (std + 1e-10)`` over the last axis, with the unbiased std."""
    centred = kernel - kernel.mean(-1, keepdims=True)
    variance = jnp.square(centred).sum(-1, keepdims=True) / (kernel.shape[-1] - 1)
    # A constant kernel has no gradient of its std.
    std = jnp.sqrt(jnp.maximum(variance, jnp.finfo(kernel.dtype).tiny))
    return centred / (std + 1e-10)


def depthwise(z: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cross-correlates every map and channel with its own 3x3 kernel; zeros around.

    Args:
      z: ``[..., h, w, R]``.
      kernel: ``[..., R, 9]``, taps by row; leading axes as those of `z`, or 1.
    """
    *_, h, w, _ = z.shape
    padded = jnp.pad(z, [(0, 0)] * (z.ndim - 3) + [(1, 1), (1, 1), (0, 0)])
    kernel = kernel[..., None, None, :, :]
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return sum(
        padded[..., i : i + h, j : j + w, :] * kernel[..., tap] for tap, (i, j) in enumerate(shifts)
    )


class TADLinear(nnx.Module):
    """A linear layer with a low-rank branch: ``[1 or 1 + T, ..., C]`` -> ``[1 + T, ..., D]``.

    With p the layer's response to the shared stream x, and u_t the stream of task t:

        shared: ``p + s dropout(x) A B``
        task t: ``p + s filter(u_t A) B``, on maps ``[..., h, w, C]``

    Args:
      linear: the layer, ``[..., C]`` -> ``[..., D]``.
      rank: of A and B.
      scale: s.
      rate: of dropout.
      filter: a function of maps, or None in a layer that meets no tasks.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self,
        linear: nnx.Module,
        *,
        rank: int,
        scale: float,
        rate: float,
        filter: nnx.Module | None,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        self.lora = LowRank(*widths(linear), rank, dtype=dtype, rngs=rngs)
        self.linear, self.scale, self.rate, self.dtype = linear, scale, rate, dtype
        self.filter = filter

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        keys = split(key, 2)
        frozen = self.linear(x[:1], key=keys[0])
        first = frozen + self.lora(dropout(x[:1], self.rate, keys[1]), self.scale)
        if x.shape[0] == 1:
            return first
        dtype = compute_type(self.dtype, self.lora.a)
        z = self.filter(x[1:].astype(dtype) @ self.lora.a.astype(dtype))
        b = (self.scale * self.lora.b[...]).astype(dtype)
        return jnp.concatenate([first, frozen + z @ b])

    def merged(self) -> nnx.Module:
        """Returns the layer with ``W + s A B``, or itself where it meets tasks."""
        self.linear = merged(self.linear)
        if self.filter is not None or not hasattr(self.linear, "kernel"):
            return self
        self.linear.kernel[...] += self.scale * self.lora.product()
        return self.linear


FILTERS = {
    "dynamic": lambda rank, tasks, **made: DynamicFilter(rank, **made),
    "static": lambda rank, tasks, dtype, rngs: StaticFilter(rank, tasks, rngs=rngs),
    "none": lambda rank, tasks, **made: Identity(),
}


def tadformer(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    rank: Numbers = 64,
    scale: Numbers = 4.0,
    dropout: Numbers = 0.05,
    filter: str = "dynamic",
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts TADFormer into a Swin, in place.

    Swin-T with hrnet heads for the four tasks of PASCAL-Context trains 3,557,502, 4,776,126 and
    7,379,262 parameters at rank 16, 32 and 64. It does not start as the backbone: prompts are
    attended to, and a task starts as the mean of its own features and the shared ones.

    Args:
      backbone: Swin.
      tasks: their names, or their number, in order.
      rank: of the branches.
      scale: factor on them; it is not divided by the rank.
      dropout: rate before them, of the shared stream.
      filter: ``dynamic`` as in the paper, ``static`` as in the released code, or ``none``.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: an unknown filter, numbers that do not fit stages or layers, a backbone without
        windows, or an adapter before that has opened or ended streams.
    """
    make = lookup(FILTERS, filter, "adapter.filter")
    _check(backbone)
    name_tasks(backbone, tasks)
    count, made = len(backbone.tasks), dict(dtype=dtype, rngs=rngs)
    options = dict(rank=rank, scale=scale, rate=dropout)
    columns = [per_stage(v, len(backbone.channels), name) for name, v in options.items()]
    for i, stage in enumerate(backbone.stages):
        numbers = {name: column[i] for name, column in zip(options, columns, strict=True)}
        for j, block in enumerate(stage.blocks):
            last = j == len(stage.blocks) - 1
            for site, late in SITES.items():
                own = make(numbers["rank"], count, **made) if last and late else None
                wrap(block, site, lambda x, f=own, n=numbers: TADLinear(x, filter=f, **n, **made))
            final = last and i == len(backbone.stages) - 1
            stage.blocks[j] = PromptBlock(block, count, last=last, final=final, dtype=dtype)
        if not isinstance(stage.merging, Identity):
            stage.merging = PromptMerging(stage.merging, **made)
    backbone.entry = EnterPrompts(count, backbone.patch_embed.norm.scale.shape[0], rngs=rngs)
    backbone.handover = EndPrompts()
    backbone.out_norms = nnx.List([OnlyMaps(norm) for norm in backbone.out_norms])
    return backbone


def _check(backbone):
    if not hasattr(backbone, "stages"):
        raise ConfigError("config.adapter.name: tadformer puts prompts into windows; use a Swin.")
    if not (isinstance(backbone.entry, Identity) and isinstance(backbone.handover, Identity)):
        raise ConfigError(
            "config.adapter: tadformer opens and ends the streams of tasks itself; use it without "
            "another adapter that does."
        )
