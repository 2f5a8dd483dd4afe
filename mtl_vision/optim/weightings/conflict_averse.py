"""CAGrad and IMGrad: the mean gradient, moved within a ball to help the task that gains least.

``g0`` is the mean gradient and ``g_w = sum_t w_t g_t``. All Gramians here are over their trace.
"""

import jax.numpy as jnp

from mtl_vision.errors import ConfigError
from mtl_vision.optim.contracts import Weighting, check_parity, stateless
from mtl_vision.optim.solvers import Curve, has_gradient, minimize_on_simplex, unit_gramian
from mtl_vision.optim.weightings.balance import surface
from mtl_vision.optim.weightings.cones import REG, dual_cone
from mtl_vision.optim.weightings.min_norm import min_norm_point

NORM_EPS = 1e-4  # TorchJD's bound on the trace, and on |g_w| over the trace's root
LIBMTL_EPS = 1e-8


def _over_trace(gram):
    """Returns the Gramian over its trace, and the trace, 1 where it is 0."""
    trace = jnp.trace(gram)
    trace = jnp.where(trace > 0, trace, 1)
    return gram / trace, trace


def _norm(gram, w):
    return jnp.sqrt(jnp.maximum(w @ gram @ w, 0))


def _objective(gram, radius, unit, smooth=1e-12, square=0.0) -> Curve:
    """Returns the curve of ``(1 - q) (<g_w, g0> + radius |g_w|) + q |g_w|^2``, q = `square`.

    It is divided by `unit`, a norm; `smooth` is added to ``|g_w|^2`` under the root.
    """

    def curve(w):
        rates = gram @ w
        norm = jnp.sqrt(jnp.maximum(w @ rates, 0) + smooth)
        slope = jnp.mean(gram, axis=1) + radius * rates / norm
        bend = radius * (gram / norm - rates[:, None] * rates[None] / norm**3)
        gradient = (1 - square) * slope + 2 * square * rates
        return gradient / unit, ((1 - square) * bend + 2 * square * gram) / unit

    return curve


def _towards_worst(gram, c, active):
    """Returns the weights of d, the best within ``c |g0|`` of g0 for the task that gains least.

    Also returns ``|g_w|``, 0 where nothing gains: then 0 is in the hull, the direction of g_w is
    noise, and the nearest vector to g0 that conflicts with no task is the best, if it is near
    enough.
    """
    T, mean_norm = len(gram), jnp.sqrt(jnp.maximum(jnp.mean(gram), 0))
    unit = jnp.where(mean_norm > 0, mean_norm, 1)
    radius = c * mean_norm
    curve = _objective(gram, radius, unit)
    w = minimize_on_simplex(curve, active.astype(gram.dtype), active)
    norm = _norm(gram, w)
    moved = 1 / T + radius * w / (norm + LIBMTL_EPS)

    cosines, norms, present = unit_gramian(gram)
    u = jnp.where(present, norms / T, 0)
    v = dual_cone(cosines + REG * jnp.eye(T, dtype=gram.dtype), u)
    harmless = v / norms

    def worst(weights):
        return jnp.min(jnp.where(present, gram @ weights, jnp.inf))

    near = _norm(cosines, v - u) <= radius * (1 + 1e-4)
    stuck = near & (worst(harmless) > worst(moved))
    return jnp.where(stuck, harmless, moved), jnp.where(stuck, 0, norm)


def _as_libmtl(gram, trace, c):
    """Returns the weights of LibMTL's and nash-mtl's formulas, with their constants."""
    eps, eps_norm = LIBMTL_EPS / trace, LIBMTL_EPS / jnp.sqrt(trace)
    mean_norm = jnp.sqrt(jnp.mean(gram) + eps)
    radius = c * mean_norm + eps_norm
    curve = _objective(gram, radius, mean_norm, smooth=eps)
    ones = jnp.ones(len(gram), gram.dtype)
    w = minimize_on_simplex(curve, ones, ones > 0)
    return 1 / len(gram) + radius * w / (_norm(gram, w) + eps_norm)


def cagrad(
    *,
    c: float = 0.4,
    rescale: int = 1,
    zero_at_pareto: bool = False,
    drop_zero_rows: bool = True,
    parity: str = "",
) -> Weighting:
    """CAGrad (arXiv 2110.14048, Algorithm 1): the d near the mean that is best for the worst task.

    ``d = g0 + c |g0| g_w / |g_w|``, ``w = argmin <g_w, g0> + c |g0| |g_w|`` over the simplex, which
    maximizes ``min_t <g_t, d>`` over ``|d - g0| <= c |g0|``. Where no such d serves all tasks and
    g_w is 0, d is the nearest vector to g0 that conflicts with none.

    Args:
      c: radius, 0 or more; 0 gives the mean, 1 or more never conflicts. 0.4 in the paper's runs.
      rescale: d is divided by 1 (0), ``1 + c^2`` (1) or ``1 + c`` (2).
      zero_at_pareto: ``d = 0`` where ``|g_w|`` is below 1e-4 of the root of the trace.
      drop_zero_rows: leave out tasks without a gradient.
      parity: ``torchjd`` does not rescale, keeps zero rows, is 0 at Pareto points and where the
        trace is below 1e-4. ``libmtl`` keeps zero rows and adds 1e-8 to norms; ``nash-mtl`` also
        multiplies by T.

    Raises:
      ConfigError: a negative c, an unknown `rescale` or parity.
    """
    check_parity(parity, ("torchjd", "libmtl", "nash-mtl"), "cagrad")
    if c < 0:
        raise ConfigError(f"cagrad: c={c} is negative; 0 is the mean, 0.2 to 1 are usual.")
    if rescale not in (0, 1, 2):
        raise ConfigError(f"cagrad: rescale={rescale!r} is not one of 0, 1, 2.")
    torchjd = parity == "torchjd"
    divisor = 1.0 if torchjd else (1.0, 1 + c**2, 1 + c)[rescale]

    def weights(gram, *, losses, key):
        del losses, key
        scaled, trace = _over_trace(gram)
        if parity in ("libmtl", "nash-mtl"):
            times = len(gram) if parity == "nash-mtl" else 1
            return surface(_as_libmtl(scaled, trace, c) * times / divisor, gram)
        active = has_gradient(gram) | torchjd | (not drop_zero_rows)
        w, norm = _towards_worst(scaled, c, active)
        if torchjd or zero_at_pareto:
            w = jnp.where(norm < NORM_EPS, 0, w)
        if torchjd:
            w = jnp.where(trace < NORM_EPS, 0, w)
        return surface(jnp.where(active, w, 0) / divisor, gram)

    return stateless(weights)


def imgrad(*, c: float = 0.4) -> Weighting:
    """IMGrad (2025, eq. 9): CAGrad that leans on the shortest vector of the hull as tasks balance.

    ``d = g0 + c |g0| g_w / |g_w|``, w minimizes ``(1 - q) (<g_w, g0> + c |g0| |g_w|) + q |g_w|^2``
    over the simplex; q is the cosine of g0 and MGDA's d, 0 where that is 0. Tasks without a
    gradient are left out.

    Args:
      c: radius, 0 or more.

    Raises:
      ConfigError: a negative c.
    """
    if c < 0:
        raise ConfigError(f"imgrad: c={c} is negative; 0 is the mean, 0.2 to 1 are usual.")

    def weights(gram, *, losses, key):
        del losses, key
        T, active = len(gram), has_gradient(gram)
        scaled, _ = _over_trace(gram)
        mean_norm = jnp.sqrt(jnp.maximum(jnp.mean(scaled), 0))
        unit = jnp.where(mean_norm > 0, mean_norm, 1)
        shortest = min_norm_point(unit_gramian(gram))
        length = _norm(scaled, shortest)
        far = length > jnp.sqrt(T * jnp.finfo(gram.dtype).eps)
        cosine = jnp.mean(scaled @ shortest) / (unit * jnp.where(far, length, 1))
        square = jnp.where(far, jnp.clip(cosine, 0, 1), 0)
        curve = _objective(scaled, c * mean_norm, unit, square=square)
        w = minimize_on_simplex(curve, active.astype(gram.dtype), active)
        w = 1 / T + c * mean_norm * w / (_norm(scaled, w) + LIBMTL_EPS)
        return surface(jnp.where(active, w, 0), gram)

    return stateless(weights)
