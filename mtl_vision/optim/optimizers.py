"""Optimizers: from one gradient to a direction, before the learning rate.

Each takes rules (path regex, factor on the weight decay); ``()`` stands for the standard ones,
see `decay_factors`. The formulas are PyTorch's, because the papers' recipes are.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_vision import rules


def decay_factors(decay: rules.Rules[float], params: optax.Params) -> Any:
    """Returns the factor on the weight decay of each parameter.

    Args:
      decay: (path regex, factor) rules. ``()`` gives 0 to whatever has one axis or is called
        ``bias`` and 1 to the rest, so kernels, low-rank factors and bias tables decay.
      params: the trained parameters.

    Raises:
      ConfigError: a parameter without a rule, or a rule without a parameter.
    """
    if decay:
        return rules.resolve_tree(decay, params, "optim.decay")

    def standard(path: str, param: jax.Array) -> float:
        return float(param.ndim > 1 and path.rpartition("/")[2] != "bias")

    return rules.map_with_path(standard, params)


def add_decay(weight_decay: float, decay: rules.Rules[float]) -> optax.GradientTransformation:
    """Adds ``weight_decay * factor * parameter`` to the updates."""

    def init(params):
        decay_factors(decay, params)  # a wrong rule is reported before the first step
        return optax.EmptyState()

    def update(updates, state, params=None):
        def add(update, param, factor):
            return update + weight_decay * factor * param if factor else update

        return jax.tree.map(add, updates, params, decay_factors(decay, params)), state

    return optax.GradientTransformation(init, update) if weight_decay else optax.identity()


def adamw(
    decay: rules.Rules[float] = (),
    *,
    weight_decay: float = 0.05,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (arXiv 1711.05101, Algorithm 2)."""
    return optax.chain(optax.scale_by_adam(b1, b2, eps), add_decay(weight_decay, decay))


def adam(
    decay: rules.Rules[float] = (),
    *,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam (arXiv 1412.6980); the decay is an L2 penalty and passes through the moments."""
    return optax.chain(add_decay(weight_decay, decay), optax.scale_by_adam(b1, b2, eps))


def sgd(
    decay: rules.Rules[float] = (),
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """``m <- momentum * m + g`` with ``g`` including the L2 penalty; no dampening."""
    return optax.chain(add_decay(weight_decay, decay), optax.trace(momentum, nesterov))


def norm(tree: Any) -> jax.Array:
    """Returns the L2 norm over all leaves, summed in float32 or wider."""

    def square(x: jax.Array) -> jax.Array:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return jnp.sum(x * x)  # no reshape: sharded leaves stay where they are

    return jnp.sqrt(sum(map(square, jax.tree.leaves(tree)), jnp.zeros(())))


def clipped(tree: Any, largest: float) -> Any:
    """Returns `tree` times ``min(1, largest / (norm + 1e-6))``: PyTorch's `clip_grad_norm_`."""
    return _shrunk(tree, norm(tree), largest)


def _shrunk(tree: Any, size: jax.Array, largest: float) -> Any:
    factor = jnp.minimum(1.0, largest / (size + 1e-6))
    return jax.tree.map(lambda x: x * factor.astype(x.dtype), tree)


class NormState(NamedTuple):
    """The norm of the latest gradient, before clipping."""

    norm: jax.Array


def clip(largest: float = 0.0) -> optax.GradientTransformation:
    """Scales updates by ``min(1, largest / (norm + 1e-6))``, 0 for not at all; keeps the norm."""

    def init(params):
        del params
        return NormState(jnp.zeros(()))

    def update(updates, state, params=None):
        del state, params
        size = norm(updates)
        return (_shrunk(updates, size, largest) if largest else updates), NormState(size)

    return optax.GradientTransformation(init, update)
