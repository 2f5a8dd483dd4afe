"""The decoder of MLoRE (arXiv 2403.17749): mixtures of low-rank experts that all tasks share."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError, lookup, nearest
from mtl_vision.models.decoders.mlore_block import SELECT, MoEBlock, Router, TaskLinear
from mtl_vision.models.decoders.per_task import Outputs, PerDataset
from mtl_vision.models.decoders.task_maps import TaskConv, each
from mtl_vision.models.gates import spread
from mtl_vision.models.layers import (
    BatchNorm,
    Conv,
    Dtype,
    Linear,
    Penalty,
    gelu,
    torch_uniform,
    widen,
)
from mtl_vision.models.resize import resize

STRIDE = 16  # of the maps, where the backbone has such a tap
ENLARGE = 4

Grid = tuple[int, int]

# What the authors trained, by backbone and dataset; `grid` follows from the size of the images.
PRESETS: dict[str, dict[str, Any]] = {
    "vit_s_pascal": dict(
        width=192, ranks=tuple(range(8, 65, 4)), task_rank=32, select="gates", balance=1e-4
    ),
    "vit_b_pascal": dict(
        width=640, ranks=tuple(range(16, 129, 8)), task_rank=64, select="gates", balance=1e-4
    ),
    "vit_l_pascal": dict(
        width=452, ranks=tuple(range(16, 129, 8)), task_rank=72, select="gates", balance=3e-4
    ),
    "vit_l_nyud": dict(
        width=768, ranks=tuple(range(16, 241, 16)), task_rank=16, select="logits", balance=5e-4
    ),
}


class MLoREHeads(nnx.Module):
    """The decoder of one dataset; see `mlore`."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        kinds: Mapping[str, int],
        *,
        width: int,
        ranks: Sequence[int],
        task_rank: int,
        top: int,
        select: str,
        balance: float,
        grid: Grid,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        tasks, levels, make = len(kinds), len(channels), dict(dtype=dtype, rngs=rngs)

        def block():
            options = dict(grid=grid, top=top, select=select)
            router = Router(tasks, width, len(ranks), **options, **make)
            return MoEBlock(tasks, width, ranks=ranks, task_rank=task_rank, router=router, **make)

        own, predict = dict(bias=True, own=True, **make), torch_uniform(width)
        self.fuse = nnx.List([Conv(c, width, 1, **make) for c in channels])
        self.first = nnx.List([block() for _ in range(levels)])
        self.second = nnx.List([block() for _ in range(levels)])
        self.join = TaskLinear(tasks, levels * width, width, **make)
        self.join_norm = BatchNorm(width, tasks=tasks, dtype=dtype)
        self.vote = TaskConv(tasks, width, levels, 3, **own)
        self.mix = TaskConv(tasks, width, width, 3, **own)
        self.mix_norm = BatchNorm(width, tasks=tasks, dtype=dtype)
        make |= dict(init=predict, bias_init=predict)
        self.predict = nnx.Dict({kind: Linear(width, out, **make) for kind, out in kinds.items()})
        self.penalty = Penalty(jnp.zeros((), jnp.float32))
        self.kinds, self.experts, self.balance = tuple(kinds), len(ranks), balance
        fit = [stride for stride in strides if stride <= STRIDE]
        self.level = strides.index(max(fit, default=min(strides)))

    def __call__(
        self,
        trunk: Sequence[jax.Array] | None,
        streams: Sequence[jax.Array] | None,
        *,
        key: jax.Array | None = None,
        noise: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Decodes; `noise` of the routers, ``[levels, 2, B, T, E]``, is drawn from `key` if None.

        ``[[B, h, w, C], ...]`` or ``[[T, B, h, w, C], ...]`` -> ``{kind: [B, 4h, 4w, K]}``.
        """
        fused = self.fused(trunk, streams)
        if key is not None and noise is None:
            shape = len(fused), 2, fused[0].shape[0], len(self.kinds), self.experts
            noise = jax.random.normal(key, shape, jnp.float32)
        levels, gates = [], []
        for i, x in enumerate(fused):
            for j, block in enumerate((self.first[i], self.second[i])):
                x, p = block(x, noise=None if noise is None else noise[i, j], key=key)
                gates.append(p)
            levels.append(x)
        if key is not None:
            self.penalty[...] = self.balance * sum(spread(p.mean((0, 1))) for p in gates)
        return self.predictions(self.chosen(levels, key=key), key=key)

    def fused(
        self, trunk: Sequence[jax.Array] | None, streams: Sequence[jax.Array] | None
    ) -> list[jax.Array]:
        """Returns ``[B, h, w, T or 1, width]`` for every level, all of one size."""
        levels = [x[None] for x in trunk] if streams is None else streams
        size = levels[self.level].shape[2:4]
        maps = [resize(fuse(x), size) for fuse, x in zip(self.fuse, levels, strict=True)]
        return [jnp.moveaxis(x, 0, -2) for x in maps]

    def chosen(self, levels: Sequence[jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        """Averages the levels, ``[B, h, w, T, C]`` each, by softmax weights of place and task."""
        x = self.join(jnp.concatenate(levels, -1))
        votes = self.vote(each(gelu(self.join_norm(x, key=key))))
        weights = jax.nn.softmax(widen(votes), -1).astype(x.dtype)
        return sum(weights[..., i : i + 1] * level for i, level in enumerate(levels))

    def predictions(self, x: jax.Array, *, key: jax.Array | None = None) -> dict[str, jax.Array]:
        """``[B, h, w, T, C]``, enlarged -> ``{kind: [B, 4h, 4w, K]}``."""
        y = gelu(self.mix_norm(self.mix(each(x), enlarge=ENLARGE), key=key))
        return {kind: self.predict[kind](u) for kind, u in zip(self.kinds, each(y), strict=True)}

    def merged(self) -> nnx.Module:
        """Returns the heads for inference, with every block re-parameterised."""
        self.first = nnx.List([block.merged() for block in self.first])
        self.second = nnx.List([block.merged() for block in self.second])
        return self


def mlore(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    width: int = 640,
    ranks: tuple[int, ...] = tuple(range(16, 129, 8)),
    task_rank: int = 64,
    top: int = 9,
    select: str = "gates",
    balance: float = 1e-4,
    grid: Grid | Mapping[str, Grid] = (32, 32),
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> PerDataset:
    """MLoRE (arXiv 2403.17749; the authors' code where they differ), one per dataset.

    Every tap goes through two blocks of low-rank experts, which the tasks of a dataset share, see
    `MoEBlock`; every task weighs the taps place by place, and predicts at four times their size.
    Taps of other sizes are resized to that of stride 16, or the next finer one. Task streams,
    where there are any, take the place of the trunk. `adapters.inject.merge` makes the model for
    inference: every block is one convolution, see `MergedBlock`. The defaults are those for ViT-B
    on PASCAL-Context, see `PRESETS`.

    A task owns what is stacked by task; experts, fusing and the shared convolutions are shared.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels: of the backbone's taps, finest first.
      strides: of the taps.
      width: channels of all maps, a multiple of 4.
      ranks: of the experts; at least two.
      task_rank: of the experts that each task has for itself.
      top: how many experts a task keeps, from 1 to their number.
      select: what the router keeps the largest of, ``gates`` or ``logits``; see `SELECT`.
      balance: weight of the experts' balance in the loss, at least 0; the squared coefficient of
        variation of their mean gates, summed over the blocks.
      grid: places that the routers have weights for, the size of a tap of stride 16; for all, or
        by dataset.
      dtype: compute type.
      rngs: of the parameters.

    Raises:
      ConfigError: a value out of its range, or a `grid` that lacks a dataset.
    """
    lookup(SELECT, select, "decoder.select")
    _check(width, ranks, task_rank, top, balance)
    grids = _grids(grid, outputs)
    options = dict(width=width, ranks=ranks, task_rank=task_rank, top=top, select=select)
    options |= dict(balance=balance, dtype=dtype, rngs=rngs)

    def make(dataset: str, kinds: Mapping[str, int]) -> MLoREHeads:
        return MLoREHeads(channels, strides, kinds, grid=grids[dataset], **options)

    return PerDataset(outputs, make)


def _check(width, ranks, task_rank, top, balance):
    if width < 4 or width % 4:
        raise ConfigError(f"config.decoder.width={width} must be a positive multiple of 4.")
    if len(ranks) < 2 or min(*ranks, task_rank) < 1:
        raise ConfigError(
            f"config.decoder: ranks={ranks} and task_rank={task_rank} must be positive, with two "
            f"ranks at least, one per expert."
        )
    if not 1 <= top <= len(ranks):
        raise ConfigError(
            f"config.decoder.top={top} does not fit {len(ranks)} experts; use 1 to {len(ranks)}."
        )
    if balance < 0:
        raise ConfigError(f"config.decoder.balance={balance} must be at least 0.")


def _grids(grid, outputs):
    grids = grid if isinstance(grid, Mapping) else dict.fromkeys(outputs, grid)
    for dataset in grids:
        if dataset not in outputs:
            raise ConfigError(
                f"config.decoder.grid.{dataset} is none of the datasets {', '.join(outputs)}."
                f"{nearest(dataset, outputs)}"
            )
    for dataset in outputs:
        if dataset not in grids:
            raise ConfigError(f"config.decoder.grid={dict(grids)} has no entry for {dataset}.")
        if len(grids[dataset]) != 2 or min(grids[dataset]) < 1:
            raise ConfigError(
                f"config.decoder.grid: {grids[dataset]} must be two positive sizes, (h, w)."
            )
    return grids
