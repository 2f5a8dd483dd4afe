"""What M3ViT (arXiv 2210.14793) adds to its heads in training: predictions from all tasks' maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.models.decoders.task_maps import Deconv
from mtl_vision.models.layers import BatchNorm, Conv, Dtype


class Normed(nnx.Module):
    """``norm(layer x)``."""

    def __init__(self, layer: nnx.Module, width: int, *, dtype: Dtype = None):
        self.layer, self.norm = layer, BatchNorm(width, dtype=dtype)

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return self.norm(self.layer(x), key=key)


class Tam(nnx.Module):
    """A task interaction of one level: ``[[B, h, w, C], ...]`` of T tasks -> a prediction of each.

    ``B = sigmoid(mix F)`` with all maps in F weighs the tasks: B is shared evenly by the first
    half of them, 1 - B by the others. What an hourglass makes of the weighted maps, M in 0..1,
    enlarges all: every task predicts from ``f_t (1 + M)`` of all tasks. Convolutions are 3x3, with
    BatchNorm. (VITA-Group/M3ViT, `TamModule`, where the order of tasks is another.)
    """

    def __init__(
        self, kinds: Mapping[str, int], width: int, *, dtype: Dtype = None, rngs: nnx.Rngs
    ):
        make, tasks = dict(dtype=dtype, rngs=rngs), len(kinds)

        def conv(d_in: int, **options: Any) -> Normed:
            return Normed(Conv(d_in, width, 3, **options, **make), width, dtype=dtype)

        self.join, self.weigh, self.mix = conv(tasks * width), conv(width), conv(tasks * width)
        self.down = nnx.List([conv(width, stride=2) for _ in range(2)])
        self.up = nnx.List(
            [Normed(Deconv(width, width, **make), width, dtype=dtype) for _ in range(2)]
        )
        self.heads = nnx.Dict({kind: conv(tasks * width) for kind in kinds})
        self.predict = nnx.Dict({kind: Conv(width, out, 1, **make) for kind, out in kinds.items()})

    def __call__(
        self, maps: Sequence[jax.Array], *, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        x = jax.nn.relu(self.join(jnp.concatenate(maps, -1), key=key))
        share, first = jax.nn.sigmoid(self.weigh(x, key=key)), len(maps) // 2
        parts = [share / first] * first + [(1 - share) / (len(maps) - first)] * (len(maps) - first)
        x = jnp.concatenate([part * x for part, x in zip(parts, maps, strict=True)], -1)
        x = jax.nn.relu(self.mix(x, key=key))
        for layer in (*self.down, self.up[0]):
            x = jax.nn.relu(layer(x, key=key))
        gain = 1 + jax.nn.sigmoid(self.up[1](x, key=key))
        _, height, width, _ = maps[0].shape  # what is no multiple of 4 grew on the way
        gain = gain[:, :height, :width]
        x = jnp.concatenate([gain * x for x in maps], -1)
        return {
            kind: self.predict[kind](jax.nn.relu(head(x, key=key)))
            for kind, head in self.heads.items()
        }


class TamHeads(nnx.Module):
    """The decoder of one dataset: a head per task, and in training `Tam` on some of their maps.

    The heads are named by their place and not by their task, whose loss is not the only one that
    reaches them.

    Args:
      heads: modules with ``features(levels) -> maps`` and ``predict``, in the order of the tasks.
      tams: by the index among the maps that it reads.
      kinds: of the tasks.
    """

    def __init__(self, heads: Sequence[nnx.Module], tams: Mapping[int, Tam], kinds: Sequence[str]):
        self.heads, self.tams = nnx.List(heads), nnx.List(tams.values())
        self.reads, self.kinds = tuple(tams), tuple(kinds)

    def __call__(
        self,
        trunk: Sequence[jax.Array] | None,
        streams: Sequence[jax.Array] | None,
        *,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array | tuple[jax.Array, ...]]:
        found = []
        for t, head in enumerate(self.heads):
            levels = trunk if streams is None else [x[t] for x in streams]
            found.append(head.features(levels, key=key))
        pairs = zip(self.kinds, self.heads, found, strict=True)
        out = {kind: head.predict(maps[-1]) for kind, head, maps in pairs}
        if key is None:
            return out
        between = [
            tam([maps[i] for maps in found], key=key)
            for i, tam in zip(self.reads, self.tams, strict=True)
        ]
        return {kind: (y, *(one[kind] for one in between)) for kind, y in out.items()}
