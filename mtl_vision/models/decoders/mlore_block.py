"""The block of MLoRE: low-rank experts that all tasks share, and a router per task.

Maps of all tasks are ``[B, h, w, T, C]``, see `task_maps`; E is the number of experts.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision.errors import lookup
from mtl_vision.models.decoders.mlore_merged import MergedBlock
from mtl_vision.models.decoders.task_maps import TaskConv, TaskNorm, each
from mtl_vision.models.gates import renormalised, scattered, soft
from mtl_vision.models.layers import (
    BatchNorm,
    Conv,
    Dtype,
    TaskParam,
    compute_type,
    gelu,
    torch_uniform,
    widen,
)
from mtl_vision.models.resize import resize
from mtl_vision.models.sums import biased

# What a task keeps the largest of: gates, which then no longer add up to 1, or logits.
SELECT = {"gates": soft, "logits": renormalised}


def route(
    logits: jax.Array, scale: jax.Array, noise: jax.Array | None, *, top: int, select: str
) -> jax.Array:
    """The gates of the `top` largest of ``logits + scale * noise``, all others 0.

    Args:
      logits: ``[..., E]`` float32.
      scale: of the noise, ``[..., E]``, of either sign.
      noise: standard normal, ``[..., E]``; None in evaluation.
      top: how many experts a task keeps, from 1 to E.
      select: a key of `SELECT`: what is selected, gates or logits.

    Returns: ``[..., E]``.
    """
    if noise is not None:
        logits = logits + scale * noise.astype(logits.dtype)
    weights, index = lookup(SELECT, select, "decoder.select")(logits, top)
    return scattered(weights, index, logits.shape[-1])


class TaskLinear(nnx.Module):
    """``x_t W_t + b_t``: ``[..., T or 1, C]`` -> ``[..., T, D]``, one product for all tasks.

    Against one product a task it compiles in half the time, and is no slower (CPU).
    """

    def __init__(self, tasks: int, d_in: int, d_out: int, *, dtype: Dtype, rngs: nnx.Rngs):
        init = torch_uniform(d_in)
        self.kernel = TaskParam(init(rngs.params(), (tasks, d_in, d_out), jnp.float32))
        self.bias = TaskParam(init(rngs.params(), (tasks, d_out), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = compute_type(self.dtype, self.kernel)
        x, kernel = x.astype(dtype), self.kernel.astype(dtype)
        if x.shape[-2] == 1:
            y = jnp.einsum("...c,tcd->...td", x[..., 0, :], kernel)
        else:
            y = jnp.einsum("...tc,tcd->...td", x, kernel)
        return biased(y, self.bias.astype(dtype))


class Router(nnx.Module):
    """Maps ``[B, h, w, T, C]`` -> gates ``[B, T, E]`` and gains ``[B, T]`` of the tasks' experts.

    What a task's map holds is summed up twice: by the mean of channels mixed at every place, and
    by one weight per place, the same for all channels. The places are those of `grid`; on another
    grid the weights are resized, and rescaled to the same sum.
    """

    def __init__(
        self,
        tasks: int,
        channels: int,
        experts: int,
        *,
        grid: tuple[int, int],
        top: int,
        select: str,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        quarter, places = channels // 4, torch_uniform(grid[0] * grid[1])
        make = dict(dtype=dtype, rngs=rngs)
        self.near_in = TaskLinear(tasks, channels, quarter, **make)
        self.near_norm = TaskNorm(tasks, quarter, dtype=dtype)
        self.near_out = TaskLinear(tasks, quarter, quarter, **make)
        self.places = TaskParam(places(rngs.params(), (tasks, *grid), jnp.float32))
        self.places_bias = TaskParam(places(rngs.params(), (tasks,), jnp.float32))
        self.far_norm = TaskNorm(tasks, channels, dtype=dtype)
        self.far_out = TaskLinear(tasks, channels, quarter, **make)
        self.out = TaskLinear(tasks, 2 * quarter, 2 * experts + 1, **make)
        self.top, self.select, self.dtype = top, select, dtype

    def __call__(self, x: jax.Array, noise: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """`noise` is standard normal, ``[B, T, E]``, or None in evaluation."""
        near = self.near_out(gelu(self.near_norm(self.near_in(x))))
        near = widen(near).mean((1, 2)).astype(x.dtype)
        far = jnp.einsum("bhwtc,thw->btc", x, self._weights(x)) + self._bias(x)
        far = self.far_out(gelu(self.far_norm(far)))
        scores = widen(self.out(jnp.concatenate([near, far], -1)))
        logits, scale, gain = jnp.split(scores, [scores.shape[-1] // 2, scores.shape[-1] - 1], -1)
        return route(logits, scale, noise, top=self.top, select=self.select), gain[..., 0]

    def _weights(self, x):
        _, height, width, _, _ = x.shape
        _, h, w = self.places.shape
        weights = resize(self.places[..., None], (height, width))[..., 0]
        return (weights * (h * w / (height * width))).astype(x.dtype)

    def _bias(self, x):
        return self.places_bias.astype(x.dtype)[None, :, None]


class Experts(nnx.Module):
    """``sum_i p_i E_i(x)``, E_i a 3x3 convolution C -> r_i and a 1x1 convolution r_i -> C.

    The ranks of all experts lie one after the other on one axis, so all run as one convolution
    without padding, and their sum is one product: ``up (p * down x)``.
    """

    def __init__(self, channels: int, ranks: Sequence[int], *, dtype: Dtype, rngs: nnx.Rngs):
        self.down = _zero_bias(Conv(channels, sum(ranks), 3, dtype=dtype, rngs=rngs))
        bounds = np.repeat(np.asarray(ranks), ranks)[:, None] ** -0.5
        spread = torch_uniform(1)(rngs.params(), (sum(ranks), channels), jnp.float32)
        self.up = nnx.Param(spread * jnp.asarray(bounds, jnp.float32))
        self.up_bias = nnx.Param(jnp.zeros((len(ranks), channels), jnp.float32))
        self.ranks = tuple(ranks)

    def __call__(self, x: jax.Array, gates: jax.Array) -> jax.Array:
        """``[B, T, h, w, C]``, ``[B, T, E]`` -> ``[B, T, h, w, C]``."""
        gates = gates.astype(x.dtype)
        each_rank = gates[..., np.repeat(np.arange(len(self.ranks)), self.ranks)]
        y = (self.down(x) * each_rank[:, :, None, None]) @ self.up.astype(x.dtype)
        return y + (gates @ self.up_bias.astype(x.dtype))[:, :, None, None]

    def products(self) -> tuple[jax.Array, jax.Array]:
        """Returns every expert as one 3x3 convolution: ``[E, 3, 3, C, C]`` and ``[E, C]``."""
        cuts = np.cumsum(self.ranks)[:-1]
        ups = jnp.split(self.up[...], cuts)
        downs = jnp.split(self.down.kernel[...], cuts, -1)
        kernels = [down @ up for down, up in zip(downs, ups, strict=True)]
        inner = [b @ up for b, up in zip(jnp.split(self.down.bias[...], cuts), ups, strict=True)]
        return jnp.stack(kernels), jnp.stack(inner) + self.up_bias[...]


def _zero_bias(layer):
    layer.bias[...] = jnp.zeros_like(layer.bias[...])
    return layer


class MoEBlock(nnx.Module):
    """Maps of all tasks -> maps of all tasks, and the gates ``[B, T, E]``.

    For task t, with z = conv1x1_t(x), gates p and gain m:
    ``conv1x1_t(gelu(BN_t(BN'_t(sum_i p_i E_i(z)) + m E_t(z) + conv3x3(z))))``, where E_i are
    shared, E_t is the task's own expert, and no gradient flows from conv3x3, shared, into z.
    (arXiv 2403.17749, section 3.)
    """

    def __init__(
        self,
        tasks: int,
        channels: int,
        *,
        ranks: Sequence[int],
        task_rank: int,
        router: Router,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        make = dict(dtype=dtype, rngs=rngs)
        self.enter = TaskLinear(tasks, channels, channels, **make)
        self.router = router
        self.experts = Experts(channels, ranks, **make)
        self.experts_norm = BatchNorm(channels, tasks=tasks, dtype=dtype)
        self.task_down = _zero_bias(
            TaskConv(tasks, channels, task_rank, 3, bias=True, own=True, **make)
        )
        self.task_up = _zero_bias(TaskLinear(tasks, task_rank, channels, **make))
        self.shared = Conv(channels, channels, 3, **make)
        self.norm = BatchNorm(channels, tasks=tasks, dtype=dtype)
        self.leave = TaskLinear(tasks, channels, channels, **make)

    def __call__(
        self,
        x: jax.Array,
        *,
        noise: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """`x` is ``[B, h, w, T or 1, C]``; `noise` of the router is ``[B, T, E]`` or None."""
        z = self.enter(x)
        gates, gain = self.router(z, noise)
        # One convolution for all tasks: their axis joins the batch, behind it, where it may be cut.
        folded = jnp.moveaxis(z, -2, 1)
        y = jnp.moveaxis(self.experts(folded, gates), 1, -2)
        y = self.experts_norm(y, key=key)
        own = self.task_up(self.task_down(each(z)))
        y = y + own * gain.astype(own.dtype)[:, None, None, :, None]
        y = y + jnp.moveaxis(self.shared(jax.lax.stop_gradient(folded)), 1, -2)
        return self.leave(gelu(self.norm(y, key=key))), gates

    def merged(self) -> nnx.Module:
        """Returns the block for inference with one convolution per image and task."""
        return MergedBlock(self)
