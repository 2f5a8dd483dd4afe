"""What belongs to a task at one tap: how it reads its memory, gates the experts, and writes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import lookup
from mtl_vision.models.decoders.task_expert.gates import Gate, GateOptions, pool
from mtl_vision.models.decoders.task_expert.stacked import StackedConv, StackedLinear, StackedNorm
from mtl_vision.models.layers import Dtype, gelu

INITS = ("learned", "zeros")
WRITES = ("residual", "replace", "gated")


class MemoryOptions(NamedTuple):
    """What the memory is.

    Attributes:
      enabled: without it, what the taps assemble is summed.
      init: ``learned`` vectors at the start, or ``zeros``.
      write: ``residual``: M + W(F); ``replace``: W(F); ``gated``: (1 - z) M + z W(F).
    """

    enabled: bool
    init: str
    write: str

    def check(self) -> None:
        """Raises ConfigError if a choice is unknown."""
        lookup(dict.fromkeys(INITS), self.init, "decoder.memory_init")
        lookup(dict.fromkeys(WRITES), self.write, "decoder.memory_write")


class Write(nnx.Module):
    """``W(F) = Conv1x1(gelu(BN(Conv3x3(Conv1x1(F)))))`` per task, added to the memory."""

    def __init__(
        self,
        count: int,
        channels: int,
        *,
        write: str,
        kind: type[nnx.Param],
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        make = dict(kind=kind, dtype=dtype, rngs=rngs)
        self.conv0 = StackedLinear(count, channels, channels, **make)
        self.conv1 = StackedConv(count, channels, channels, **make)
        self.conv2 = StackedLinear(count, channels, channels, **make)
        # z = sigmoid(Conv1x1([M; F])), the kernel in two halves: M has no grid at the first tap.
        gated, sizes = write == "gated", (count, channels, channels)
        self.keep = StackedLinear(*sizes, bias=False, **make) if gated else None
        self.take = StackedLinear(*sizes, **make) if gated else None
        self.write = write

    def __call__(
        self, memory: jax.Array, features: jax.Array, norm: StackedNorm, *, key: jax.Array | None
    ) -> jax.Array:
        """Memory ``[T, B or 1, h or 1, w or 1, C]``, F ``[T, B, h, w, C]`` -> the new memory."""
        y = self.conv2(gelu(norm(self.conv1(self.conv0(features)), key=key)))
        if self.write == "replace":
            return y
        if self.write == "residual":
            return memory + y
        z = jax.nn.sigmoid(self.keep(memory) + self.take(features))
        return (1 - z) * memory + z * y


class TaskTap(nnx.Module):
    """Everything that tasks have for themselves at one tap.

    Args:
      count: T.
      experts: N.
      d_in: channels of the tap, for the task's stream; 0 if there is none.
      channels: C.
      gate, memory: options.
      kind: of the parameters.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self,
        count: int,
        experts: int,
        d_in: int,
        channels: int,
        gate: GateOptions,
        memory: MemoryOptions,
        *,
        kind: type[nnx.Param],
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        make = dict(kind=kind, dtype=dtype, rngs=rngs)
        own, remembers = int(memory.enabled) + int(d_in > 0), memory.enabled
        self.gate = Gate(count, experts + own, own * channels, gate, kind=kind, rngs=rngs)
        self.read = StackedLinear(count, channels, channels, **make) if remembers else None
        self.write = Write(count, channels, write=memory.write, **make) if remembers else None
        self.stream = StackedLinear(count, d_in, channels, **make) if d_in else None

    def gates_and_own(
        self, context: jax.Array | None, memory: jax.Array | None, stream: jax.Array | None
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Returns the gates ``[T, B, h, w, n]`` and the entries behind the experts'.

        Args:
          context: see `Gate`.
          memory: ``[T, B, h, w, C]``, grid and batch maybe 1, or None.
          stream: ``[T, B, h, w, D]``, or None.
        """
        entries, seen = [], []
        if self.read is not None:
            entries.append(self.read(memory))
            seen.append(memory)
        if self.stream is not None:
            entries.append(self.stream(stream))
            seen.append(entries[-1])
        own = _pooled(seen, self.gate.options)
        return self.gate(context, own), entries


def _pooled(maps, options):  # [[T, B, h, w, C], ...] -> [T, B, h, w, C + ...]
    if not maps or not options.dynamic:
        return None
    pooled = [pool(x, options.granularity) for x in maps]
    shape = jnp.broadcast_shapes(*(x.shape[:-1] for x in pooled))
    return jnp.concatenate([jnp.broadcast_to(x, (*shape, x.shape[-1])) for x in pooled], -1)
