"""Parts of M3ViT: a gate for every task, and the mixture that stands in the place of an MLP."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from mtl_vision.models import gates
from mtl_vision.models.blocks import Mlp
from mtl_vision.models.experts import Experts
from mtl_vision.models.gates import Routing
from mtl_vision.models.layers import (
    AdapterParam,
    LayerNorm,
    Linear,
    Penalty,
    TaskParam,
    gelu,
    split,
    torch_uniform,
    widen,
)

EMBEDDING = 64  # channels that describe a task


class TaskEmbedding(nnx.Module):
    """What a gate knows of the tasks: ``relu(W2 relu(e_t + b1) + b2)``, ``[T, 64]``.

    ``e_t + b1`` is a linear layer of the task's one-hot vector. The authors' code has no
    activation but a GELU in between, and a LayerNorm at the end.
    """

    def __init__(self, tasks: int, *, authors: bool, rngs: nnx.Rngs):
        init = torch_uniform(tasks)
        self.one_hot = TaskParam(init(rngs.params(), (tasks, EMBEDDING), jnp.float32))
        self.bias = AdapterParam(init(rngs.params(), (EMBEDDING,), jnp.float32))
        own = torch_uniform(EMBEDDING)
        self.mix = Linear(EMBEDDING, EMBEDDING, init=own, bias_init=own, dtype="float32", rngs=rngs)
        self.norm = LayerNorm(EMBEDDING) if authors else None

    def __call__(self) -> jax.Array:
        x = self.one_hot[...] + self.bias[...][None]
        if self.norm is None:
            return jax.nn.relu(self.mix(jax.nn.relu(x)))
        return self.norm(self.mix(gelu(x)))


class GateOptions(NamedTuple):
    """What a gate is like; see `m3vit`."""

    top: int
    router: str = "multi"
    kind: str = "vmoe"
    noise: float = 0.0


class Gate(nnx.Module):
    """Tokens ``[1 or T, B, ..., D]`` -> `Routing` of ``[T, B, ...]``, or of one stream.

    The logits are ``x_t W_t``, without bias; see `m3vit` for the kinds.

    Args:
      channels: D.
      experts: E.
      tasks: T.
      options: of the gate.
      rngs: of the parameters.
    """

    def __init__(
        self, channels: int, experts: int, *, tasks: int, options: GateOptions, rngs: nnx.Rngs
    ):
        sees, authors = (
            options.router.startswith("conditioned"),
            options.router.endswith("authors"),
        )
        self.embedding = TaskEmbedding(tasks, authors=authors, rngs=rngs) if sees else None
        channels += EMBEDDING * sees
        own = options.router == "multi"
        shape = (tasks, channels, experts) if own else (channels, experts)
        # The authors' [D, E] has E for its fan-in.
        init, kind = torch_uniform(experts), TaskParam if own else AdapterParam
        self.kernel = kind(init(rngs.params(), shape, jnp.float32))
        learned = gates.KINDS[options.kind].learned
        self.noise = kind(init(rngs.params(), shape, jnp.float32)) if learned else None
        self.options = options

    def logits(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """``[1 or T, B, ..., D]`` -> ``[T, B, ..., E]``."""
        if self.embedding is None:
            return gates.per_stream(x, kernel)
        D = x.shape[-1]
        about = widen(self.embedding()) @ kernel[D:]
        return gates.condition(gates.per_stream(x, kernel[:D]), about)

    def __call__(
        self, x: jax.Array, *, key: jax.Array | None = None, noise: jax.Array | None = None
    ) -> Routing:
        """`noise`, ``[T, B, ..., E]``, is drawn from `key` if None; without both there is none."""
        kind, options = gates.KINDS[self.options.kind], self.options
        clean = self.logits(x, self.kernel[...])
        noisy = kind.learned or options.noise > 0
        if noise is None and key is not None and noisy:
            noise = jax.random.normal(key, clean.shape, clean.dtype)
        if kind.learned:
            deviation = jax.nn.softplus(self.logits(x, self.noise[...])) + gates.FLOOR
        else:
            deviation = options.noise / clean.shape[-1]
        return gates.route(clean, options.top, kind, deviation=deviation, noise=noise)


class Anchor(nnx.Module):
    """``g = a + (b - a) sigmoid(w x + 2)``, ``[..., D]`` -> ``[..., 1]``: how much stays as it was.

    Args:
      channels: D.
      share: (a, b).
      rngs: of the parameters.
    """

    def __init__(self, channels: int, share: tuple[float, float], *, rngs: nnx.Rngs):
        self.kernel = AdapterParam(torch_uniform(channels)(rngs.params(), (channels,), jnp.float32))
        self.bias = AdapterParam(jnp.full((), 2.0, jnp.float32))
        self.share = share

    def __call__(self, x: jax.Array) -> jax.Array:
        low, high = self.share
        y = widen(x) @ widen(self.kernel[...]) + self.bias[...]
        return (low + (high - low) * jax.nn.sigmoid(y))[..., None].astype(x.dtype)


class MixtureMlp(nnx.Module):
    """A mixture of experts in the place of an MLP: ``[1 or T, B, ..., D]`` -> ``[T, B, ..., D]``.

    Args:
      experts: MLPs.
      gate: routes the tokens.
      weight: of the balance in the loss.
      linear: the MLP, where it stays beside the experts.
      anchor: says how much of it, None without.
    """

    def __init__(
        self,
        experts: Experts,
        gate: Gate,
        *,
        weight: float,
        linear: nnx.Module | None = None,
        anchor: Anchor | None = None,
    ):
        self.experts, self.gate, self.weight = experts, gate, weight
        self.linear, self.anchor = linear, anchor
        self.penalty = Penalty(jnp.zeros((), jnp.float32))

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        keys = split(key, 2)
        routing = self.gate(x, key=keys[0])
        if key is not None:
            balance = self.weight * gates.balance(routing)
            self.penalty[...] = balance.astype(self.penalty.dtype)
        y = self.experts(x, routing.weights, routing.index)
        if self.anchor is None:
            return y
        kept = self.anchor(x)
        return kept * self.linear(x, key=keys[1]) + (1 - kept) * y


def upcycle(experts: Experts, mlp: Mlp, mean: float, top: int) -> None:
    """Starts every expert as a slice of the hidden channels of a trained MLP, in place.

    With h of H hidden channels, expert e has slice ``e mod H/h``; if h does not divide H, the first
    h channels. Outputs are scaled so that the mixture is the MLP where all gates are equal and
    every slice is chosen as often.

    Args:
      experts: in the place of `mlp`.
      mlp: the MLP.
      mean: weight of a chosen expert, if all are equal.
      top: K.
    """
    w1, w2, b1 = mlp.fc1.kernel[...], mlp.fc2.kernel[...], mlp.fc1.bias[...]
    H, (E, _, h) = w1.shape[1], experts.fc1.kernel.shape
    count = 1 if H % h else H // h
    scale, pick = count / (top * mean), jnp.arange(E) % count
    cut = slice(count * h)
    experts.fc1.kernel[...] = rearrange(w1[:, cut], "d (m h) -> m d h", m=count)[pick]
    experts.fc1.bias[...] = rearrange(b1[cut], "(m h) -> m h", m=count)[pick]
    experts.fc2.kernel[...] = scale * rearrange(w2[cut], "(m h) d -> m h d", m=count)[pick]
    bias = mlp.fc2.bias[...] * scale / count
    experts.fc2.bias[...] = jnp.broadcast_to(bias[None], experts.fc2.bias.shape)
