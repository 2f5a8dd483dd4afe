"""The decoder: what runs at every tap, for every dataset."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.adapters.streams import copy
from mtl_vision.models.decoders.per_task import Outputs, check_dataset
from mtl_vision.models.decoders.task_expert.experts import EXPERTS
from mtl_vision.models.decoders.task_expert.gates import Context, GateOptions
from mtl_vision.models.decoders.task_expert.grid import ToGrid
from mtl_vision.models.decoders.task_expert.heads import HEADS, Predict
from mtl_vision.models.decoders.task_expert.memory import MemoryOptions, TaskTap
from mtl_vision.models.decoders.task_expert.stacked import StackedNorm
from mtl_vision.models.gates import spread
from mtl_vision.models.layers import NORMAL, Dtype, Penalty, TaskParam, gelu

KINDS = "kinds"  # what stands for a dataset where all datasets share the slots


class Options(NamedTuple):
    """What a decoder is, see `task_expert`."""

    width: int
    experts: int
    expert: str
    expert_rank: int
    gate: GateOptions
    memory: MemoryOptions
    reads: str
    slots: str
    head: str
    aux: bool
    aux_weight: float
    balance_weight: float


class Experts(nnx.Module):
    """The experts at one tap and what the gates see of them; shared by all tasks."""

    def __init__(self, d_in: int, options: Options, *, dtype: Dtype = None, rngs: nnx.Rngs):
        count, width, rank = options.experts, options.width, options.expert_rank
        self.layers = EXPERTS[options.expert](count, d_in, width, rank=rank, dtype=dtype, rngs=rngs)
        dynamic = options.gate.dynamic
        self.context = Context(count, width, options.gate, rngs=rngs) if dynamic else None

    def __call__(
        self, x: jax.Array, norm: StackedNorm, *, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """``[S, B, h, w, D]`` -> outputs ``[N, S, B, h, w, C]``, context ``[S, B, h, w, G]``."""
        y = self.layers(x.reshape(-1, *x.shape[2:]))
        y = gelu(norm(y, key=key))
        y = y.reshape(y.shape[0], *x.shape[:-1], y.shape[-1])
        return y, None if self.context is None else self.context(y)


class Slots(nnx.Module):
    """Memory and task-specific layers at all taps, stacked over tasks (or over kinds)."""

    def __init__(
        self,
        count: int,
        channels: Sequence[int],
        options: Options,
        *,
        kind: type[nnx.Param],
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        memory, shape = options.memory, (count, options.width)
        learned = memory.enabled and memory.init == "learned"
        self.memory = kind(NORMAL(rngs.params(), shape, jnp.float32)) if learned else None
        streams = options.reads == "both"
        self.taps = nnx.List(
            [
                TaskTap(
                    count,
                    options.experts,
                    d_in if streams else 0,
                    options.width,
                    options.gate,
                    memory,
                    kind=kind,
                    dtype=dtype,
                    rngs=rngs,
                )
                for d_in in channels
            ]
        )


class TaskExpert(nnx.Module):
    """Experts, gates and memory at every tap, heads on the memory; see `task_expert`.

    Every dataset has norms and heads of its own, experts are for all.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels, strides: of the backbone's taps, finest first.
      taps: indices of those that are read.
      options: see `Options`.
      memory_stride: of the grid of the memory; 0 for the taps' own.
      dtype: compute type.
      rngs: of the parameters.
    """

    def __init__(
        self,
        outputs: Outputs,
        channels: Sequence[int],
        strides: Sequence[int],
        options: Options,
        *,
        taps: Sequence[int],
        memory_stride: int,
        dtype: Dtype = None,
        rngs: nnx.Rngs,
    ):
        make, width = dict(dtype=dtype, rngs=rngs), options.width
        self.kinds = {dataset: tuple(kinds) for dataset, kinds in outputs.items()}
        channels, strides = [channels[i] for i in taps], [strides[i] for i in taps]
        self.grid = ToGrid(channels, strides, memory_stride, **make)
        channels = self.grid.channels
        self.experts = nnx.List([Experts(d_in, options, **make) for d_in in channels])
        self.all_kinds = tuple(dict.fromkeys(k for kinds in self.kinds.values() for k in kinds))
        if options.slots == "kind":
            groups, kind = {KINDS: self.all_kinds}, nnx.Param
        else:
            groups, kind = self.kinds, TaskParam
        self.slots = nnx.Dict(
            {n: Slots(len(g), channels, options, kind=kind, **make) for n, g in groups.items()}
        )
        self.norms = nnx.Dict(
            {
                dataset: nnx.List([_norms(len(kinds), options, dtype) for _ in channels])
                for dataset, kinds in self.kinds.items()
            }
        )
        head = HEADS[options.head]
        self.heads = nnx.Dict({name: head(kinds, width, **make) for name, kinds in outputs.items()})
        before_last = channels[1:] if options.aux else ()
        self.aux = nnx.Dict(
            {
                name: nnx.List([Predict(kinds, width, **make) for _ in before_last])
                for name, kinds in outputs.items()
            }
        )
        self.penalty = Penalty(jnp.zeros(())) if options.balance_weight else None
        self.taps, self.options = tuple(taps), options
        self.intermediate_weight = options.aux_weight

    def __call__(
        self,
        trunk: Sequence[jax.Array] | None,
        streams: Sequence[jax.Array] | None,
        *,
        dataset: str,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array | tuple[jax.Array, ...]]:
        """Decodes the tasks of `dataset`; see `PerTask`.

        Returns: ``{kind: [B, h', w', K]}``; with a key and `aux` tuples of the final prediction
          and one from the memory after every tap but the last.
        """
        memories, gates = self.run(trunk, streams, dataset=dataset, key=key)
        if self.penalty is not None and key is not None:
            uneven = sum(spread(g.mean((0, 1, 2, 3))) for g in gates)
            self.penalty[...] = self.options.balance_weight * uneven
        out = self.heads[dataset](memories[-1], key=key)
        if key is None or not self.options.aux:
            return out
        steps = zip(self.aux[dataset], memories[:-1], strict=True)
        between = [predict(memory) for predict, memory in steps]
        return {kind: (y, *(one[kind] for one in between)) for kind, y in out.items()}

    def entries(self) -> tuple[str, ...]:
        """Returns the names of what gates weigh: experts, and memory and stream where there are."""
        names = [f"expert {k + 1}" for k in range(self.options.experts)]
        names += ["memory"] * self.options.memory.enabled
        return (*names, *["stream"] * (self.options.reads == "both"))

    def run(
        self,
        trunk: Sequence[jax.Array] | None,
        streams: Sequence[jax.Array] | None,
        *,
        dataset: str,
        key: jax.Array | None,
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns memory ``[T, B, h, w, C]`` and gates ``[T, B, h, w, n]`` after every tap."""
        check_dataset(dataset, self.kinds)
        shared, own = self._levels(trunk, streams)
        slots = self._slots(dataset)
        memory, memories, gates = self._start(slots, dataset, shared[0].dtype), [], []
        for experts, tap, norms, x, stream in zip(
            self.experts, slots.taps, self.norms[dataset], shared, own, strict=True
        ):
            y, context = experts(x, norms["experts"], key=key)
            gate, entries = tap.gates_and_own(context, memory, stream)
            features = assemble(gate, y, entries)
            if tap.write is not None:
                memory = tap.write(memory, features, norms["write"], key=key)
            else:
                memory = features if memory is None else memory + features
            memories.append(memory)
            gates.append(gate)
        return memories, gates

    def _levels(self, trunk, streams):
        """What the experts read, ``[S, B, h, w, D]`` per tap, and the tasks' own or None."""
        reads = self.options.reads
        if not reads and streams is not None:
            raise ConfigError(
                "config.decoder.reads is empty, but adapters give every task a stream. Use 'both', "
                "'streams', or 'trunk' to leave them out."
            )
        wanted = {"streams": streams, "both": streams}.get(reads, ())
        if wanted is None:
            raise ConfigError(
                f"config.decoder.reads={reads!r} needs task streams, which no adapter opens here. "
                "Use 'trunk'."
            )
        if reads != "streams" and trunk is None:
            raise ConfigError(
                f"config.decoder.reads={reads!r} needs a trunk, which the adapters do not keep. "
                "Use 'streams'."
            )
        picked = [
            None if levels is None else self.grid([levels[i] for i in self.taps])
            for levels in (trunk if reads != "streams" else streams, streams)
        ]
        shared = picked[0] if reads == "streams" else [x[None] for x in picked[0]]
        return shared, picked[1] if reads == "both" else [None] * len(shared)

    def _slots(self, dataset):
        if self.options.slots != "kind":
            return self.slots[dataset]
        rows = jnp.array([self.all_kinds.index(kind) for kind in self.kinds[dataset]])
        return copy(self.slots[KINDS], lambda path, param: param.replace(param[...][rows]))

    def _start(self, slots, dataset, dtype):  # [T, 1, 1, 1, C]: it becomes a map when written
        if not self.options.memory.enabled:
            return None
        if slots.memory is None:
            count = len(self.kinds[dataset])
            return jnp.zeros((count, 1, 1, 1, self.options.width), dtype)
        return slots.memory.astype(dtype)[:, None, None, None]


def _norms(tasks: int, options: Options, dtype: Dtype) -> nnx.Dict:
    norms = {"experts": StackedNorm(options.experts, options.width, dtype=dtype)}
    if options.memory.enabled:
        norms["write"] = StackedNorm(tasks, options.width, kind=TaskParam, dtype=dtype)
    return nnx.Dict(norms)


def assemble(gates: jax.Array, experts: jax.Array, own: Sequence[jax.Array]) -> jax.Array:
    """``F_t = sum_k g_tk E_k + sum_j g_tj own_tj``.

    Args:
      gates: ``[T, B, h, w, n]``, batch or grid maybe 1.
      experts: ``[N, S, B, h, w, C]``, S is 1 or T.
      own: n - N maps ``[T, B, h, w, C]``, batch and grid maybe 1.

    Returns: ``[T, B, h, w, C]``.
    """
    N, S, B = experts.shape[:3]
    gates = gates.astype(experts.dtype)
    gates = jnp.broadcast_to(gates, (gates.shape[0], B, *gates.shape[2:]))
    weights = gates[..., :N]
    if per_sample := gates.shape[2:4] == (1, 1):
        weights = weights[:, :, 0, 0]
    grid, task = "" if per_sample else "hw", "" if S == 1 else "t"
    shared = experts[:, 0] if S == 1 else experts
    y = jnp.einsum(f"tb{grid}k,k{task}bhwc->tbhwc", weights, shared)
    return y + sum(gates[..., N + j, None] * x for j, x in enumerate(own)) if own else y
