"""Gradient surgery on the Gramian: PCGrad and GradVac.

Task i's gradient meets those of the others one after the other and is changed where they
conflict. All of it happens in the basis of the raw gradients: ``v`` ``[T]`` stands for
``sum_t v_t g_t``, so ``<v, g_j> = G[j] v``. The T gradients are changed independently of each
other, so only the meetings of one gradient form a loop.
"""

import jax
import jax.numpy as jnp

from mtl_vision.errors import ConfigError, nearest
from mtl_vision.optim.contracts import Weighting, check_parity, stateless

REDUCTIONS = ("sum", "mean")
ORDERS = ("random", "fixed")


def random_orders(key: jax.Array, T: int) -> jax.Array:
    """Returns ``[T, T]`` int32, every row a random permutation of the tasks."""
    tasks = jnp.broadcast_to(jnp.arange(T), (T, T))
    return jax.random.permutation(key, tasks, axis=1, independent=True)


def pcgrad_in_order(
    gram: jax.Array, orders: jax.Array, *, include_self: bool = False, eps: float = 0.0
) -> jax.Array:
    """PCGrad with given orders: ``v_j -= min(<v, g_j>, 0) / (|g_j|^2 + eps)`` for each j in turn.

    Args:
      gram: ``[T, T]``.
      orders: ``[T, T]`` integers; row i is the order in which gradient i meets all tasks.
      include_self: gradient i also meets its own original; else that place is passed over.
      eps: added to the squared norms.

    Returns: ``[T]``, the sum of the T changed gradients.
    """
    squared = jnp.diagonal(gram) + eps
    squared = jnp.where(squared == 0, 1, squared)  # nothing conflicts with a zero gradient

    def surgery(i, order):
        def meet(v, j):
            step = jnp.minimum(gram[j] @ v, 0) / squared[j]
            if not include_self:
                step = jnp.where(j == i, 0, step)
            return v.at[j].add(-step), None

        return jax.lax.scan(meet, jnp.zeros_like(squared).at[i].set(1), order)[0]

    return jax.vmap(surgery)(jnp.arange(len(gram)), orders).sum(0)


def pcgrad(
    *,
    include_self: bool = False,
    eps: float = 0.0,
    reduction: str = "sum",
    order: str = "random",
    parity: str = "",
) -> Weighting:
    """PCGrad (arXiv 2001.06782, Algorithm 1): conflicting gradients are projected off each other.

    Free of conflict for T = 2; for T > 2 the result may conflict with some task.

    Args:
      include_self: project the changed gradient i off its own original too; after two projections
        that do not commute it may conflict with it.
      eps: added to squared norms. Not relative to the gradients: only for parity.
      reduction: ``sum`` of the T changed gradients, or their ``mean``.
      order: ``random``, drawn anew for every gradient, or ``fixed``, 0 to T - 1.
      parity: ``torchjd`` is the default; ``nash-mtl`` includes the own original, as does
        ``libmtl``, which also adds 1e-8 to the squared norms.

    Raises:
      ConfigError: an unknown reduction, order or parity.
    """
    check_parity(parity, ("torchjd", "libmtl", "nash-mtl"), "pcgrad")
    _check("reduction", reduction, REDUCTIONS)
    _check("order", order, ORDERS)
    include_self = include_self or parity in ("libmtl", "nash-mtl")
    eps = 1e-8 if parity == "libmtl" else eps

    def weights(gram, *, losses, key):
        del losses
        T = len(gram)
        fixed = jnp.broadcast_to(jnp.arange(T), (T, T))
        orders = random_orders(key, T) if order == "random" else fixed
        w = pcgrad_in_order(gram, orders, include_self=include_self, eps=eps)
        return w / T if reduction == "mean" else w

    return stateless(weights)


def gradvac_in_order(
    gram: jax.Array, phi: jax.Array, orders: jax.Array, *, beta: float = 0.5, floor: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """GradVac with given orders: raises ``cos(v, g_j)`` to its target ``phi_ij`` for each j.

    ``v_j += |v| (phi sqrt(1 - cos^2) - cos sqrt(1 - phi^2)) / (|g_j| sqrt(1 - phi^2))`` where
    ``cos < phi``; ``phi <- (1 - beta) phi + beta cos`` always.

    Args:
      gram: ``[T, T]``.
      phi: ``[T, T]`` targets, row i those of gradient i.
      orders: ``[T, T]`` integers; row i is the order in which gradient i meets all tasks; itself
        is passed over.
      beta: weight of the new cosine.
      floor: added to both denominators. With 0, tasks without a gradient are passed over, and
        ``sqrt(1 - phi^2)`` counts as at least the square root of the precision.

    Returns: ``[T]``, the sum of the T changed gradients, and the new `phi`.
    """
    norms = jnp.sqrt(jnp.diagonal(gram))
    least = 0.0 if floor else jnp.finfo(gram.dtype).eps ** 0.5

    def surgery(i, targets, order):
        def meet(carry, j):
            v, targets = carry
            length = jnp.sqrt(jnp.maximum(v @ gram @ v, 0))
            target, cosine = targets[j], gram[j] @ v / (length * norms[j] + floor)
            opening = jnp.maximum(_sine(target), least)
            lift = length * (target * _sine(cosine) - cosine * _sine(target))
            lift = lift / (norms[j] * opening + floor)
            lift = jnp.where(cosine >= target, 0, lift)  # NaN is not >=, and must show
            changed = v.at[j].add(lift), targets.at[j].add(beta * (cosine - target))
            passed = (j == i) | (length * norms[j] + floor == 0)
            return jax.tree.map(lambda a, b: jnp.where(passed, a, b), carry, changed), None

        start = jnp.zeros_like(norms).at[i].set(1)
        return jax.lax.scan(meet, (start, targets), order)[0]

    v, targets = jax.vmap(surgery)(jnp.arange(len(gram)), phi.astype(gram.dtype), orders)
    return v.sum(0), targets.astype(phi.dtype)


def gradvac(*, beta: float = 0.5, parity: str = "") -> Weighting:
    """GradVac (arXiv 2010.05874): PCGrad with learned targets for the cosines, in random orders.

    The state is ``phi`` ``[T, T]``, zeros at first: running means of the cosines between changed
    and original gradients.

    Args:
      beta: weight of the newest cosine, 0 to 1.
      parity: ``torchjd`` and ``libmtl``, which agree, add 1e-8 to both denominators and let tasks
        without a gradient pull their targets to zero.

    Raises:
      ConfigError: an unknown parity.
    """
    check_parity(parity, ("torchjd", "libmtl"), "gradvac")
    floor = 1e-8 if parity else 0.0

    def update(gram, state, *, losses=None, key=None):
        del losses
        orders = random_orders(key, len(gram))
        return gradvac_in_order(gram, state, orders, beta=beta, floor=floor)

    return Weighting(lambda T: jnp.zeros((T, T)), update)


def _sine(cosine):
    return jnp.sqrt(jnp.maximum(1 - cosine * cosine, 0))


def _check(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(
            f"config.optim.aggregator.{field}={value!r} is not one of {', '.join(choices)}."
            f"{nearest(value, choices)}"
        )
