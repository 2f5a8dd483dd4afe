"""CAGrad and IMGrad: the mean gradient, moved within a ball to help the task that gains least.

``g0`` is the mean gradient and ``g_w = sum_t w_t g_t``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_vision.errors import ConfigError
from mtl_vision.optim.contracts import Weighting, check_parity, stateless
from mtl_vision.optim.solvers import UnitGramian, minimize_on_simplex, unit_gramian
from mtl_vision.optim.weightings.balance import surface
from mtl_vision.optim.weightings.min_norm import min_norm_point

NORM_EPS = 1e-4  # TorchJD's bound on the trace, and on |g_w| over the root of the trace
LIBMTL_EPS = 1e-8


class Point(NamedTuple):
    """Iterate of `best_in_ball`; or a step of one.

    v: ``[T]``, ``d = g0 + |g0| v``.
    w: ``[T]``, positive; weights of the tasks that gain least, 1 in all at the end.
    slack: ``[T]``, positive; what a task gains more than the least.
    least: the least gain.
    edge: positive; weight of the bound on v.
    room: positive; ``(radius^2 - |v|^2) / 2``.
    """

    v: jax.Array
    w: jax.Array
    slack: jax.Array
    least: jax.Array
    edge: jax.Array
    room: jax.Array


def best_in_ball(
    unit: UnitGramian, radius: float, balance: jax.Array | float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Maximizes ``min_t <g_t, d>`` over ``|d - g0| <= radius |g0|``.

    A primal-dual interior point finds d and, with it, the w on the simplex that minimizes
    ``<g_w, g0> + radius |g0| |g_w| + balance |g_w|^2``. Where no d serves all tasks g_w is 0 and
    its direction is noise; d is well defined there too, and conflicts with no task if one such is
    near enough.

    Args:
      unit: the unit Gramian. Inactive tasks are ignored, except that g0 is the mean over all T.
      radius: above 0.
      balance: 0 or more.

    Returns: weights ``[T]`` of d, the smallest ones where gradients depend on each other; and
      ``|g_w|`` over the norm of all gradients together.
    """
    active, T, limits = unit.active, len(unit.norms), jnp.finfo(unit.norms.dtype)
    norms = jnp.where(active, unit.norms, 0)
    norms = norms / jnp.maximum(jnp.max(norms), limits.tiny)
    values, vectors = jnp.linalg.eigh(unit.cosines)
    values = jnp.where(values > T * limits.eps, values, 0)
    units = vectors * jnp.sqrt(values)[None]  # rows with the cosines of the gradients
    rows = norms[:, None] * units
    mean = jnp.sum(rows, axis=0) / T
    size = jnp.sqrt(mean @ mean)
    divisor = jnp.where(size > 0, size, 1)
    gains, bend = rows @ mean / divisor, 2 * balance / divisor * rows @ rows.T

    def newton(_, x):
        step = _newton_step(x, rows, gains, bend, radius, active)
        new = jax.tree.map(lambda p, dp: p + _length(x, step) * dp, x, step)
        w, slack, edge, room = (jnp.maximum(p, limits.tiny) for p in _positive(new))
        new = Point(new.v, jnp.where(active, w, 0), slack, new.least, edge, room)
        ok = jnp.stack([jnp.isfinite(p).all() for p in new]).all()
        return jax.tree.map(lambda p, old: jnp.where(ok, p, old), new, x)

    x = jax.lax.fori_loop(0, 20, newton, _start(gains, radius, active))
    v = x.v * radius / jnp.maximum(jnp.sqrt(x.v @ x.v), radius)
    move = units @ jnp.where(values > 0, v / jnp.where(values > 0, values, 1), 0)
    w = 1 / T + size * move / jnp.where(norms > 0, norms, 1)
    whole = jnp.sqrt(jnp.maximum(jnp.sum(norms**2), limits.tiny))
    return jnp.where(active, w, 0), jnp.sqrt(jnp.sum((x.w @ rows) ** 2)) / whole


def _positive(x):
    return x.w, x.slack, x.edge, x.room


def _start(gains, radius, active):
    least = jnp.min(jnp.where(active, gains, jnp.inf)) - 0.1 * jnp.max(jnp.abs(gains))
    slack = jnp.where(active, gains - least, 1)
    count = jnp.maximum(jnp.sum(active), 1).astype(gains.dtype)
    w = jnp.where(active, 1 / count, 0)
    room = jnp.full_like(least, radius**2 / 2)
    return Point(jnp.zeros_like(gains), w, slack, least, w @ slack / count / room, room)


def _length(x, step):
    """Returns the length of a step that keeps 1 % of what is positive."""
    ratios = [
        jnp.max(jnp.where(p > 0, -dp / jnp.where(p > 0, p, 1), 0))
        for p, dp in zip(_positive(x), _positive(step), strict=True)
    ]
    return jnp.minimum(1, 0.99 / jnp.maximum(jnp.max(jnp.stack(ratios)), 0.99))


def _newton_step(x, rows, gains, bend, radius, active):
    """Returns the Newton step towards a tenth of the present complementarity.

    The system is not reduced to fewer unknowns: that would cost float32 half of its digits.
    """
    T, dtype = len(gains), gains.dtype
    v, w, slack, least, edge, room = x
    count = jnp.sum(active).astype(dtype) + 1
    mu = 0.1 * (w @ slack + edge * room) / count
    surplus = jnp.where(active, slack - (gains + rows @ v + bend @ w - least), 0)
    excess = room - (radius**2 - v @ v) / 2
    column, one = jnp.zeros((T, 1), dtype), jnp.eye(T, dtype=dtype)
    tasks = w[:, None] * bend + jnp.diag(jnp.where(active, slack, 1))
    system = jnp.block(
        [
            [-edge * one, rows.T, column, -v[:, None]],
            [w[:, None] * rows, tasks, -w[:, None], column],
            [column.T, active[None].astype(dtype), jnp.zeros((1, 2), dtype)],
            [-edge * v[None], column.T, jnp.stack([jnp.zeros_like(room), room])[None]],
        ]
    )
    scalars = jnp.stack([1 - jnp.sum(w), mu + edge * (excess - room)])
    target = jnp.where(active, mu - w * slack + w * surplus, 0)
    step = jnp.linalg.solve(system, jnp.concatenate([edge * v - w @ rows, target, scalars]))
    dv, dw = step[:T], jnp.where(active, step[T : 2 * T], 0)
    dleast, dedge = step[2 * T], step[2 * T + 1]
    dslack = jnp.where(active, rows @ dv + bend @ dw - dleast - surplus, 0)
    return Point(dv, dw, dslack, dleast, dedge, -excess - v @ dv)


def _as_libmtl(gram, c):
    """Returns the weights ``[T]`` of LibMTL's and nash-mtl's formulas, with their constants."""
    trace = jnp.trace(gram)
    trace = jnp.where(trace > 0, trace, 1)
    scaled, eps = gram / trace, LIBMTL_EPS / trace
    mean_norm = jnp.sqrt(jnp.mean(scaled) + eps)
    radius = c * mean_norm + LIBMTL_EPS / jnp.sqrt(trace)

    def curve(w):
        rates = scaled @ w
        norm = jnp.sqrt(jnp.maximum(w @ rates, 0) + eps)
        gradient = jnp.mean(scaled, axis=1) + radius * rates / norm
        hessian = radius * (scaled / norm - rates[:, None] * rates[None] / norm**3)
        return gradient / mean_norm, hessian / mean_norm

    ones = jnp.ones_like(gram[0])
    w = minimize_on_simplex(curve, ones, ones > 0)
    norm = jnp.sqrt(jnp.maximum(w @ scaled @ w, 0))
    return 1 / len(w) + radius * w / (norm + LIBMTL_EPS / jnp.sqrt(trace))


def cagrad(
    *,
    c: float = 0.4,
    rescale: int = 1,
    zero_at_pareto: bool = False,
    drop_zero_rows: bool = True,
    parity: str = "",
) -> Weighting:
    """CAGrad (arXiv 2110.14048, Algorithm 1): the d near the mean that is best for the worst task.

    d maximizes ``min_t <g_t, d>`` over ``|d - g0| <= c |g0|``. Unless g_w is 0 that is
    ``d = g0 + c |g0| g_w / |g_w|``, ``w = argmin <g_w, g0> + c |g0| |g_w|`` over the simplex.

    Args:
      c: radius, 0 or more; 0 gives the mean, 1 or more never conflicts. 0.4 in the paper's runs.
      rescale: d is divided by 1 (0), ``1 + c^2`` (1) or ``1 + c`` (2).
      zero_at_pareto: ``d = 0`` where ``|g_w|`` is below 1e-4 of the root of the trace.
      drop_zero_rows: leave out tasks without a gradient.
      parity: ``torchjd`` does not rescale, keeps zero rows, and is 0 at Pareto points and where
        the trace is below 1e-4. ``libmtl`` keeps zero rows and adds 1e-8 to norms; ``nash-mtl``
        also multiplies by T.

    Raises:
      ConfigError: a negative c, an unknown `rescale` or parity.
    """
    check_parity(parity, ("torchjd", "libmtl", "nash-mtl"), "cagrad")
    _check_radius("cagrad", c)
    if rescale not in (0, 1, 2):
        raise ConfigError(f"cagrad: rescale={rescale!r} is not one of 0, 1, 2.")
    torchjd = parity == "torchjd"
    divisor = 1.0 if torchjd else (1.0, 1 + c**2, 1 + c)[rescale]

    def weights(gram, *, losses, key):
        del losses, key
        if parity in ("libmtl", "nash-mtl"):
            times = len(gram) if parity == "nash-mtl" else 1
            return surface(_as_libmtl(gram, c) * times / divisor, gram)
        unit = unit_gramian(gram, drop_zero_rows and not torchjd)
        w, norm = _moved(unit, c)
        if torchjd or zero_at_pareto:
            w = jnp.where(norm < NORM_EPS, 0, w)
        if torchjd:
            w = jnp.where(jnp.trace(gram) < NORM_EPS, 0, w)
        return surface(w / divisor, gram)

    return stateless(weights)


def imgrad(*, c: float = 0.4) -> Weighting:
    """IMGrad (2025, eq. 9): CAGrad that leans on the shortest vector of the hull as tasks balance.

    ``d = g0 + c |g0| g_w / |g_w|``, w minimizes ``(1 - q) (<g_w, g0> + c |g0| |g_w|) + q |g_w|^2``
    over the simplex; q is the cosine of g0 and MGDA's d, 0 where that is 0, 0.999 at most. Tasks
    without a gradient are left out.

    Args:
      c: radius, 0 or more.

    Raises:
      ConfigError: a negative c.
    """
    _check_radius("imgrad", c)

    def weights(gram, *, losses, key):
        del losses, key
        unit = unit_gramian(gram)
        q = _cosine_to_shortest(unit)
        return surface(_moved(unit, c, q / (1 - q))[0], gram)

    return stateless(weights)


def _cosine_to_shortest(unit):
    """Returns the cosine of g0 and the shortest vector of the hull, from 0 to 0.999."""
    limits = jnp.finfo(unit.norms.dtype)
    norms = jnp.where(unit.active, unit.norms, 0)
    norms = norms / jnp.maximum(jnp.max(norms), limits.tiny)
    shortest = norms * min_norm_point(unit)
    products = unit.cosines @ shortest
    square = shortest @ products
    far = square > len(norms) * limits.eps * (shortest @ shortest)
    lengths = jnp.sqrt(jnp.where(far, square, 1) * (norms @ unit.cosines @ norms))
    return jnp.clip(jnp.where(far, norms @ products / jnp.where(far, lengths, 1), 0), 0, 0.999)


def _check_radius(method: str, c: float) -> None:
    if c < 0:
        raise ConfigError(f"{method}: c={c} is negative; 0 is the mean, 0.2 to 1 are usual.")


def _moved(unit, c, balance=0.0):
    """Returns `best_in_ball`, or the mean for a radius of 0."""
    if not c:
        return unit.active / jnp.array(len(unit.norms), unit.norms.dtype), jnp.array(jnp.inf)
    return best_in_ball(unit, c, balance)
