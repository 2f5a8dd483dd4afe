"""Weights of the shortest vector in the hull of the gradients: MGDA, and its stochastic relatives.

The exact solutions come from `solvers.minimize_on_simplex`; the loops of the published codes are
here as well, because training curves in the literature come from them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mtl_vision.errors import lookup
from mtl_vision.optim.contracts import Weighting, check_parity, stateless
from mtl_vision.optim.solvers import (
    UnitGramian,
    has_gradient,
    minimize_on_simplex,
    project_simplex,
    unit_gramian,
)
from mtl_vision.optim.weightings.balance import surface

DIVISORS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "none": lambda norms, losses: jnp.ones_like(norms),
    "l2": lambda norms, losses: norms,
    "loss": lambda norms, losses: losses.astype(norms.dtype),
    "loss+": lambda norms, losses: losses.astype(norms.dtype) * norms,
}
MODO_GAMMA = {"torchjd": 0.1, "libmtl": 1e-3}
SDMGRAD_LR = {"torchjd": 10.0, "libmtl": 5.0}


def min_norm_point(unit: UnitGramian) -> jax.Array:
    """Returns w ``[T]`` on the simplex of the active tasks that minimizes ``|sum_t w_t g_t|``.

    Args:
      unit: unit Gramian. In ``y = w n / min(n)`` the problem is ``min y^T C y / 2`` on a scaled
        simplex, so a small gradient is as accurate as a large one.
    """
    least = jnp.min(jnp.where(unit.active, unit.norms, jnp.inf))
    a = jnp.where(unit.active, least / unit.norms, 0)
    return a * minimize_on_simplex(lambda y: (unit.cosines @ y, unit.cosines), a, unit.active)


def exact(gram: jax.Array, active: jax.Array) -> jax.Array:
    """Returns the minimum-norm weights ``[T]`` by an interior point."""
    return min_norm_point(unit_gramian(gram, drop_zero_rows=False)._replace(active=active))


def frank_wolfe(gram: jax.Array, active: jax.Array) -> jax.Array:
    """Returns the weights ``[T]`` after 100 steps of Frank-Wolfe (arXiv 1810.04650, Algorithm 2).

    It stops once a step is below 1e-3, as TorchJD does; far from the optimum if gradients are
    nearly opposite.

    Args:
      gram: ``[T, T]``.
      active: ``[T]`` bool, the tasks to use.
    """

    def step(_, state):
        w, going = state
        rates = gram @ w
        t = jnp.argmin(jnp.where(active, rates, jnp.inf))
        a, b, c = rates[t], w @ rates, gram[t, t]
        inner = (c > a) & (b > a)
        between = (b - a) / jnp.where(inner, b + c - 2 * a, 1)
        gamma = jnp.where(c <= a, 1, jnp.where(b <= a, 0, between))
        moved = (1 - gamma) * w + gamma * (jnp.arange(len(w)) == t)
        return jnp.where(going, moved, w), going & (gamma >= 1e-3)

    start = active / jnp.maximum(jnp.sum(active), 1).astype(gram.dtype)
    return jax.lax.fori_loop(0, 100, step, (start, jnp.array(True)))[0]


def _two_points(v11, v12, v22):
    """Returns the weight of the first of two points and the cost, as the published codes have it.

    Where an end is the minimum the weight is 0.999 or 0.001.
    """
    at_first, at_second = v12 >= v11, v12 >= v22
    ends = at_first | at_second
    inner = (v22 - v12) / jnp.where(ends, 1, v11 + v22 - 2 * v12)
    weight = jnp.where(at_first, 0.999, jnp.where(at_second, 0.001, inner))
    cost = jnp.where(at_first, v11, jnp.where(at_second, v22, v22 + inner * (v12 - v22)))
    return weight, cost


def projected_gradient(gram: jax.Array, active: jax.Array) -> jax.Array:
    """Returns the weights ``[T]`` of the "min-norm" solver of LibMTL and nash-mtl.

    Starts at the best pair of tasks and takes up to 250 projected gradient steps with a search
    between two points; stops where the weights change by less than 1e-5 in all and keeps those
    before. Two tasks have a closed form.

    Args:
      gram: ``[T, T]``.
      active: ``[T]`` bool, the tasks to use.
    """
    T, squares = len(gram), jnp.diagonal(gram)
    weight, cost = _two_points(squares[:, None], gram, squares[None])
    pairs = jnp.triu(active[:, None] & active[None], 1)
    i, j = jnp.divmod(jnp.argmin(jnp.where(pairs, cost, jnp.inf)), T)
    best = jnp.zeros_like(squares).at[i].set(weight[i, j]).at[j].add(1 - weight[i, j])
    count = jnp.sum(active)
    start = jnp.where(count < 2, active.astype(gram.dtype), best)

    def step(_, state):
        w, going = state
        p = jnp.where(active, -gram @ w, 0)
        p = jnp.where(active, p - jnp.sum(p) / jnp.maximum(count, 1), 0)
        bound = jnp.where(p < 0, -w, 1 - w) / jnp.where(p == 0, 1, p)
        length = jnp.min(jnp.where((p != 0) & (bound > 1e-7), bound, 1))
        other = project_simplex(w + jnp.minimum(length, 1) * p, active)
        share, _ = _two_points(w @ gram @ w, w @ gram @ other, other @ gram @ other)
        moved = share * w + (1 - share) * other
        going = going & (jnp.sum(jnp.abs(moved - w)) >= 1e-5)
        return jnp.where(going, moved, w), going

    return jax.lax.fori_loop(0, 250, step, (start, count > 2))[0]


SOLVERS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "exact": exact,
    "frank_wolfe": frank_wolfe,
    "min_norm": projected_gradient,
}
PARITY_SOLVERS = {"torchjd": "frank_wolfe", "libmtl": "min_norm", "nash-mtl": "min_norm"}


def mgda(
    *, solver: str = "exact", norm: str = "none", drop_zero_rows: bool = True, parity: str = ""
) -> Weighting:
    """MGDA (arXiv 1810.04650): ``w = argmin w^T G w`` over the simplex.

    d is the shortest vector in the hull of the gradients: ``<g_t, d> >= |d|^2`` for every task,
    and 0 at a Pareto-stationary point. For T = 2:
    ``w_1 = clip((G_22 - G_12) / (G_11 + G_22 - 2 G_12), 0, 1)``.

    Args:
      solver: ``exact``, by an interior point; ``frank_wolfe``, Algorithm 2; ``min_norm``, the
        projected gradient of LibMTL and nash-mtl.
      norm: what gradients are divided by before: nothing, their norm (``l2``), their loss
        (``loss``) or both (``loss+``). d is made of the divided gradients, as in LibMTL.
      drop_zero_rows: leave out tasks without a gradient; else d is 0 as long as there is one.
      parity: ``torchjd`` solves by Frank-Wolfe; ``libmtl`` by ``min_norm``; ``nash-mtl`` too, and
        multiplies by T. All keep zero rows.

    Raises:
      ConfigError: an unknown solver, norm or parity.
    """
    check_parity(parity, tuple(PARITY_SOLVERS), "mgda")
    lookup(SOLVERS, solver, "optim.aggregator.solver")
    divide = lookup(DIVISORS, norm, "optim.aggregator.norm")
    solve = SOLVERS[PARITY_SOLVERS.get(parity, solver)]
    keep_zeros = bool(parity) or not drop_zero_rows

    def weights(gram, *, losses, key):
        del key
        present = has_gradient(gram)
        divisor = divide(jnp.sqrt(jnp.diagonal(gram)), losses)
        divisor = jnp.where(divisor == 0, 1, divisor)
        scaled = gram / divisor[:, None] / divisor[None]
        w = solve(scaled, present | keep_zeros) / divisor
        return surface(w * len(w) if parity == "nash-mtl" else w, scaled)

    return stateless(weights)


def _walk(step: Callable[..., jax.Array], drop_zero_rows: bool) -> Weighting:
    """Returns the Weighting of ``(cross, w, active) -> w``, a walk on the simplex from its middle.

    An absent task keeps its share of the state, and the others walk as if it did not exist.
    """

    def update(cross, state, *, losses=None, key=None):
        del losses, key
        active = _in_both(cross) | (not drop_zero_rows)
        share = jnp.where(active, state.astype(cross.dtype), 0)
        mass = jnp.sum(share)
        even = active / jnp.maximum(jnp.sum(active), 1).astype(cross.dtype)
        start = jnp.where(mass > 0, share / jnp.where(mass > 0, mass, 1), even)
        w = surface(step(cross, start, active), cross)
        return w, jnp.where(active, mass * w, state).astype(state.dtype)

    return Weighting(lambda T: jnp.full(T, 1 / T), update, "cross")


def _in_both(cross):
    """Returns ``[T]`` bool, tasks with a gradient in both mini-batches."""
    return (cross != 0).any(0) & (cross != 0).any(1)


def modo(
    *, gamma: float = 1e-3, rho: float = 0.1, drop_zero_rows: bool = True, parity: str = ""
) -> Weighting:
    """MoDo (Chen et al., JMLR 2024): one projected step a time towards the minimum-norm weights.

    ``w <- project(w - gamma (A w + rho w))`` with ``A = J1 J2^T`` of two mini-batches.

    Args:
      gamma: step size. Not relative: it suits gradients of a norm near one.
      rho: pull towards equal weights.
      drop_zero_rows: leave out tasks without a gradient in either mini-batch.
      parity: ``torchjd`` has gamma 0.1, ``libmtl`` 1e-3; both keep zero rows.

    Raises:
      ConfigError: an unknown parity.
    """
    check_parity(parity, tuple(MODO_GAMMA), "modo")
    size = MODO_GAMMA.get(parity, gamma)

    def step(cross, w, active):
        return project_simplex(w - size * (cross @ w + rho * w), active)

    return _walk(step, drop_zero_rows and not parity)


def sdmgrad(
    *,
    pull: float = 0.3,
    solver: str = "exact",
    lr: float = 5.0,
    drop_zero_rows: bool = True,
    parity: str = "",
) -> Weighting:
    """SDMGrad (arXiv 2305.18409): minimum-norm weights pulled towards the mean.

    ``w = argmin v^T A v / 2 + lambda u^T A v`` over the simplex with ``A = J1 J2^T`` of two
    mini-batches and ``u = 1 / T``; the weights are ``(w + lambda u) / (1 + lambda)``.

    Args:
      pull: lambda, 0 or more.
      solver: ``exact`` takes the symmetric part of A, without negative eigenvalues in the
        quadratic term; ``sgd`` walks 20 steps with momentum 0.5 from the last weights, which is
        unstable for large, well-conditioned A.
      lr: step size of ``sgd``.
      drop_zero_rows: leave out tasks without a gradient in either mini-batch.
      parity: ``sgd`` that keeps zero rows, with lr 10 (``torchjd``) or 5 (``libmtl``).

    Raises:
      ConfigError: an unknown solver or parity.
    """
    check_parity(parity, tuple(SDMGRAD_LR), "sdmgrad")
    lookup({"exact": 0, "sgd": 0}, solver, "optim.aggregator.solver")
    drop_zero_rows = drop_zero_rows and not parity

    def blend(w, active):
        return jnp.where(active, w + pull / len(w), 0) / (1 + pull)

    def by_point(cross, *, losses, key):
        del losses, key
        active = _in_both(cross) | (not drop_zero_rows)
        w = _pulled_point(cross, pull, active)
        return surface(blend(w, active), cross)

    def by_walk(cross, state, *, losses=None, key=None):
        w, state = walk.update(cross, state)
        return blend(w, _in_both(cross) | (not drop_zero_rows)), state

    if solver == "exact" and not parity:
        return stateless(by_point, needs="cross")
    size = SDMGRAD_LR.get(parity, lr)
    walk = _walk(lambda *args: _pulled_walk(*args, pull, size), drop_zero_rows)
    return walk._replace(update=by_walk)


def _pulled_point(cross, pull, active):
    symmetric = (cross + cross.T) / 2
    values, vectors = jnp.linalg.eigh(symmetric)
    scale = jnp.max(jnp.abs(values))
    scale = jnp.where(scale > 0, scale, 1)
    convex = (vectors * jnp.maximum(values, 0)[None] / scale) @ vectors.T
    linear = pull * jnp.mean(symmetric, axis=1) / scale
    a = active.astype(cross.dtype)
    return minimize_on_simplex(lambda w: (convex @ w + linear, convex), a, active)


def _pulled_walk(cross, w, active, pull, lr):
    norms = jnp.sqrt(jnp.maximum(jnp.diagonal(cross), 0))
    scaled = cross / (jnp.mean(norms) ** 2 + 1e-8)

    def step(_, state):
        w, velocity = state
        velocity = 0.5 * velocity + scaled @ (w + pull / len(w))
        return project_simplex(w - lr * velocity, active), velocity

    return jax.lax.fori_loop(0, 20, step, (w, jnp.zeros_like(w)))[0]
