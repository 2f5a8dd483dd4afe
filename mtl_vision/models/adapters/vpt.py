"""Visual prompts (VPT, arXiv 2203.12119): learned tokens that the others attend to.

On a ViT they stand before all tokens. On Swin every window gets a copy of them, without position
and mask, as in the reference (KMnP/vpt); what comes out for them is averaged over the windows. The
reference joins prompts and windows of different images of a batch; here each meets its own.

Maps carry prompts that stay in rows below, filled up with zeros, which attention, merging and taps
take apart again.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.adapters.inject import edit_blocks, name_tasks, widths, wrap
from mtl_vision.models.layers import AdapterParam, Identity, split
from mtl_vision.models.windows import from_windows, into_windows


class Prompts(nnx.Module):
    """n tokens ``[n, C]`` that are joined to ``[S, B, N, C]`` or ``[S, B, H, W, C]``."""

    def __init__(self, channels: int, count: int, *, bound: float, rngs: nnx.Rngs):
        shape = (count, channels)
        drawn = jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
        self.prompts = AdapterParam(drawn)

    def joined(self, x: jax.Array, norm: nnx.Module) -> jax.Array:
        """Returns `x` with the tokens, through `norm`, before its own or in rows below."""
        S, B, *grid, C = x.shape
        tokens = norm(self.prompts[...]).astype(x.dtype)
        tokens = jnp.broadcast_to(tokens, (S, B, *tokens.shape))
        return jnp.concatenate([tokens, x], 2) if len(grid) == 1 else with_rows(x, tokens)


class PromptedEntry(nnx.Module):
    """An entry that joins prompts to the tokens; they stay."""

    def __init__(self, entry: nnx.Module, prompts: Prompts):
        self.entry, self.prompt = entry, prompts

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return self.prompt.joined(self.entry(x, key=key), Identity())


class PromptedNorm(nnx.Module):
    """A norm that joins prompts of the block to what it normalises; see `Visited`."""

    def __init__(self, linear: nnx.Module, prompts: Prompts):
        self.linear, self.prompt = linear, prompts

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return self.prompt.joined(self.linear(x, key=key), self.linear)


class Visited(nnx.Module):
    """Attention of a ViT that lets the first `count` tokens go afterwards."""

    def __init__(self, attn: nnx.Module, count: int):
        self.attn, self.count = attn, count

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None, **given: Any) -> jax.Array:
        return self.attn(x, key=key, **given)[:, :, self.count :]


class PromptedWindows(nnx.Module):
    """Window attention where every window sees the prompts: ``[S, B, H + rows, W, C]``.

    With `keep` the map has the rows again, else it is without.
    """

    def __init__(self, attn: nnx.Module, count: int, *, keep: bool):
        self.attn, self.count, self.keep = attn, count, keep

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        n = self.count
        x, prompts = without_rows(x, n)
        S, B, height, width, C = x.shape
        window, shift = self.attn.geometry(height, width)
        x = into_windows(x, window, shift)
        shape = (S, B, x.shape[2], n, C)
        x = jnp.concatenate([jnp.broadcast_to(prompts[:, :, None], shape), x], 3)
        keys = split(key, 2)
        x = self.attn.mix(x, self.attn.scores(height, width, extra=n), key=keys[0])
        prompts, x = x[:, :, :, :n].mean(2), x[:, :, :, n:]
        x = from_windows(x, (height, width), window, shift)
        return self.attn.proj(with_rows(x, prompts) if self.keep else x, key=keys[1])


class PromptedMerging(nnx.Module):
    """Patch merging beside which prompts are widened as four equal neighbours."""

    def __init__(self, merging: nnx.Module, count: int):
        self.merging, self.count = merging, count

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        x, prompts = without_rows(x, self.count)
        wide = self.merging.norm(jnp.concatenate([prompts] * 4, -1))
        prompts = self.merging.reduction(wide, key=key)
        return with_rows(self.merging(x, key=key), prompts)


class Unprompted(nnx.Module):
    """A norm of a tap that leaves the prompts out."""

    def __init__(self, linear: nnx.Module, count: int):
        self.linear, self.count = linear, count

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return self.linear(without_rows(x, self.count)[0], key=key)


def with_rows(x: jax.Array, prompts: jax.Array) -> jax.Array:
    """``[S, B, H, W, C]`` and ``[S, B, n, C]`` -> ``[S, B, H + ceil(n / W), W, C]``."""
    S, B, _, W, C = x.shape
    n = prompts.shape[2]
    filled = jnp.pad(prompts, [(0, 0), (0, 0), (0, -n % W), (0, 0)])
    return jnp.concatenate([x, filled.reshape(S, B, -1, W, C)], 2)


def without_rows(x: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Undoes `with_rows`."""
    S, B, H, W, C = x.shape
    height = H - -(-n // W)
    return x[:, :, :height], x[:, :, height:].reshape(S, B, -1, C)[:, :, :n]


def vpt(
    backbone: Any,
    *,
    tasks: int | tuple[str, ...],
    prompts: int = 50,
    deep: bool = False,
    rngs: nnx.Rngs,
    dtype: Any = None,
) -> Any:
    """Puts prompts, shared by all tasks, into a backbone, in place.

    They start at random, ``U(-v, v)`` with ``v = sqrt(6 / (3 p^2 + C0))``, so the backbone's
    outputs change at once. Put `vpt` behind other adapters.

    On Swin-T 50 prompts have 4,800 parameters, and 220,800 in all blocks; once per task they give
    the published totals of VPT-shallow and VPT-deep (arXiv 2210.03265).

    Args:
      backbone: Swin or ViT.
      tasks: their names, or their number, in order.
      prompts: n.
      deep: whether every block has n of its own, which go after its attention, instead of n at
        the first that go along.
      rngs: of the parameters.
      dtype: compute type; that of the tokens is used.

    Returns: the backbone.

    Raises:
      ConfigError: less than one prompt.
    """
    del dtype
    if prompts < 1:
        raise ConfigError(f"config.adapter.prompts={prompts} must be 1 at least.")
    name_tasks(backbone, tasks)
    swin = hasattr(backbone, "stages")
    *_, C0 = backbone.patch_embed.proj.kernel.shape
    bound = math.sqrt(6 / (3 * backbone.patch_embed.patch**2 + C0))
    if not deep:
        made = Prompts(C0, prompts, bound=bound, rngs=rngs)
        backbone.entry = PromptedEntry(backbone.entry, made)

    def edit(block, place, rngs):
        _, C = widths(block.mlp.fc2)
        if deep:
            made = Prompts(C, prompts, bound=bound, rngs=rngs)
            wrap(block, "norm1", lambda norm: PromptedNorm(norm, made))
        if swin:
            wrap(block, "attn", lambda attn: PromptedWindows(attn, prompts, keep=not deep))
        elif deep:
            wrap(block, "attn", lambda attn: Visited(attn, prompts))

    edit_blocks(backbone, edit, rngs=rngs)
    if swin and not deep:
        _carry(backbone, prompts)
    return backbone


def _carry(backbone, count):
    for stage in backbone.stages:
        if not isinstance(stage.merging, Identity):
            wrap(stage, "merging", lambda merging: PromptedMerging(merging, count))
    backbone.out_norms = nnx.List([Unprompted(norm, count) for norm in backbone.out_norms])
