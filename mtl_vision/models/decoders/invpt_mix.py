"""The last layer of InvPT (arXiv 2203.07997): stages of three sizes become one map per task."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision.models import convolution
from mtl_vision.models.decoders.enlarged import enlarged_conv
from mtl_vision.models.decoders.task_maps import TaskConv, each, resize_tasks
from mtl_vision.models.layers import NORMAL, BatchNorm, Dtype, Identity, compute_type, expand

STAGES = 3


class Mix(nnx.Module):
    """Joins the stages at twice the size of the last: ``[[B, h, w, T, C], ...]`` -> ``[..., C]``.

    All are brought to the width of the first, enlarged and summed; a 3x3 convolution of every
    task, BatchNorm and ReLU follow. A sum, a resize, a convolution and what widens are linear, so
    the convolution acts on the small, narrow maps of each stage. With gradients that takes half
    the time at a width of 144, and two fifths at 288 (CPU).
    """

    def __init__(self, tasks: int, width: int, *, dtype: Dtype, rngs: nnx.Rngs):
        make = dict(bias=True, own=True, dtype=dtype, rngs=rngs)
        widen = [TaskConv(tasks, width >> i, width, 1, **make) for i in range(1, STAGES)]
        self.widen = nnx.List([Identity(), *widen])
        self.conv = TaskConv(tasks, width, width, 3, init=NORMAL, **make)
        self.norm = BatchNorm(width, tasks=tasks, dtype=dtype)

    def __call__(self, maps: Sequence[jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        y = self._plain(maps) if convolution.is_plain() else self._fast(maps)
        return jax.nn.relu(self.norm(y, key=key))

    def _plain(self, maps):
        first, *others = maps
        size = [n << STAGES for n in first.shape[1:3]]
        pairs = zip(self.widen[1:], others, strict=True)
        wide = [first, *(widen(each(x)) for widen, x in pairs)]
        return self.conv(each(sum(resize_tasks(x, size) for x in wide)))

    def _fast(self, maps):
        kernel, kernels, bias = self.conv.kernel[...], [self.conv.kernel[...]], 0.0
        for widen in self.widen[1:]:
            kernels.append(jnp.einsum("tcd,tijde->tijce", widen.kernel[:, 0, 0], kernel))
            bias += widen.bias[...]
        dtype = compute_type(self.conv.dtype, kernel)
        kernels = [k.astype(dtype) for k in kernels]

        def one(t):
            pairs = zip(maps, kernels, range(STAGES), strict=True)
            return sum(enlarged_conv(x[..., t, :], k[t], 1 << (STAGES - i)) for x, k, i in pairs)

        y = jnp.stack([one(t) for t in range(len(kernel))], -2)
        # What was added in widening meets the zeros around the map.
        rows, columns = (_inside(n) for n in y.shape[1:3])
        added = jnp.einsum("Yi,Xj,td,tijde->YXte", rows, columns, bias, kernel)
        return y + (added + expand(self.conv.bias[...], added.ndim))[None].astype(dtype)


def _inside(size: int) -> np.ndarray:
    """``[size, 3]``: 1 where a tap of a 3-wide kernel is inside the map."""
    place = np.arange(size)[:, None] + np.arange(-1, 2)
    return ((place >= 0) & (place < size)).astype(np.float32)
