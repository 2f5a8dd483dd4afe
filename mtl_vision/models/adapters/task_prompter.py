"""TaskPrompter: a prompt per task goes through a ViT and makes the task's maps at its taps.

Activations are ``[1, B, T + N, C]``, prompts first, until a tap makes them task streams; see
`task_features`. All prompts meet in the attention, so they are shared parameters; those of one
dataset do not meet those of another.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from mtl_vision.errors import ConfigError, nearest
from mtl_vision.models.adapters.inject import edit_blocks, name_tasks
from mtl_vision.models.adapters.streams import ByDataset, dataset_of
from mtl_vision.models.adapters.task_features import (
    Grid,
    Tapped,
    TaskFeatures,
    TaskTap,
    check_grid,
)
from mtl_vision.models.attention import attend
from mtl_vision.models.blocks import Block
from mtl_vision.models.layers import (
    AdapterParam,
    Dtype,
    Identity,
    Linear,
    drop_path,
    split,
)
from mtl_vision.models.rotary import rotated

# What the authors trained; `size` is that of the images.
PRESETS: dict[str, dict[str, Any]] = {
    "vit_b_pascal": dict(embed=780, width=1024, windows=4, reweigh=True),
    "vit_l_pascal": dict(embed=300, width=350, windows=1, reweigh=True),
    "vit_l_nyud": dict(embed=768, width=768, windows=4, reweigh=False),
}


class TaskPrompts(nnx.Module):
    """An entry that puts the prompts, ``[T, C]``, before the patches ``[1, B, N, C]``.

    `grids` are the patches of the images, by task.
    """

    def __init__(self, grids: tuple[Grid, ...], channels: int, *, rngs: nnx.Rngs):
        drawn = jax.random.truncated_normal(rngs.params(), -3.0, 1.0, (len(grids), channels))
        self.prompts = AdapterParam(1 + drawn)  # cut off at -2 and 2, as timm does
        self.grids, self.start, self.stop = grids, 0, len(grids)

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        del key
        check_grid(x.shape[2:3], self.grids[self.start])
        prompts = self.prompts[self.start : self.stop].astype(x.dtype)
        shape = (*x.shape[:2], *prompts.shape)
        return jnp.concatenate([jnp.broadcast_to(prompts[None, None], shape), x], 2)

    def select(self, start: int, stop: int) -> None:
        """Narrows the tasks."""
        self.start, self.stop = start, stop


class PromptPixels(nnx.Module):
    """Prompts as maps of the patches, and back: C -> N -> C, for one grid of N = h w patches.

    Args:
      channels: C.
      grid: (h, w).
      windows: n, how many windows there are along a side.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(self, channels: int, grid: Grid, windows: int, *, dtype: Dtype, rngs: nnx.Rngs):
        h, w = grid
        self.spread = Linear(channels, h * w, dtype=dtype, rngs=rngs)
        self.gather = Linear(h * w, channels, dtype=dtype, rngs=rngs)
        self.grid, self.windows = grid, windows

    def scores(self, prompts: jax.Array, patches: jax.Array) -> jax.Array:
        """Products of maps of prompts and of channels, in every window.

        Args:
          prompts: ``[B, T, N]``.
          patches: ``[B, N, C]``.

        Returns: ``[B, n, n, T, C]``, not scaled; float32 or wider.
        """
        sides = dict(p=self.windows, q=self.windows, i=self.grid[0] // self.windows)
        prompts = rearrange(prompts, "b t (p i q j) -> b p q t (i j)", **sides)
        patches = rearrange(patches, "b (p i q j) c -> b p q (i j) c", **sides)
        return _product("bpqtn,bpqnc->bpqtc", prompts, patches)


class PromptAttention(nnx.Module):
    """Attention among prompts and patches, in the place of `Attention`: ``[1, B, T + N, C]``.

    Prompts get ``gather(spread(p))`` besides, see `PromptPixels`. The paper also lets them attend
    to the channels; in the released code, and here, these scores only serve the taps.
    """

    def __init__(self, attn: nnx.Module, pixels: ByDataset):
        self.qkv, self.proj, self.heads, self.pixels = attn.qkv, attn.proj, attn.heads, pixels

    @property
    def tasks(self) -> int:
        """T."""
        return len(self.pixels.owners)

    def __call__(
        self,
        x: jax.Array,
        *,
        score: bool,
        key: jax.Array | None = None,
        rotation: jax.Array | None = None,
    ) -> tuple[jax.Array, ...]:
        """Returns the output and, with `score`, the scores of `Tapped`."""
        keys, T, pixels = split(key, 2), self.tasks, self.pixels.chosen
        qkv = jnp.split(self.qkv(x, key=keys[0]), 3, -1)
        q, k, v = (rearrange(t, "s b n (h d) -> s b h n d", h=self.heads) for t in qkv)
        q, k = rotated(q, rotation), rotated(k, rotation)
        y = rearrange(attend(q, k, v), "s b h n d -> s b n (h d)")
        maps = pixels.spread(x[:, :, :T])
        back = jnp.pad(pixels.gather(maps), [(0, 0), (0, 0), (0, x.shape[2] - T), (0, 0)])
        y = self.proj(y, key=keys[1]) + back
        if not score:
            return (y,)
        spatial = _product("bhtd,bhnd->bhtn", q[0, :, :, :T], k[0])
        return y, spatial, pixels.scores(maps[0], x[0, :, T:])


def _product(pattern, a, b):
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum(pattern, a, b, preferred_element_type=wide)


class PromptBlock(nnx.Module):
    """A block for prompts and patches, in the place of `Block`; its drop path takes them apart.

    Before a tap its output is `Tapped`.
    """

    def __init__(self, block: Block, pixels: ByDataset, *, tap: bool):
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.scale1, self.scale2 = block.scale1, block.scale2
        self.attn, self.tap = PromptAttention(block.attn, pixels), tap

    def __call__(
        self,
        x: jax.Array,
        *,
        rate: jax.Array | float = 0.0,
        key: jax.Array | None = None,
        **given: Any,
    ) -> jax.Array | Tapped:
        keys, T = split(key, 6), self.attn.tasks
        branch, *scores = self.attn(self.norm1(x), score=self.tap, key=keys[0], **given)
        x = x + dropped(self.scale1(branch, key=keys[4]), T, rate, keys[1])
        branch = self.scale2(self.mlp(self.norm2(x), key=keys[2]), key=keys[5])
        x = x + dropped(branch, T, rate, keys[3])
        return Tapped(x, *scores) if self.tap else x


def dropped(x: jax.Array, tasks: int, rate: jax.Array | float, key: jax.Array | None) -> jax.Array:
    """`drop_path` of the first `tasks` tokens and of the others, each for itself."""
    if key is None:
        return x
    parts, keys = (x[:, :, :tasks], x[:, :, tasks:]), split(key, 2)
    return jnp.concatenate([drop_path(y, rate, k) for y, k in zip(parts, keys, strict=True)], 2)


class TokensOnly(nnx.Module):
    """A hand-over of the tokens of a `Tapped`."""

    def __call__(self, x: Tapped, *, key: jax.Array | None = None) -> jax.Array:
        del key
        return x.tokens


def task_prompter(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    size: tuple[int, int] | Mapping[str, tuple[int, int]] = (512, 512),
    embed: int = 300,
    width: int = 350,
    windows: int = 1,
    reweigh: bool = True,
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> Any:
    """Puts TaskPrompter (ICLR 2023, prismformore/Multi-Task-Transformer) into a ViT, in place.

    Where the paper and the released code differ, this is the code. A class token and registers
    are taken out. Everything trains. What comes out are streams of the tasks, without a trunk,
    `width` channels wide at every tap; the decoder `task_prompter` is theirs. It is not the
    backbone at its start. With its decoder, ViT-L for five tasks of PASCAL-Context has 401,104,864
    parameters; `PRESETS` are the authors' options.

    Layers of every block have weights for every patch, so images must have the size given here.

    Args:
      backbone: ViT, scanned or not.
      tasks: their names, or their number, in order.
      size: (height, width) of the images, for all or by dataset.
      embed: channels of a task's two maps at a tap before they are fused.
      width: channels of its map afterwards.
      windows: along a side, in which prompts score channels; the authors' ``chan_nheads`` is its
        square.
      reweigh: whether tasks exchange maps, by the scores of prompts for prompts.
      dtype: compute type.
      rngs: of the parameters.

    Returns: the backbone.

    Raises:
      ConfigError: a backbone that is not a plain ViT, sizes that are missing, unknown or not cut by
        the windows, or a width below 1. In a call, an image of another size.
    """
    _check(backbone, embed, width, windows)
    name_tasks(backbone, tasks)
    backbone.detach()  # a tap takes more from the block before it than a scan carries
    names, make = backbone.tasks, dict(dtype=dtype, rngs=rngs)
    channels, heads = backbone.channels[0], _heads(backbone)
    grids = _grids(size, names, backbone.strides[0], windows)
    backbone.cls_token = backbone.register_tokens = None

    def pixels(rngs):
        options = dict(windows=windows, dtype=dtype, rngs=rngs)
        return ByDataset(names, lambda d, _: PromptPixels(channels, grids[d], **options))

    def features(dataset, count):
        options = dict(embed=embed, width=width, reweigh=reweigh, grid=grids[dataset])
        return TaskFeatures(count, channels, heads, **options, **make)

    def edit(block, place, rngs):
        return PromptBlock(block, pixels(rngs), tap=place.last)

    edit_blocks(backbone, edit, rngs=rngs)
    backbone.entry = TaskPrompts(tuple(grids[dataset_of(n)] for n in names), channels, rngs=rngs)
    backbone.handover = TokensOnly()
    backbone.tap = TaskTap([ByDataset(names, features) for _ in backbone.taps])
    backbone.shared, backbone.channels = 0, (width,) * len(backbone.taps)
    return backbone


def _check(backbone, embed, width, windows):
    if not hasattr(backbone, "tap"):
        raise ConfigError(
            "config.adapter.name: task_prompter puts prompts among tokens; use a ViT."
        )
    slots = backbone.entry, backbone.handover
    if not all(isinstance(slot, Identity) for slot in slots) or backbone.shared != 1:
        raise ConfigError(
            "config.adapter: task_prompter makes the tokens and the streams of tasks itself; use "
            "it without another adapter that does."
        )
    for name, value in dict(embed=embed, width=width, windows=windows).items():
        if value < 1:
            raise ConfigError(f"config.adapter.{name}={value} must be 1 at least.")


def _heads(backbone):
    block = (backbone.tails if backbone.scan else backbone.blocks)[0]
    if not hasattr(block.attn, "qkv"):
        raise ConfigError(
            "config.adapter: task_prompter takes the place of the attention, which another adapter "
            "has wrapped; put task_prompter first."
        )
    return block.attn.heads


def _grids(size, tasks, patch, windows):
    """Returns the patches (h, w) of the images by dataset."""
    datasets = tuple(dict.fromkeys(map(dataset_of, tasks)))
    sizes = size if isinstance(size, Mapping) else dict.fromkeys(datasets, size)
    for name in sizes:
        if name not in datasets:
            raise ConfigError(
                f"config.adapter.size.{name} is none of the datasets {', '.join(datasets)}."
                f"{nearest(name, datasets)}"
            )
    grids = {}
    for name in datasets:
        if name not in sizes:
            raise ConfigError(f"config.adapter.size={dict(sizes)} has no entry for {name}.")
        sides = sizes[name]
        if len(sides) != 2 or min(sides) < 1 or any(-(-n // patch) % windows for n in sides):
            raise ConfigError(
                f"config.adapter.size={tuple(sides)} must be (height, width) of images whose "
                f"patches of {patch} make {windows} windows along either side."
            )
        grids[name] = tuple(-(-n // patch) for n in sides)
    return grids
