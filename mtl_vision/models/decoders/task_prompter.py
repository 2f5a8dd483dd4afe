"""The decoder of TaskPrompter (ICLR 2023): a task's taps are summed, enlarged and read."""

from collections.abc import Mapping, Sequence

import jax
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.decoders.per_task import Outputs, PerDataset
from mtl_vision.models.decoders.task_maps import TaskConv, each
from mtl_vision.models.layers import (
    NORMAL,
    BatchNorm,
    Dtype,
    Linear,
    gelu,
    torch_uniform,
)
from mtl_vision.models.resize import resize

ENLARGE = 4


class TaskPrompterHeads(nnx.Module):
    """The heads of one dataset; see `task_prompter`."""

    def __init__(self, width: int, kinds: Mapping[str, int], *, dtype: Dtype, rngs: nnx.Rngs):
        make = dict(dtype=dtype, rngs=rngs)
        self.mix = TaskConv(len(kinds), width, width, 3, bias=True, own=True, init=NORMAL, **make)
        self.norm = BatchNorm(width, tasks=len(kinds), dtype=dtype)
        make |= dict(init=torch_uniform(width), bias_init=torch_uniform(width))
        self.predict = nnx.Dict({kind: Linear(width, out, **make) for kind, out in kinds.items()})
        self.kinds = tuple(kinds)

    def __call__(
        self,
        trunk: Sequence[jax.Array] | None,
        streams: Sequence[jax.Array] | None,
        *,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """``[[B, h, w, C], ...]`` or ``[[T, B, h, w, C], ...]`` -> ``{kind: [B, 4h, 4w, K]}``."""
        levels = [x[None] for x in trunk] if streams is None else streams
        total = sum(resize(x, levels[0].shape[-3:-1]) for x in levels)
        maps = [total[t % len(total)] for t in range(len(self.kinds))]
        y = gelu(self.norm(self.mix(maps, enlarge=ENLARGE), key=key))
        return {kind: self.predict[kind](u) for kind, u in zip(self.kinds, each(y), strict=True)}


def task_prompter(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> PerDataset:
    """Heads of TaskPrompter (prismformore/Multi-Task-Transformer), to the adapter of that name.

    The taps of a task, of one width, are summed and enlarged four times; a 3x3 convolution,
    BatchNorm, GELU and a 1x1 convolution of the task follow. Taps of another size are resized to
    the first. Without task streams all tasks read the trunk.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels: of the backbone's taps, all the same.
      strides: of the taps; only their order matters here.
      dtype: compute type.
      rngs: of the parameters.

    Raises:
      ConfigError: taps that differ in width.
    """
    del strides
    if len(set(channels)) > 1:
        raise ConfigError(
            f"config.decoder.name='task_prompter' sums the taps, whose channels are "
            f"{tuple(channels)}; they must be equal, as the adapter task_prompter makes them."
        )
    make = dict(dtype=dtype, rngs=rngs)
    return PerDataset(outputs, lambda _, kinds: TaskPrompterHeads(channels[0], kinds, **make))
