"""Prompts of tasks that go through the windows of a Swin (TADFormer, arXiv 2501.04293)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from mtl_vision.models.attention import attend
from mtl_vision.models.blocks import Block
from mtl_vision.models.convolution import pad_to
from mtl_vision.models.layers import (
    AdapterParam,
    Dtype,
    LayerNorm,
    Linear,
    drop_path,
    gelu,
    split,
    torch_uniform,
)
from mtl_vision.models.windows import from_windows, into_windows


class Prompted(NamedTuple):
    """What goes from block to block.

    Attributes:
      x: ``[1 or 1 + T, B, H, W, C]``.
      prompts: of all tasks, ``[1, B, T, C]``.
    """

    x: jax.Array
    prompts: jax.Array


class EnterPrompts(nnx.Module):
    """An entry that gives every image the prompts: ``[1, B, H, W, C]`` -> `Prompted`."""

    def __init__(self, tasks: int, channels: int, *, rngs: nnx.Rngs):
        # Mean and deviation are 1; truncated at +-2.
        draw = jax.random.truncated_normal(rngs.params(), -3.0, 1.0, (tasks, channels))
        self.prompts = AdapterParam(1 + draw)

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> Prompted:
        del key
        prompts = self.prompts.astype(x.dtype)[None, None]
        return Prompted(x, jnp.broadcast_to(prompts, (1, x.shape[1], *prompts.shape[2:])))


class EndPrompts(nnx.Module):
    """A hand-over that ends the task streams; the prompts go on."""

    def __call__(self, state: Prompted, *, key: jax.Array | None = None) -> Prompted:
        del key
        return state._replace(x=state.x[:1])


class OnlyMaps(nnx.Module):
    """A norm of a tap, which leaves the prompts out."""

    def __init__(self, linear: nnx.Module):
        self.linear = linear

    def __call__(self, state: Prompted) -> jax.Array:
        return self.linear(state.x)


class PromptMerging(nnx.Module):
    """Patch merging that widens the prompts by a linear map of their own."""

    def __init__(self, merging: nnx.Module, *, dtype: Dtype, rngs: nnx.Rngs):
        self.norm, self.reduction = merging.norm, merging.reduction
        channels = self.norm.scale.shape[0] // 4
        make = dict(bias=False, init=torch_uniform(channels), dtype=dtype, rngs=rngs)
        self.prompt_up = Linear(channels, 2 * channels, **make)

    def __call__(self, state: Prompted, *, key: jax.Array | None = None) -> Prompted:
        x = rearrange(pad_to(state.x, 2), "s b (h i) (w j) c -> s b h w (j i c)", i=2, j=2)
        return Prompted(self.reduction(self.norm(x), key=key), self.prompt_up(state.prompts))


class PromptBlock(nnx.Module):
    """A block of Swin with prompts; the last of a stage opens a stream per task.

    Prompts are normalised with the tokens, copied to every window, attend and are attended to
    without bias and mask, and averaged over windows to a; then ``p + mlp(norm a)`` goes on. There
    is no residual around their attention alone.

    In the last block a task's stream is ``norm(y + m_t)`` before the projection, y being what the
    attention gives and ``m_t = gelu(q_t k^T) y`` per head, with the raw scores of the task's
    prompt. At its end the stream becomes ``g m_t + (1 - g) f_t``.

    Args:
      block: whose layers it takes over.
      tasks: T.
      last: whether it ends a stage.
      final: whether it ends the last stage: nothing reads its prompts.
      dtype: compute type.
    """

    def __init__(self, block: Block, tasks: int, *, last: bool, final: bool, dtype: Dtype):
        self.norm1, self.attn, self.scale1 = block.norm1, block.attn, block.scale1
        self.norm2, self.mlp, self.scale2 = block.norm2, block.mlp, block.scale2
        # In every block, as in the released code and the published counts; the last ones use it.
        self.prompt_norm = LayerNorm(self.norm1.scale.shape[0], dtype=dtype)
        self.gate = AdapterParam(jnp.zeros((), jnp.float32)) if last else None
        self.final, self.chosen = final, (0, tasks)

    def select(self, start: int, stop: int) -> None:
        """Narrows the streams; all prompts go on."""
        first, _ = self.chosen
        self.chosen = first + start, first + stop

    def __call__(
        self, state: Prompted, *, rate: jax.Array | float = 0.0, key: jax.Array | None = None
    ) -> Prompted:
        keys, (x, prompts) = split(key, 7), state
        y, averaged, maps = self._attend(self.norm1(x), self.norm1(prompts), keys[0])
        x = x + drop_path(self.scale1(y, key=keys[1]), rate, keys[2])
        y = self.scale2(self.mlp(self.norm2(x), key=keys[3]), key=keys[4])
        x = x + drop_path(y, rate, keys[5])
        if not self.final:
            passed, dropped = split(keys[6], 2)
            y = self.mlp(self.norm2(averaged), key=passed)
            prompts = prompts + drop_path(y, rate, dropped)
        if self.gate is not None:
            gate = jax.nn.sigmoid(self.gate[...]).astype(x.dtype)
            x = jnp.concatenate([x[:1], gate * maps + (1 - gate) * x[1:]])
        return Prompted(x, prompts)

    def _attend(self, x, prompts, key):
        """Returns the streams after attention, the prompts averaged, and every m_t or None."""
        attn, keys, T = self.attn, split(key, 3), prompts.shape[2]
        *_, height, width, _ = x.shape
        window, shift = attn.geometry(height, width)
        tokens = into_windows(x, window, shift)
        copies = jnp.broadcast_to(prompts[:, :, None], (*tokens.shape[:3], *prompts.shape[2:]))
        qkv = attn.qkv(jnp.concatenate([copies, tokens], 3), key=keys[0])
        parts = jnp.split(qkv, 3, -1)
        q, k, v = (rearrange(t, "s b w n (h d) -> s b w h n d", h=attn.heads) for t in parts)
        y = attend(q, k, v, *attn.scores(height, width, extra=T))
        averaged = rearrange(y[..., :T, :], "s b w h t d -> s b w t (h d)")
        averaged = attn.proj(averaged, key=keys[1]).mean(2)
        y, maps = y[..., T:, :], None
        streams = joined(y)
        if self.gate is not None:
            start, stop = self.chosen
            scores = jnp.einsum("bwhtd,bwhnd->tbwhn", q[0, ..., start:stop, :], k[0, ..., T:, :])
            maps = joined(gelu(scores)[..., None] * y)
            streams = jnp.concatenate([streams, self.prompt_norm(streams + maps)])
        # As maps: a filter in the projection works on windows.
        streams = rearrange(streams, "s b w (i j) c -> s b w i j c", i=window)
        streams = rearrange(attn.proj(streams, key=keys[2]), "s b w i j c -> s b w (i j) c")
        size = (height, width), window, shift
        maps = None if maps is None else from_windows(maps, *size)
        return from_windows(streams, *size), averaged, maps


def joined(y: jax.Array) -> jax.Array:
    """Heads side by side: ``[S, B, w, heads, N, d]`` -> ``[S, B, w, N, C]``."""
    return rearrange(y, "s b w h n d -> s b w n (h d)")
