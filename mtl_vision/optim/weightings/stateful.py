"""Weightings with memory: smoothed weights, and learned ones."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_vision.optim.contracts import State, Weighting, check_parity
from mtl_vision.optim.weightings.balance import surface


class SmoothState(NamedTuple):
    """State of `cr_mogm`: weights ``[T]``, which tasks they are known of ``[T]``, inner state."""

    w: jax.Array
    known: jax.Array
    inner: State


def cr_mogm(inner: Weighting, *, alpha: float = 0.9, parity: str = "") -> Weighting:
    """CR-MOGM: smooths the weights of another method, ``w = alpha w_before + (1 - alpha) w_inner``.

    The first weights are those of the inner method. A task without a gradient keeps its weight.

    Args:
      inner: any weighting.
      alpha: 0 to 1; the authors suggest ``1 - lr / lr_0``.
      parity: ``torchjd`` also smooths the weight of a task without a gradient.

    Raises:
      ConfigError: an unknown parity.
    """
    check_parity(parity, ("torchjd",), "cr_mogm")

    def init(T: int) -> SmoothState:
        return SmoothState(jnp.zeros(T), jnp.zeros(T, bool), inner.init(T))

    def update(gram, state, *, losses=None, key=None):
        new, inner_state = inner.update(gram, state.inner, losses=losses, key=key)
        looks = gram is not None and not parity
        present = jnp.diagonal(gram) != 0 if looks else jnp.ones(new.shape, bool)
        w = state.w.astype(new.dtype)
        smooth = jnp.where(state.known, alpha * w + (1 - alpha) * new, new)
        w = jnp.where(present, smooth, w)
        return w, SmoothState(w.astype(state.w.dtype), state.known | present, inner_state)

    return Weighting(init, update, inner.needs)


class GradNormState(NamedTuple):
    """State of `gradnorm`.

    s: logits ``[T]`` of the weights.
    adam: state of their optimizer.
    first: sum ``[T]`` of the first losses.
    seen: how many losses ``[T]`` that sum has.
    """

    s: jax.Array
    adam: optax.OptState
    first: jax.Array
    seen: jax.Array


def gradnorm(*, alpha: float = 1.5, lr: float = 0.025, warmup: int = 0) -> Weighting:
    """GradNorm (arXiv 1711.02257, Algorithm 1): learned weights that even out training rates.

    ``v = T softmax(s)``; ``s`` descends ``sum_t |v_t n_t - target_t|`` with the constants
    ``target_t = mean(v n) r_t^alpha`` and ``r_t = (L_t / L_t(0)) / mean(L / L(0))``. The softmax
    form is LibMTL's, the optimizer of ``s`` is an Adam of its own. The norms n are those of all
    shared gradients, so the derivative has a closed form and costs no second backward pass.

    Args:
      alpha: strength of the pull towards equal rates, 0 or more.
      lr: learning rate of ``s``.
      warmup: ``L(0)`` is the mean of this many first losses, with ``v = 1`` meanwhile (LibMTL:
        one epoch); 0 takes the first loss.
    """
    tx = optax.adam(lr, eps=1e-16)  # well below gradient norms of 1e-12

    def init(T: int) -> GradNormState:
        s = jnp.zeros(T)
        return GradNormState(s, tx.init(s), jnp.zeros(T), jnp.zeros(T, jnp.int32))

    def update(gram, state, *, losses, key=None):
        del key
        T, norms = len(gram), jnp.sqrt(jnp.diagonal(gram))
        early = (norms != 0) & (state.seen < max(warmup, 1))
        first = state.first + jnp.where(early, losses, 0)
        seen = state.seen + early
        ready = (norms != 0) & (seen >= max(warmup, 1)) & (~early | (warmup == 0))
        v = T * jax.nn.softmax(state.s)

        def over_ready(x):
            return jnp.where(ready, x, 0).sum() / jnp.maximum(ready.sum(), 1)

        ratio = losses * seen / jnp.where(first == 0, 1, first)
        mean = over_ready(ratio)
        rate = ratio / jnp.where(mean == 0, 1, mean)
        gap = v * norms - over_ready(v * norms) * rate**alpha
        by_v = jnp.where(ready, jnp.sign(gap) * norms, 0)
        by_s = v * (by_v - v @ by_v / T)
        steps, adam = tx.update(by_s.astype(state.s.dtype), state.adam)
        s, adam = jax.tree.map(
            lambda new, old: jnp.where(ready.any(), new, old),
            (state.s + steps, adam),
            (state.s, state.adam),
        )
        first = first.astype(state.first.dtype)
        return surface(v.astype(gram.dtype), gram), GradNormState(s, adam, first, seen)

    return Weighting(init, update)
