"""Gates: how much of every expert a task takes, from what the experts see and it remembers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mtl_vision.errors import ConfigError, lookup
from mtl_vision.models.decoders.task_expert.stacked import StackedLinear
from mtl_vision.models.layers import NORMAL, expand, gelu, widen

MODES = {"both": (True, True), "static": (False, True), "dynamic": (True, False)}
NORMS = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}
GRANULARITIES = ("sample", "token")
ZEROS = jax.nn.initializers.zeros


class GateOptions(NamedTuple):
    """What a gate is.

    Attributes:
      width: G, its hidden width.
      mode: which parts of the logits there are: ``dynamic`` (from the input), ``static`` (a
        bias), or ``both``.
      norm: ``softmax`` over the entries, or ``sigmoid`` of each.
      granularity: one gate for a ``sample``, or for every ``token`` of it.
      temperature: what the logits are divided by.
    """

    width: int
    mode: str
    norm: str
    granularity: str
    temperature: float

    @property
    def dynamic(self) -> bool:
        return MODES[self.mode][0]

    def check(self) -> None:
        """Raises ConfigError if a choice is unknown or a number not positive."""
        lookup(MODES, self.mode, "decoder.gate_mode")
        lookup(NORMS, self.norm, "decoder.gate_norm")
        lookup(dict.fromkeys(GRANULARITIES), self.granularity, "decoder.gate_granularity")
        if self.temperature <= 0:
            raise ConfigError(
                f"config.decoder.gate_temperature={self.temperature} divides the logits; it must "
                "be positive."
            )


def pool(x: jax.Array, granularity: str) -> jax.Array:
    """Means over the grid, kept as axes of size 1: ``[..., h, w, C]``, float32 or wider."""
    x = widen(x)
    return x if granularity == "token" else x.mean((-3, -2), keepdims=True)


class Context(nnx.Module):
    """``u = gelu(W concat_k(pool E_k))``, for all tasks: ``[N, B, h, w, C]`` -> ``[B, h, w, G]``.

    W is ``[N, C, G]``, a slice for each expert.
    """

    def __init__(self, count: int, channels: int, options: GateOptions, *, rngs: nnx.Rngs):
        shape = (count, channels, options.width)
        self.kernel = nnx.Param(NORMAL(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(options.width, jnp.float32))
        self.granularity = options.granularity

    def __call__(self, experts: jax.Array) -> jax.Array:
        pooled = pool(experts, self.granularity)
        u = jnp.einsum("n...c,ncg->...g", pooled, self.kernel[...])
        return gelu(u + expand(self.bias[...], u.ndim))


class Gate(nnx.Module):
    """``g_t = softmax((W_t [u; v_t] + b_t) / temperature)`` with ``v_t = gelu(V_t m_t)``.

    All in float32 or wider.

    Args:
      count: of the tasks, T.
      entries: n, what is gated: the experts, then the memory, then the task's stream.
      own: channels of ``m_t``, the pooled features that are the task's own; 0 for none.
      options: see `GateOptions`.
      kind: of the parameters.
      rngs: of the parameters.
    """

    def __init__(
        self,
        count: int,
        entries: int,
        own: int,
        options: GateOptions,
        *,
        kind: type[nnx.Param],
        rngs: nnx.Rngs,
    ):
        dynamic, static = MODES[options.mode]
        make = dict(kind=kind, init=NORMAL, bias_init=ZEROS, rngs=rngs)
        self.mem = StackedLinear(count, own, options.width, **make) if dynamic and own else None
        inputs = options.width * (2 if own else 1)
        self.out = StackedLinear(count, inputs, entries, bias=static, **make) if dynamic else None
        self.bias = None if dynamic else kind(jnp.zeros((count, entries), jnp.float32))
        self.options = options

    def __call__(self, context: jax.Array | None, own: jax.Array | None) -> jax.Array:
        """Returns ``[T, B, h, w, n]``, h and w 1 unless there is a gate for every token.

        Args:
          context: ``[T or 1, B, h, w, G]`` from `Context`, None for a static gate.
          own: ``[T, B, h, w, m]``, pooled, or None.
        """
        if self.out is None:
            logits = self.bias[...][:, None, None, None]
        else:
            parts = [context] if own is None else [context, gelu(self.mem(own))]
            shape = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
            shape = (self.out.kernel.shape[0], *shape[1:])
            parts = [jnp.broadcast_to(part, (*shape, part.shape[-1])) for part in parts]
            logits = self.out(jnp.concatenate(parts, -1))
        return NORMS[self.options.norm](widen(logits) / self.options.temperature)
