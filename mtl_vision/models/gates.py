"""Gates: which experts a token goes to, with what weight, and how evenly they are used.

Logits are ``[..., E]``. Everything is computed in float32 or wider.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_vision.models.layers import expand, widen

FLOOR = 1e-2  # the least deviation of learned noise


class Routing(NamedTuple):
    """What a gate says of tokens.

    Attributes:
      weights: ``[..., K]`` of the chosen experts' outputs.
      index: ``[..., K]`` int32, the chosen experts.
      load: ``[..., E]`` how likely each expert is chosen under the noise; without, 1 or 0.
    """

    weights: jax.Array
    index: jax.Array
    load: jax.Array


def soft(logits: jax.Array, top: int) -> tuple[jax.Array, jax.Array]:
    """A softmax over all experts, of which the `top` largest stay as they are: weights, index."""
    return jax.lax.top_k(jax.nn.softmax(logits, -1), top)


def renormalised(logits: jax.Array, top: int) -> tuple[jax.Array, jax.Array]:
    """A softmax over the `top` largest logits: weights, index."""
    largest, index = jax.lax.top_k(logits, top)
    return jax.nn.softmax(largest, -1), index


class Kind(NamedTuple):
    """A kind of gate.

    Attributes:
      choose: ``(logits, top) -> (weights, index)``.
      learned: whether the deviation of the noise is learned, and not a number.
      scale: takes noisy logits to the scale of the thresholds of `in_top`.
    """

    choose: Callable[[jax.Array, int], tuple[jax.Array, jax.Array]]
    learned: bool = False
    scale: Callable[[jax.Array], jax.Array] = lambda logits: logits


# The authors' code of `vmoe` compares logits with thresholds behind the softmax. It matters with
# noise alone.
KINDS = {
    "vmoe": Kind(soft),
    "vmoe_authors": Kind(soft, scale=jax.nn.softmax),
    "noisy": Kind(renormalised, learned=True),
}


def route(
    logits: jax.Array,
    top: int,
    kind: Kind,
    *,
    deviation: jax.Array | None = None,
    noise: jax.Array | None = None,
) -> Routing:
    """Chooses `top` experts for every token.

    Args:
      logits: ``[..., E]``.
      top: K, at most E.
      kind: of the gate.
      deviation: of the noise, ``[..., E]`` or a scalar.
      noise: ``[..., E]`` standard normal, or None for none.
    """
    clean, experts = widen(logits), logits.shape[-1]
    noisy = clean if noise is None else clean + deviation * noise
    weights, index = kind.choose(noisy, top)
    if noise is None or top == experts:
        load = jax.nn.one_hot(index, experts, dtype=clean.dtype).sum(-2)
    else:
        load = in_top(clean, noisy, deviation, top, kind.scale)
    return Routing(weights, index, load)


def in_top(
    clean: jax.Array,
    noisy: jax.Array,
    deviation: jax.Array,
    top: int,
    scale: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """The probability that an expert is among the `top`, if its own noise were drawn again.

    ``Phi((clean - threshold) / deviation)`` (arXiv 1701.06538, equation 9): the threshold is the
    largest of the others that are not chosen where it is chosen, else the least of the chosen.

    Returns: ``[..., E]``.
    """
    largest = jax.lax.top_k(scale(noisy), top + 1)[0]
    chosen = noisy > largest[..., top:]
    threshold = jnp.where(chosen, largest[..., top:], largest[..., top - 1 : top])
    return jax.scipy.stats.norm.cdf((clean - threshold) / deviation)


def scattered(weights: jax.Array, index: jax.Array, experts: int) -> jax.Array:
    """Returns the weights of all experts, ``[..., E]``: those ``[..., K]`` of `index`, else 0."""
    chosen = jax.nn.one_hot(index, experts, dtype=weights.dtype)
    return (weights[..., None] * chosen).sum(-2)


def spread(v: jax.Array, eps: float = 0.0) -> jax.Array:
    """``(deviation / mean)^2`` on the last axis, the deviation unbiased; 0 for one expert.

    `eps` is added to the squared mean.
    """
    if v.shape[-1] == 1:
        return jnp.zeros(v.shape[:-1], v.dtype)
    return v.var(-1, ddof=1) / (jnp.square(v.mean(-1)) + eps)


def balance(routing: Routing) -> jax.Array:
    """The loss of uneven experts, summed over streams: ``cv^2(importance) + cv^2(load)``.

    Importance is the sum of the weights over all tokens of the batch, and load that of
    `Routing.load` (arXiv 1701.06538, section 4 and appendix A).

    Args:
      routing: of tokens ``[S, B, ...]``, a gate each for the S streams.
    """
    weights = scattered(routing.weights, routing.index, routing.load.shape[-1])
    sums = (x.sum(range(1, x.ndim - 1)) for x in (weights, routing.load))
    return sum(spread(v, 1e-10).sum() for v in sums)


def per_stream(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``x_t W_t``: ``[1 or T, ..., D]``, ``[T, D, E]`` -> ``[T, ..., E]``; ``[D, E]`` for all."""
    x, kernel = widen(x), widen(kernel)
    if kernel.ndim == 2:
        return x @ kernel
    if x.shape[0] == 1:
        return jnp.einsum("...d,tde->t...e", x[0], kernel)
    return jnp.einsum("t...d,tde->t...e", x, kernel)


def condition(logits: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds ``[T, E]`` to ``[1 or T, ..., E]``."""
    T, E = bias.shape
    return logits + expand(bias.reshape(T, *[1] * (logits.ndim - 2), E), logits.ndim)
