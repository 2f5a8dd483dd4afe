"""Small convex problems that some weightings solve on the Gramian, with fixed iteration counts.

T is the number of tasks. Everything works on the Gramian of unit gradients or on the Gramian over
its trace, so numbers stay near one whatever the gradients' scale, and float32 suffices; float64
in gives float64 out. Loops have a fixed length and a converged iterate stays where it is, so all
functions jit, vmap and scan.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

TINY = 1e-24  # a task whose squared norm is at most this share of the trace has no gradient
Curve = Callable[[jax.Array], tuple[jax.Array, jax.Array]]  # y -> gradient [T], Hessian [T, T]


class UnitGramian(NamedTuple):
    """The Gramian of unit gradients ``g_t / n_t``.

    cosines: ``[T, T]``; rows and columns of inactive tasks are those of the identity.
    norms: ``[T]`` n, positive; 1 for inactive tasks.
    active: ``[T]`` bool, the tasks that take part.
    """

    cosines: jax.Array
    norms: jax.Array
    active: jax.Array


def has_gradient(gram: jax.Array) -> jax.Array:
    """Returns ``[T]`` bool: ``G_tt > 1e-24 trace(G)``."""
    squares = jnp.diagonal(gram)
    return squares > TINY * jnp.sum(squares)


def unit_gramian(gram: jax.Array, drop_zero_rows: bool = True) -> UnitGramian:
    """Divides the norms out of the Gramian.

    Args:
      gram: ``[T, T]``, symmetric and positive semi-definite up to rounding.
      drop_zero_rows: tasks without a gradient are inactive. If False all tasks are active, and a
        zero row stays zero, with a norm far below all others.
    """
    present = has_gradient(gram)
    norms = jnp.sqrt(jnp.where(present, jnp.diagonal(gram), 1))
    pairs = present[:, None] & present[None]
    cosines = jnp.where(pairs, gram / norms[:, None] / norms[None], 0)
    if drop_zero_rows:
        return UnitGramian(
            jnp.where(pairs, cosines, jnp.eye(len(gram), dtype=gram.dtype)), norms, present
        )
    least = jnp.finfo(gram.dtype).eps * jnp.max(jnp.where(present, norms, 0))
    least = jnp.where(least > 0, least, 1)
    return UnitGramian(cosines, jnp.where(present, norms, least), jnp.ones_like(present))


def project_simplex(point: jax.Array, active: jax.Array) -> jax.Array:
    """Returns the nearest w ``[T]`` with ``w >= 0``, ``sum w = 1`` and 0 for inactive tasks.

    Args:
      point: ``[T]``.
      active: ``[T]`` bool. If none is, w is 0.
    """
    order = jnp.sort(jnp.where(active, point, -jnp.inf), descending=True)
    shifts = (jnp.cumsum(order) - 1) / jnp.arange(1, len(point) + 1).astype(point.dtype)
    last = jnp.maximum(jnp.sum(order > shifts) - 1, 0)
    return jnp.where(active, jnp.maximum(point - shifts[last], 0), 0)


def complementary(matrix: jax.Array, q: jax.Array) -> jax.Array:
    """Solves ``y = M x + q, x >= 0, y >= 0, x y = 0`` by block principal pivoting.

    All tasks on the wrong side change sides as long as their number falls, and a few times more;
    else only the last of them does, which ends after finitely many steps. 6 suffice for up to
    eight independent gradients; dependent ones need more, 6 T have been enough up to T = 12.

    Args:
      matrix: ``[T, T]`` M, symmetric and positive definite.
      q: ``[T]``.

    Returns: ``[T]`` x.
    """
    index, one = jnp.arange(len(q)), jnp.eye(len(q), dtype=q.dtype)

    def solve(passive):
        masked = jnp.where(passive[:, None] & passive[None], matrix, one)
        return jnp.linalg.solve(masked, jnp.where(passive, -q, 0))

    def pivot(_, state):
        passive, best, patience = state
        x = solve(passive)
        size = jnp.maximum(jnp.max(jnp.abs(x)), jnp.max(jnp.abs(q)))
        wrong = jnp.where(passive, x, matrix @ x + q) < -30 * jnp.finfo(q.dtype).eps * size
        count = jnp.sum(wrong)
        better = count < best
        last = index == jnp.max(jnp.where(wrong, index, -1))
        flip = jnp.where(better | (patience > 0), wrong, last)
        patience = jnp.where(better, 3, jnp.maximum(patience - 1, 0))
        return passive ^ flip, jnp.minimum(best, count), patience

    start = jnp.zeros(len(q), bool), jnp.array(len(q) + 1), jnp.array(3)
    passive = jax.lax.fori_loop(0, max(12, 6 * len(q)), pivot, start)[0]
    return jnp.maximum(solve(passive), 0)


def minimize_on_simplex(curve: Curve, a: jax.Array, active: jax.Array) -> jax.Array:
    """Minimizes a convex function over ``y >= 0, a^T y = 1`` by a primal-dual interior point.

    30 perturbed Newton steps on ``grad f = lam a + z``, ``y z = mu``, with one step length and
    without a line search; for MGDA 20 reach the floor of float64.

    Args:
      curve: gradient and Hessian of f, of the order of one.
      a: ``[T]``, 0 to 1, the largest 1.
      active: ``[T]`` bool; y is 0 for the other tasks.

    Returns: ``[T]`` y; all 0 if no task is active.
    """
    floor = jnp.finfo(a.dtype).tiny
    a, pairs = jnp.where(active, a, 0), active[:, None] & active[None]
    count = jnp.maximum(jnp.sum(active), 1).astype(a.dtype)
    total = jnp.maximum(jnp.sum(a), floor)

    def mask(x):
        return jnp.where(active, x, 0)

    def newton(_, state):
        y, z, lam = state
        gradient, hessian = curve(y)
        inverse = mask(1 / jnp.where(active, y, 1))
        slack = mask(y * z - 0.1 * jnp.sum(mask(y * z)) / count)
        top = jnp.where(pairs, hessian, 0) + jnp.diag(jnp.where(active, z * inverse, 1))
        system = jnp.block([[top, -a[:, None]], [a[None], jnp.zeros((1, 1), a.dtype)]])
        off = mask(gradient - lam * a - z) + slack * inverse
        step = jnp.linalg.solve(system, jnp.append(-off, 1 - jnp.sum(a * y)))
        dy, dlam = mask(step[:-1]), step[-1]
        dz = -(slack + z * dy) * inverse
        ratio = jnp.maximum(jnp.max(-dy * inverse), jnp.max(mask(-dz / z)))
        length = jnp.minimum(1, 0.995 / jnp.maximum(ratio, floor))
        y_new, z_new = (
            mask(jnp.maximum(y + length * dy, floor)),
            jnp.maximum(z + length * dz, floor),
        )
        ok = jnp.isfinite(step).all() & jnp.isfinite(length)
        moved = y_new, z_new, lam + length * dlam
        return jax.tree.map(lambda new, old: jnp.where(ok, new, old), moved, state)

    y = mask(jnp.ones_like(a)) / total
    gradient = mask(curve(y)[0])
    lowest = jnp.min(jnp.where(active, gradient, jnp.inf))
    size = jnp.maximum(jnp.max(jnp.abs(gradient)), jnp.finfo(a.dtype).eps)
    z = mask(gradient - lowest) + 0.1 * size
    lam = jnp.sum(mask(gradient - z)) / total
    y = jax.lax.fori_loop(0, 30, newton, (y, z, lam))[0]
    return y / jnp.maximum(jnp.sum(a * y), floor)


def fair_point(cosines: jax.Array, scale: jax.Array, alpha: float) -> jax.Array:
    """Solves ``(B y)_t = m_t y_t^(-1/alpha)``, ``y > 0``, with ``B = sqrt(m m^T) C``, by Newton.

    y is the minimum of ``y^T B y / 2 - sum m y^(1 - 1/alpha) / (1 - 1/alpha)``, a logarithm for
    ``alpha = 1``. That one is self-concordant, and steps of ``1 / (1 + decrement)`` always
    converge; the others take the best of eight halvings. 12 of the 30 steps suffice but for
    gradients that are nearly opposite, or far apart in norm with a large alpha.

    Args:
      cosines: ``[T, T]`` C, positive definite with a diagonal of about one.
      scale: ``[T]`` m, positive; has no effect for ``alpha = 1`` if it is one.
      alpha: fairness, above 0.

    Returns: ``[T]`` y.
    """
    power = 1 - 1 / alpha
    root = jnp.sqrt(scale)
    matrix = cosines * root[:, None] * root[None]
    halvings = 0.5 ** jnp.arange(8, dtype=scale.dtype)[:, None]

    def value(y):  # [8, T] -> [8], up to a constant
        utility = jnp.expm1(power * jnp.log(y)) / power
        return jnp.sum(y * (y @ matrix) / 2 - scale[None] * utility, axis=1)

    def length(y, step, decrement):
        if not power:
            return jnp.where(decrement < 0.25, 1, 1 / (1 + decrement))
        longest = 0.95 / jnp.maximum(jnp.max(-step), 0.95)  # keeps y positive
        values = value(y[None] * (1 + longest * halvings * step[None]))
        best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
        # Near the solution the differences of the values are rounding.
        near = decrement < 1e-2 * jnp.max(root)
        return longest * jnp.where(near, 1, halvings[best, 0])

    def newton(_, y):
        utility = scale * y**power
        residual = utility - y * (matrix @ y)
        system = matrix * y[:, None] * y[None] + jnp.diag(utility / alpha)
        step = jnp.linalg.solve(system, residual)  # relative to y
        decrement = jnp.sqrt(jnp.maximum(residual @ step, 0))
        return jnp.where(jnp.isfinite(step).all(), y * (1 + length(y, step, decrement) * step), y)

    return jax.lax.fori_loop(0, 30, newton, jnp.ones_like(scale))
