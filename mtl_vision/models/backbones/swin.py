"""Swin Transformer (arXiv 2103.14030), for any input size.

Two public codes differ on maps that are not larger than the window, and both are offered as
`map_rule`: ``microsoft`` shrinks the window to the map and does not shift it, ``transformers``
(Hugging Face) keeps window and shift and fills the map up with zeros.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models.blocks import REMAT, Block, Mlp, PatchEmbed, drop_rates, run_blocks
from mtl_vision.models.convolution import pad_to
from mtl_vision.models.layers import NORMAL, Dtype, Identity, LayerNorm, Linear, split
from mtl_vision.models.resize import resize
from mtl_vision.models.scan import scan_pairs
from mtl_vision.models.windows import WindowAttention

MAP_RULES = {"microsoft": True, "transformers": False}  # does the window shrink to the map?
TAPS = {"merged": True, "stage": False}  # is a tap taken after the merging?


class PatchMerging(nnx.Module):
    """Joins 2x2 tokens: ``[S, B, H, W, C]`` -> ``[S, B, ceil(H/2), ceil(W/2), 2C]``."""

    def __init__(self, channels: int, *, dtype: Dtype = None, rngs: nnx.Rngs):
        self.norm = LayerNorm(4 * channels, dtype=dtype)
        self.reduction = Linear(4 * channels, 2 * channels, bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        # Column before row: the channel order of the published weights.
        x = rearrange(pad_to(x, 2), "s b (h i) (w j) c -> s b h w (j i c)", i=2, j=2)
        return self.reduction(self.norm(x), key=key)


class Stage(nnx.Module):
    """Blocks at one resolution, every second one shifted, and the merging that follows them."""

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        rates: tuple[float, ...],
        window: int,
        shrink: bool,
        mlp_ratio: float,
        merge: bool,
        scan: bool,
        remat: str,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        def block(i):
            shift = window // 2 if i % 2 else 0
            attn = WindowAttention(
                channels, heads, window=window, shift=shift, shrink=shrink, dtype=dtype, rngs=rngs
            )
            mlp = Mlp(channels, int(channels * mlp_ratio), dtype=dtype, rngs=rngs)
            return Block(channels, attn, mlp, dtype=dtype)

        self.blocks = nnx.List([block(i) for i in range(len(rates))])
        self.merging = PatchMerging(channels, dtype=dtype, rngs=rngs) if merge else Identity()
        self.rates, self.scan, self.remat = rates, scan, remat

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        run = scan_pairs if self.scan else run_blocks
        return run(list(self.blocks), x, rates=self.rates, remat=self.remat, key=key)


class Swin(nnx.Module):
    """Image ``[B, H, W, 3]`` -> a list of maps ``[S, B, h, w, C]``, one per stage.

    Args:
      embed: channels of the first stage; they double with every stage.
      depths: blocks per stage.
      heads: attention heads per stage.
      window: side of a window in tokens, or one per stage.
      patch: side of a patch in pixels; images are filled up with zeros to a multiple.
      mlp_ratio: hidden over outer width of the MLP.
      drop_path: rate of the last block; rises linearly from 0.
      absolute_position: grid of a learned position table, resized to the map; () for none.
      map_rule: a key of `MAP_RULES`.
      taps: ``merged``, after the stage's patch merging as MTLoRA reads it, or ``stage``, before.
      out_norm: whether every tap gets a LayerNorm of its own.
      scan: whether blocks that repeat two by two are scanned; see `scan.scan_pairs`.
      remat: a key of `blocks.REMAT`.
      dtype: compute type.

    Attributes: `channels` and `strides` of the taps, and what adapters set; see `adapters`.

    Raises:
      ConfigError: depths, heads and windows of different lengths, heads that do not divide the
        width, or an unknown rule.
    """

    def __init__(
        self,
        *,
        embed: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        window: int | tuple[int, ...] = 7,
        patch: int = 4,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        absolute_position: tuple[int, int] | tuple[()] = (),
        map_rule: str = "microsoft",
        taps: str = "merged",
        out_norm: bool = False,
        scan: bool = False,
        remat: str = "none",
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        windows = (window,) * len(depths) if isinstance(window, int) else tuple(window)
        widths = [embed * 2**i for i in range(len(depths))]
        _check(depths, heads, windows, widths)
        shrink = lookup(MAP_RULES, map_rule, "backbone.map_rule")
        self.tap_merged = lookup(TAPS, taps, "backbone.taps")
        lookup(REMAT, remat, "backbone.remat")
        norm = LayerNorm(embed, dtype=dtype)
        self.patch_embed = PatchEmbed(embed, patch, norm=norm, dtype=dtype, rngs=rngs)
        if absolute_position:
            shape = (*absolute_position, embed)
            self.absolute_position = nnx.Param(NORMAL(rngs.params(), shape, jnp.float32))
        else:
            self.absolute_position = None
        rates, last = drop_rates(drop_path, sum(depths)), len(depths) - 1
        self.stages = nnx.List()
        for i, depth in enumerate(depths):
            stage_rates, rates = rates[:depth], rates[depth:]
            stage = Stage(
                widths[i],
                heads[i],
                rates=stage_rates,
                window=windows[i],
                shrink=shrink,
                mlp_ratio=mlp_ratio,
                merge=i < last,
                scan=scan,
                remat=remat,
                dtype=dtype,
                rngs=rngs,
            )
            self.stages.append(stage)
        levels = [min(i + self.tap_merged, last) for i in range(len(depths))]
        self.channels = tuple(widths[i] for i in levels)
        self.strides = tuple(patch * 2**i for i in levels)
        norm = functools.partial(LayerNorm, dtype=dtype) if out_norm else lambda _: Identity()
        self.out_norms = nnx.List([norm(c) for c in self.channels])
        self.generate, self.entry, self.handover = Identity(), Identity(), Identity()
        self.shared, self.carried, self.tasks = 1, False, ()

    def __call__(self, image: jax.Array, *, key: jax.Array | None = None) -> list[jax.Array]:
        return self.generate(self).features(image, key=key)

    def features(self, image: jax.Array, *, key: jax.Array | None = None) -> list[jax.Array]:
        """What `__call__` returns, once `generate` has made the adapters' weights."""
        x = self.entry(self.embed(image)[None])
        taps = []
        keys = split(key, 2 * len(self.stages))
        for i, stage in enumerate(self.stages):
            x = stage(x, key=keys[2 * i])
            merge = functools.partial(stage.merging, key=keys[2 * i + 1])
            # Only what goes on, or is asked for, is merged.
            tap = merge(x) if self.tap_merged else x
            x = self.handover(tap) if self.tap_merged else merge(self.handover(x))
            taps.append(self.out_norms[i](tap))
        return taps

    def embed(self, image: jax.Array) -> jax.Array:
        """Returns the tokens ``[B, h, w, C]`` that enter the first stage."""
        x = self.patch_embed(image)
        if self.absolute_position is None:
            return x
        table = resize(self.absolute_position[...], x.shape[1:3], "bicubic")
        return x + table.astype(x.dtype)[None]


def _check(depths, heads, windows, widths):
    if not len(depths) == len(heads) == len(windows):
        raise ConfigError(
            f"config.backbone: depths={tuple(depths)}, heads={tuple(heads)} and "
            f"window={tuple(windows)} must have one entry per stage."
        )
    for width, count in zip(widths, heads, strict=True):
        if width % count:
            raise ConfigError(f"config.backbone: {count} heads do not divide {width} channels.")


# Parameters, with windows of 7 and without a last norm: 27,517,818, 48,835,722, 86,741,176 and
# 194,992,404.
swin_t = functools.partial(Swin, embed=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))
swin_s = functools.partial(Swin, embed=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24))
swin_b = functools.partial(Swin, embed=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32))
swin_l = functools.partial(Swin, embed=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48))
