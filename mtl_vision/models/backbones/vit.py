"""Vision Transformer (arXiv 2010.11929) with taps, for any input size."""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models.attention import attend
from mtl_vision.models.blocks import (
    ACTS,
    REMAT,
    Block,
    Mlp,
    PatchEmbed,
    drop_rates,
    run_blocks,
    scan_blocks,
)
from mtl_vision.models.hidden import Hidden
from mtl_vision.models.layers import (
    NORMAL,
    Dtype,
    Identity,
    LayerNorm,
    LayerScale,
    Linear,
    split,
)
from mtl_vision.models.pixels import from_imagenet
from mtl_vision.models.resize import resize
from mtl_vision.models.rotary import rotated, rotation


class Attention(nnx.Module):
    """Multi-head attention among the tokens of ``[S, B, N, C]``, every stream for itself."""

    def __init__(self, channels: int, heads: int, *, dtype: Dtype = None, rngs: nnx.Rngs):
        self.qkv = Linear(channels, 3 * channels, dtype=dtype, rngs=rngs)
        self.proj = Linear(channels, channels, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.hidden: Hidden | None = None

    def __call__(
        self,
        x: jax.Array,
        *,
        key: jax.Array | None = None,
        rotation: jax.Array | None = None,
    ) -> jax.Array:
        """`rotation` is that of the patches, the last tokens; see `rotary`."""
        keys = split(key, 2)
        qkv = self.qkv(x, key=keys[0])
        parts = jnp.split(qkv, 3, -1)
        q, k, v = (rearrange(t, "s b n (h d) -> s b h n d", h=self.heads) for t in parts)
        q, k = rotated(q, rotation), rotated(k, rotation)
        added = [self.hidden.bias(x.shape[2])] if self.hidden else []
        x = rearrange(attend(q, k, v, *added), "s b h n d -> s b n (h d)")
        return self.proj(x, key=keys[1])


class Tap(nnx.Module):
    """What a tap reads: the map ``[S, B, h, w, C]`` of the patches, through `norm`."""

    def __call__(
        self,
        x: jax.Array,
        *,
        index: int,
        norm: nnx.Module,
        grid: tuple[int, int],
        key: jax.Array | None = None,
    ) -> jax.Array:
        del index, key
        h, w = grid
        return rearrange(norm(x)[:, :, -h * w :], "s b (h w) c -> s b h w c", h=h)


class ViT(nnx.Module):
    """Image ``[B, H, W, 3]`` -> maps ``[S, B, h, w, C]`` after chosen blocks, the last normalised.

    Args:
      channels: width.
      depth: number of blocks.
      heads: attention heads.
      patch: side of a patch in pixels; images are filled up with zeros to a multiple.
      grid: the grid of the position table, as the weights come; resized to the image's grid.
      taps: after how many blocks a map is read, rising, the last being `depth`; () for every
        quarter of the depth.
      mlp_ratio: hidden over outer width of the MLP.
      drop_path: rate of the last block; rises linearly from 0.
      class_token: whether a class token goes along; it has the first row of the position table.
      distillation_token: whether one more does (arXiv 2012.12877), with the second row.
      register_tokens: how many registers go along (arXiv 2309.16588), without position.
      layer_scale: initial gain of both branches, 0.0 for none.
      act: a key of `blocks.ACTS`; with ``swiglu`` the MLP is gated.
      pre_norm: whether tokens are normalised before the first block; then patches have no bias.
      norm_eps: of all norms.
      rotary: whether positions turn queries and keys, see `rotary`, in place of the table.
      pixels: a key of `pixels.PIXELS`, how the weights want images.
      position_resize: a key of `resize.METHODS`.
      scan: whether equal blocks between taps are stacked and scanned.
      remat: a key of `blocks.REMAT`; a stage is what lies between two taps.
      dtype: compute type.

    Attributes: `channels` and `strides` of the taps, and what adapters set; see `adapters`.

    Raises:
      ConfigError: taps that do not rise to `depth`, heads that do not divide the width, an unknown
        name, or a distillation token without a class token.
    """

    def __init__(
        self,
        *,
        channels: int,
        depth: int,
        heads: int,
        patch: int = 16,
        grid: tuple[int, int] = (24, 24),
        taps: tuple[int, ...] = (),
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        class_token: bool = True,
        distillation_token: bool = False,
        register_tokens: int = 0,
        layer_scale: float = 0.0,
        act: str = "gelu",
        pre_norm: bool = False,
        norm_eps: float = 1e-6,
        rotary: bool = False,
        pixels: str = "imagenet",
        position_resize: str = "bicubic",
        scan: bool = False,
        remat: str = "none",
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        self.taps = tuple(taps) or tuple(depth * i // 4 for i in range(1, 5))
        _check(self.taps, depth, channels, heads, rotary)
        lookup(REMAT, remat, "backbone.remat")
        lookup(ACTS, act, "backbone.act")
        if distillation_token and not class_token:
            raise ConfigError("config.backbone.distillation_token goes with a class_token.")

        def block(rngs):
            attn = Attention(channels, heads, dtype=dtype, rngs=rngs)
            mlp = Mlp(channels, round(channels * mlp_ratio), act=act, dtype=dtype, rngs=rngs)
            scales = [LayerScale(channels, layer_scale, dtype=dtype) for _ in range(2)]
            scales = scales if layer_scale else None
            return Block(channels, attn, mlp, scales=scales, eps=norm_eps, dtype=dtype)

        def table(rows):
            return nnx.Param(NORMAL(rngs.params(), (rows, channels), jnp.float32))

        make, tokens = dict(dtype=dtype, rngs=rngs), class_token + distillation_token
        self.pixels = from_imagenet(pixels)
        self.patch_embed = PatchEmbed(channels, patch, norm=Identity(), bias=not pre_norm, **make)
        self.cls_token = table(tokens) if tokens else None
        self.register_tokens = table(register_tokens) if register_tokens else None
        self.pos_embed = None if rotary else table(tokens + grid[0] * grid[1])
        norm = functools.partial(LayerNorm, channels, eps=norm_eps, dtype=dtype)
        self.pre_norm = norm() if pre_norm else Identity()
        if scan:
            self.segments = nnx.List([_stacked(block, n, rngs) for n in self._lengths()])
            self.tails = nnx.List([])
        else:
            self.blocks = nnx.List([block(rngs) for _ in range(depth)])
        self.norm = norm()
        self.generate, self.entry, self.handover = Identity(), Identity(), Identity()
        self.tap = Tap()
        self.shared, self.carried, self.tasks = 1, False, ()
        self.rates = drop_rates(drop_path, depth)
        self.grid, self.position_resize, self.scan, self.remat = grid, position_resize, scan, remat
        self.rotary = channels // heads if rotary else 0
        self.channels, self.strides = (channels,) * len(self.taps), (patch,) * len(self.taps)

    def _lengths(self):
        return [stop - start for start, stop in zip((0, *self.taps), self.taps, strict=False)]

    def detach(self) -> None:
        """Takes the last block before every tap out of its stack: it may then change the streams.

        Its parameters move from ``segments/i`` to ``tails/i``.
        """
        if not self.scan or len(self.tails):
            return
        for i, length in enumerate(self._lengths()):
            stack = self.segments[i]
            self.tails.append(jax.tree.map(lambda leaf: leaf[-1], stack))
            rest = jax.tree.map(lambda leaf: leaf[:-1], stack) if length > 1 else Identity()
            self.segments[i] = rest

    def __call__(self, image: jax.Array, *, key: jax.Array | None = None) -> list[jax.Array]:
        return self.generate(self).features(image, key=key)

    def features(self, image: jax.Array, *, key: jax.Array | None = None) -> list[jax.Array]:
        """What `__call__` returns, once `generate` has made the adapters' weights."""
        patches = self.patches(image)
        _, h, w, _ = patches.shape
        given = self.given(h, w)
        x = self.entry(self.embed(patches)[None])
        out, start = [], 0
        for i, segment_key in enumerate(split(key, len(self.taps))):
            stop = self.taps[i]
            x = self._segment(self.handover(x) if i else x, i, start, stop, segment_key, given)
            norm = self.norm if stop == len(self.rates) else Identity()
            out.append(self.tap(x, index=i, norm=norm, grid=(h, w), key=segment_key))
            start = stop
        return out

    def given(self, h: int, w: int) -> dict[str, jax.Array]:
        """Returns what the blocks get besides the tokens of a grid of h x w."""
        return {"rotation": jnp.asarray(rotation(h, w, self.rotary))} if self.rotary else {}

    def _segment(self, x, i, start, stop, key, given):
        if not self.scan:
            return self._loop(self.blocks[start:stop], x, start, key, given)
        tail = self.tails[i : i + 1]
        cut = stop - len(tail)
        keys = split(key, 2) if tail else (key, None)
        if cut > start:
            how = dict(rates=self.rates[start:cut], remat=self.remat, key=keys[0])
            x = scan_blocks(self.segments[i], x, **how, **given)
        return self._loop(tail, x, cut, keys[1], given) if tail else x

    def _loop(self, blocks, x, start, key, given):
        rates = self.rates[start : start + len(blocks)]
        return run_blocks(blocks, x, rates=rates, remat=self.remat, key=key, **given)

    def patches(self, image: jax.Array) -> jax.Array:
        """Image ``[B, H, W, 3]``, normalised as ImageNet, -> ``[B, h, w, C]``."""
        if self.pixels is not None:
            gain, shift = (jnp.asarray(one, image.dtype) for one in self.pixels)
            image = image * gain + shift
        return self.patch_embed(image)

    def positions(self, h: int, w: int) -> jax.Array:
        """Returns the position table for a grid of h x w: ``[0 or 1 + h*w, C]``."""
        table = self.pos_embed[...]
        first = table.shape[0] - self.grid[0] * self.grid[1]
        grid = table[first:].reshape(*self.grid, -1)
        grid = resize(grid, (h, w), self.position_resize).reshape(h * w, -1)
        return jnp.concatenate([table[:first], grid])

    def embed(self, patches: jax.Array) -> jax.Array:
        """Patches ``[B, h, w, C]`` -> all tokens ``[B, N, C]``: class, registers, patches."""
        batch, h, w, _ = patches.shape
        x = rearrange(patches, "b h w c -> b (h w) c")
        lead = [
            t if t is None else t.astype(x.dtype) for t in (self.cls_token, self.register_tokens)
        ]
        if self.pos_embed is not None:
            positions = self.positions(h, w).astype(x.dtype)
            x = x + positions[None, -h * w :]
            lead[0] = lead[0] if lead[0] is None else lead[0] + positions[: len(lead[0])]
        lead = [_repeat(tokens, batch) for tokens in lead if tokens is not None]
        return self.pre_norm(jnp.concatenate([*lead, x], 1))


def _repeat(tokens, batch):
    return jnp.broadcast_to(tokens[None], (batch, *tokens.shape))


def _stacked(block, count, rngs):
    keys = jax.random.split(rngs.params(), count)
    return jax.vmap(lambda key: block(nnx.Rngs(params=key)))(keys)


def _check(taps, depth, channels, heads, rotary):
    if list(taps) != sorted(set(taps)) or taps[0] < 1 or taps[-1] != depth:
        raise ConfigError(
            f"config.backbone.taps={taps} must rise from 1 at least to the depth, {depth}."
        )
    if channels % heads:
        raise ConfigError(f"config.backbone: {heads} heads do not divide {channels} channels.")
    if rotary and channels // heads % 4:
        raise ConfigError(
            f"config.backbone.rotary: a head has {channels // heads} channels, no multiple of 4."
        )


# The published ViT-H has patches of 14.
vit_s = functools.partial(ViT, channels=384, depth=12, heads=6)
vit_b = functools.partial(ViT, channels=768, depth=12, heads=12)
vit_l = functools.partial(ViT, channels=1024, depth=24, heads=16)
vit_h = functools.partial(ViT, channels=1280, depth=32, heads=16)
