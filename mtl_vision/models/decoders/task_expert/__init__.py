"""A decoder in the manner of TaskExpert (arXiv 2307.15324): experts, gates and a memory."""

from collections.abc import Sequence

from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models.decoders.per_task import Outputs
from mtl_vision.models.decoders.task_expert.decoder import Options, TaskExpert
from mtl_vision.models.decoders.task_expert.experts import EXPERTS
from mtl_vision.models.decoders.task_expert.gates import GateOptions
from mtl_vision.models.decoders.task_expert.heads import HEADS
from mtl_vision.models.decoders.task_expert.memory import MemoryOptions
from mtl_vision.models.layers import Dtype

# C, N and G. With ViT-L on PASCAL-Context, the `budget` ones have 418 and 416 million parameters,
# about the size that later papers give for TaskExpert.
PRESETS = {
    "budget": (448, 6, 128),
    "budget5": (464, 5, 128),
    "small": (256, 5, 64),
    "tiny": (32, 3, 16),
}
READS = ("", "trunk", "streams", "both")
SLOTS = ("task", "kind")


def task_expert(
    *,
    outputs: Outputs,
    channels: Sequence[int],
    strides: Sequence[int],
    preset: str = "small",
    width: int = 0,
    experts: int = 0,
    gate_width: int = 0,
    taps: tuple[int, ...] = (),
    expert: str = "conv",
    expert_rank: int = 16,
    memory: bool = True,
    memory_init: str = "learned",
    memory_write: str = "residual",
    memory_stride: int = 0,
    gate_mode: str = "both",
    gate_norm: str = "softmax",
    gate_granularity: str = "sample",
    gate_temperature: float = 1.0,
    balance_weight: float = 0.0,
    head: str = "bilinear4",
    aux: bool = False,
    aux_weight: float = 1.0,
    reads: str = "",
    slots: str = "task",
    dtype: Dtype = None,
    rngs: nnx.Rngs,
) -> TaskExpert:
    """Shared experts, assembled for every task by gates and written to its memory, tap by tap.

    At tap l, with ``E_k = gelu(BN(expert_k(x)))`` and memory M_t of task t:

        g_t = softmax(W_t [gelu(U concat_k mean E_k); gelu(V_t mean M_t)] + b_t)
        F_t = sum_k g_tk E_k + g_t,N+1 (R_t M_t)
        M_t <- M_t + Conv1x1(gelu(BN(Conv3x3(Conv1x1(F_t)))))

    and heads predict from the last M_t. There is no public code of TaskExpert, and its text gives
    no sizes: this is a reconstruction that agrees with its abstract. Numbers of the paper are not
    to be expected from it.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      channels, strides: of the backbone's taps, finest first.
      preset: a key of `PRESETS`: `width`, `experts` and `gate_width`, where these are 0.
      width: C, channels of experts and memory.
      experts: N.
      gate_width: G.
      taps: indices, from 0, of the taps to read; () for all.
      expert: ``conv`` (1x1 and 3x3), ``linear`` (1x1), or ``lowrank`` (after one 1x1 for all
        experts, a 3x3 to `expert_rank` channels and a 1x1).
      expert_rank: see `expert`.
      memory: whether there is a memory; without, the F_t of all taps are summed.
      memory_init: ``learned`` or ``zeros``.
      memory_write: ``residual``, ``replace`` or ``gated``, see `MemoryOptions`.
      memory_stride: of the memory's grid. Taps on other grids are brought to it, see `ToGrid`.
        0 for their own if they share one, else 16.
      gate_mode: ``both``, ``dynamic`` (without b), or ``static`` (b alone).
      gate_norm: ``softmax`` or ``sigmoid``.
      gate_granularity: a gate for a ``sample``, or for each ``token`` (then nothing is averaged).
      gate_temperature: divides the logits.
      balance_weight: of the squared coefficient of variation of the mean gates, summed over the
        taps, a loss of no task.
      head: ``bilinear4`` or ``deconv2``.
      aux: whether a 1x1 convolution predicts from the memory after every tap but the last.
      aux_weight: of these predictions in the loss of their task.
      reads: ``trunk``; ``streams``: every task's experts, the same for all, read its own stream;
        ``both``: experts read the trunk, and the task's projected stream is one more entry of its
        gate. "" is ``trunk`` where there are no streams, and not allowed where there are.
      slots: memory, gates, read and write for each ``task``, or for each ``kind`` in common to
        the datasets. Norms and heads are always the dataset's.
      dtype: compute type; gates are float32.
      rngs: of the parameters.

    Raises:
      ConfigError: an unknown choice or a number out of range.
    """
    sizes = zip(
        (width, experts, gate_width), lookup(PRESETS, preset, "decoder.preset"), strict=True
    )
    C, N, G = (given or default for given, default in sizes)
    gate = GateOptions(G, gate_mode, gate_norm, gate_granularity, gate_temperature)
    options = Options(
        width=C,
        experts=N,
        expert=expert,
        expert_rank=expert_rank,
        gate=gate,
        memory=MemoryOptions(memory, memory_init, memory_write),
        reads=reads,
        slots=slots,
        head=head,
        aux=aux,
        aux_weight=aux_weight,
        balance_weight=balance_weight,
    )
    _check(options, memory_stride)
    taps = _taps(taps, len(channels))
    return TaskExpert(
        outputs,
        channels,
        strides,
        options,
        taps=taps,
        memory_stride=memory_stride,
        dtype=dtype,
        rngs=rngs,
    )


def _check(options: Options, memory_stride: int) -> None:
    options.gate.check()
    options.memory.check()
    for name, table in (("expert", EXPERTS), ("head", HEADS), ("reads", READS), ("slots", SLOTS)):
        lookup(dict.fromkeys(table), getattr(options, name), f"decoder.{name}")
    numbers = options._asdict() | {"gate_width": options.gate.width}
    for name in ("width", "experts", "gate_width", "expert_rank"):
        _at_least(name, numbers[name], 1)
    for name in ("aux_weight", "balance_weight"):
        _at_least(name, numbers[name], 0)
    _at_least("memory_stride", memory_stride, 0)
    if options.head == "deconv2" and options.width % 2:
        raise ConfigError(
            f"config.decoder.width={options.width} must be even: the head deconv2 halves it."
        )


def _at_least(name, value, least):
    if value < least:
        raise ConfigError(f"config.decoder.{name}={value} is less than {least}.")


def _taps(taps: tuple[int, ...], count: int) -> tuple[int, ...]:
    chosen = tuple(taps) or tuple(range(count))
    if list(chosen) != sorted(set(chosen)) or not set(chosen) <= set(range(count)):
        raise ConfigError(
            f"config.decoder.taps={taps} must rise within 0 to {count - 1}, the backbone's taps."
        )
    return chosen
