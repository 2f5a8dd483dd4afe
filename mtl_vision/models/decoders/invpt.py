"""The decoder of InvPT (arXiv 2203.07997): all tasks attend to each other on growing maps.

Maps of all tasks are ``[B, h, w, T, C]``, see `task_maps`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.decoders.invpt_attention import HEADS, AttentionBlock
from mtl_vision.models.decoders.invpt_mix import STAGES, Mix
from mtl_vision.models.decoders.per_task import Outputs, PerDataset
from mtl_vision.models.decoders.task_maps import Deconv, TaskConvNorm, TaskNorm, each, resize_tasks
from mtl_vision.models.layers import Conv, Dtype, Identity
from mtl_vision.models.resize import resize


class Preliminary(nnx.Module):
    """Last tap of every task -> features ``[B, h, w, T, C]`` and first predictions.

    The entries of the lists are the tasks, by place and not by name: through the attention every
    task's loss reaches them.
    """

    def __init__(
        self,
        channels: int,
        kinds: Mapping[str, int],
        *,
        width: int,
        out: int,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        make = dict(dtype=dtype, rngs=rngs)
        self.hidden = TaskConvNorm(len(kinds), channels, channels, **make)
        self.feature = TaskConvNorm(len(kinds), channels, width, **make)
        self.predict = nnx.List([Conv(width, k, 1, **make) for k in kinds.values()])
        self.mix = nnx.List([Conv(width + k, out, 1, **make) for k in kinds.values()])

    def __call__(
        self, maps: Sequence[jax.Array], *, key: jax.Array | None = None
    ) -> tuple[jax.Array, list[jax.Array]]:
        maps = each(self.feature(each(self.hidden(maps, key=key)), key=key))
        found = [predict(x) for predict, x in zip(self.predict, maps, strict=True)]
        pairs = [jnp.concatenate(pair, -1) for pair in zip(maps, found, strict=True)]
        return jnp.stack([mix(x) for mix, x in zip(self.mix, pairs, strict=True)], -2), found


class Stage(nnx.Module):
    """``[B, h, w, T, C]`` -> the same, or but for the first stage ``[B, 2h, 2w, T, C/2]``."""

    def __init__(self, tasks: int, index: int, width: int, *, dtype: Dtype, rngs: nnx.Rngs):
        d_in, d_out = width >> max(index - 1, 0), width >> index
        make = dict(dtype=dtype, rngs=rngs)
        self.up1 = TaskConvNorm(tasks, d_in, d_out, dilation=2, **make) if index else Identity()
        self.up2 = TaskConvNorm(tasks, d_out, d_out, dilation=2, **make) if index else Identity()
        self.block = AttentionBlock(tasks, d_out, pool=2 ** (index + 1), fuse=index > 0, **make)
        self.norm = TaskNorm(tasks, d_out, joint=True, dtype=dtype)
        self.first = index == 0

    def __call__(
        self,
        x: jax.Array,
        skip: jax.Array | None,
        scores: jax.Array | None,
        *,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns what the next stage takes, the attention's scores, and the same map normalised.

        `skip` is ``[B, 2h, 2w, T or 1, C/2]``.
        """
        if not self.first:
            x = resize_tasks(x, skip.shape[1:3])
            x = self.up2(each(self.up1(each(x), key=key)), key=key) + skip
        x, scores = self.block(x, scores, key=key)
        return x, scores, self.norm(x)


class InvPTHeads(nnx.Module):
    """The decoder of one dataset; see `invpt`."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        kinds: Mapping[str, int],
        *,
        width: int,
        out: int,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        tasks, make = len(kinds), dict(dtype=dtype, rngs=rngs)
        self.taps, self.coarse = taps_of(strides)
        self.preliminary = Preliminary(channels[-1], kinds, width=width, out=out, **make)
        self.skips = nnx.List([])
        for i, tap in enumerate(self.taps, 1):
            doubles = strides[tap] == 2 * (self.coarse >> i)
            layer = Deconv if doubles else lambda *sizes, **make: Conv(*sizes, 3, **make)
            self.skips.append(layer(channels[tap], out >> i, **make))
        self.stages = nnx.List([Stage(tasks, i, out, **make) for i in range(STAGES)])
        self.mix = Mix(tasks, out, **make)
        self.predict = nnx.Dict({kind: Conv(out, k, 1, **make) for kind, k in kinds.items()})
        self.kinds, self.stride = tuple(kinds), strides[-1]

    def __call__(
        self,
        trunk: Sequence[jax.Array] | None,
        streams: Sequence[jax.Array] | None,
        *,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array | tuple[jax.Array, jax.Array]]:
        levels = [x[None] for x in trunk] if streams is None else streams
        h, w = (-(-n * self.stride // self.coarse) for n in levels[-1].shape[2:4])
        last = resize(levels[-1], (h, w))
        maps = [last[t % last.shape[0]] for t in range(len(self.kinds))]
        x, between = self.preliminary(maps, key=key)
        found, scores = [], None
        for i, stage in enumerate(self.stages):
            skip = self._skip(levels, i, (h << i, w << i)) if i else None
            x, scores, y = stage(x, skip, scores, key=key)
            found.append(y)
        y = self.mix(found, key=key)
        out = {kind: self.predict[kind](x) for kind, x in zip(self.kinds, each(y), strict=True)}
        if key is None:
            return out
        return {kind: (out[kind], x) for kind, x in zip(self.kinds, between, strict=True)}

    def _skip(self, levels, i, size):  # [S, B, h, w, C] -> [B, h, w, S, D]
        x = self.skips[i - 1](levels[self.taps[i - 1]])
        return jnp.moveaxis(resize(x, size), 0, -2)


def taps_of(strides: Sequence[int]) -> tuple[tuple[int, int], int]:
    """Returns which taps the second and the third stage add, and the stride of the first stage.

    On a plain ViT, whose taps have one stride, these are the second and the first tap, and stages
    start at twice the stride. On a pyramid they are those of half and a quarter of its last
    stride, with which stages start.

    Raises:
      ConfigError: fewer than three taps.
    """
    if len(strides) < 3:
        raise ConfigError(
            f"config.decoder.name='invpt' reads three taps of the backbone, which has "
            f"{len(strides)}; give it more, or take another decoder."
        )
    if len(set(strides)) == 1:
        return (1, 0), 2 * strides[0]
    last = strides[-1]
    near = [
        min(range(len(strides) - 1), key=lambda i, s=stride: abs(strides[i] - s))
        for stride in (last // 2, last // 4)
    ]
    return tuple(near), last


class InvPT(PerDataset):
    """`InvPTHeads` for every dataset; see `invpt`. With a key, values are ``(final, preliminary)``.

    Attributes: `intermediate_weight` of the preliminary predictions in the loss.
    """

    def __init__(
        self,
        outputs: Outputs,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        intermediate: float,
        out: int,
        **options: Any,
    ):
        def make(_: str, kinds: Mapping[str, int]) -> InvPTHeads:
            return InvPTHeads(channels, strides, kinds, out=out, **options)

        super().__init__(outputs, make)
        self.intermediate_weight = intermediate
        self.channels, self.strides, self.out = tuple(channels), tuple(strides), out

    def unread(self, dataset: str, size: tuple[int, int]) -> tuple[int, int]:
        """What published counts contain besides: parts of the authors' model that nothing reads.

        They are a third skip, which is computed, and widening and fusing in the first stage and a
        last norm, which are not.

        Args:
          dataset: whose decoder.
          size: (H, W) of the image.

        Returns: parameters, and multiply-adds as in `flops`.
        """
        tasks, out = len(self.heads[dataset].kinds), self.out
        kernel, pixels = 9 * self.channels[-2] * out, math.prod(size) // self.strides[-2] ** 2
        widening, fusing = tasks * (out * out + out), 2 * HEADS * HEADS + HEADS
        norm = 2 * tasks * (out >> (STAGES - 1))
        return kernel + out + widening + fusing + norm, kernel * pixels


def invpt(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    width: int = 512,
    margin: int = 64,
    intermediate: float = 1.0,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> InvPT:
    """InvPT (arXiv 2203.07997, section 3; released code where they differ), one per dataset.

    Preliminary predictions at half the resolution of a ViT's taps; three stages in which all tasks
    attend to each other, each but the first at twice the size and half the channels of the one
    before and with a tap of the backbone added; their sum at eight times the size of the first,
    from which every task predicts. Feature maps that do not halve evenly are stretched. On a
    pyramid, such as Swin's, stages start with the size of the last tap; see `taps_of`. Task
    streams, where there are any, take the place of the trunk.

    A loss reaches other tasks' parameters through the attention. A task's own are only those
    behind it: of the joint norms, of what widens the stages, and of the last convolutions.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels: of the backbone's taps, finest first.
      strides: of the taps.
      width: channels of the preliminary features.
      margin: how many more channels the first stage has.
      intermediate: weight of the preliminary predictions in the loss, at least 0.
      dtype: compute type.
      rngs: of the parameters.

    Raises:
      ConfigError: fewer than three taps, widths that the stages cannot halve, or a negative weight.
    """
    out, least = width + margin, HEADS << (STAGES - 1)
    if width < 1 or margin < 0 or out % least:
        raise ConfigError(
            f"config.decoder: width={width} and margin={margin} must add up to a multiple of "
            f"{least}, for three stages with {HEADS} heads."
        )
    if intermediate < 0:
        raise ConfigError(f"config.decoder.intermediate={intermediate} must be at least 0.")
    make = dict(width=width, out=out, intermediate=intermediate, dtype=dtype, rngs=rngs)
    return InvPT(outputs, channels, strides, **make)
