"""Weights that balance the tasks: equal projections, equal cosines, equal eigenvalues, norms.

All of them work on the cosines of the gradients or on the Gramian over its trace, so their
results do not depend on the gradients' common scale.
"""

import jax
import jax.numpy as jnp

from mtl_vision.errors import ConfigError, nearest
from mtl_vision.optim.contracts import Weighting, check_parity, stateless
from mtl_vision.optim.weightings.simple import preferred

SCALES = ("min", "median", "rmse")


def surface(w: jax.Array, gram: jax.Array) -> jax.Array:
    """Returns `w`, or NaN where the Gramian is not finite: a sort or a cut-off may hide it."""
    return jnp.where(jnp.isfinite(gram).all(), w, jnp.nan)


def unit_rows(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the cosines ``[T, T]`` and ``1 / |g_t|`` ``[T]``, zeros for a task without gradient.

    Args:
      gram: ``[T, T]``.
    """
    norms = jnp.sqrt(jnp.diagonal(gram))
    inverse = jnp.where(norms == 0, 0, 1 / jnp.where(norms == 0, 1, norms))
    return gram * inverse[:, None] * inverse[None], inverse


def pseudo_solve(matrix: jax.Array, b: jax.Array) -> jax.Array:
    """Returns ``pinv(matrix) b``; eigenvalues up to ``T eps`` of the largest count as zero.

    Args:
      matrix: ``[T, T]``, symmetric.
      b: ``[T]``.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    size = jnp.abs(values)
    keep = size > len(matrix) * jnp.finfo(matrix.dtype).eps * size.max()
    return vectors @ jnp.where(keep, b @ vectors / jnp.where(keep, values, 1), 0)


def imtl_g(*, sign_guard: bool = True, parity: str = "") -> Weighting:
    """IMTL-G (openreview IMPnRXEWpvr): d has equal projections on all unit gradients.

    ``w = v / |sum v|``, ``v = C^-1 1 / n`` with the cosines C and norms n. For T = 2:
    ``w = (n_2, n_1) / (n_1 + n_2)``.

    Args:
      sign_guard: divide by ``|sum v|``. Without it a negative sum turns d around, into an ascent
        on every task.
      parity: ``torchjd``: ``v = pinv(G) n``, no guard, and ``w = 0`` where ``|sum v| < 1e-12``.

    Raises:
      ConfigError: an unknown parity.
    """
    check_parity(parity, ("torchjd",), "imtl_g")

    def weights(gram, *, losses, key):
        del losses, key
        if parity:
            v, least = pseudo_solve(gram, jnp.sqrt(jnp.diagonal(gram))), 1e-12
        else:
            cosines, inverse = unit_rows(gram)
            v = pseudo_solve(cosines, jnp.ones_like(inverse)) * inverse
            least = jnp.finfo(gram.dtype).eps * jnp.abs(v).sum()
        divisor = jnp.abs(v.sum()) if sign_guard and not parity else v.sum()
        lost = jnp.abs(divisor) <= least
        return surface(jnp.where(lost, 0, v / jnp.where(lost, 1, divisor)), gram)

    return stateless(weights)


def config(*, preference: tuple[float, ...] = ()) -> Weighting:
    """ConFIG (arXiv 2408.11104): d has equal cosines with all gradients, and their total length.

    ``a = pinv(C) p / n``, ``w = a (sum_t <g_t, x>) / |x|^2`` with ``x = sum_t a_t g_t``. The
    authors' code forms the pseudo-inverse of the ``[T, d]`` unit gradients; the vector is the
    same. Zero where every direction that helps one task harms another as much.

    Args:
      preference: ratios p of the cosines ``[T]``; ``()`` for equal ones.

    Raises:
      ConfigError: a preference that has not T numbers (at the first update).
    """

    def weights(gram, *, losses, key):
        del losses, key
        cosines, inverse = unit_rows(gram)
        p = preferred(preference, gram, default=1.0) * (inverse > 0)
        b = pseudo_solve(cosines, p)
        reached = cosines @ b  # cosines of x, up to its length: the part of p that can be had
        lost = reached @ reached <= len(gram) * jnp.finfo(gram.dtype).eps * (p @ p)
        length = jnp.sqrt(jnp.diagonal(gram)) @ reached / jnp.where(lost, 1, b @ reached)
        return surface(jnp.where(lost, 0, b * inverse * length), gram)

    return stateless(weights)


def aligned_mtl(
    *, scale: str = "min", preference: tuple[float, ...] = (), parity: str = ""
) -> Weighting:
    """Aligned-MTL (arXiv 2305.19000, section 4): principal directions of equal length.

    ``w = sqrt(l_R) V diag(l^-1/2) V^T p`` with ``G = V diag(l) V^T`` and its eigenvalues above
    ``T eps`` of the largest. The result may conflict with some task, and shrinks with l_R where
    two gradients nearly agree or oppose.

    Args:
      scale: l_R is the ``min`` (the paper), lower ``median`` or mean (``rmse``) eigenvalue.
      preference: p ``[T]``; ``()`` for ``1 / T``.
      parity: ``torchjd`` is the default; ``libmtl`` has ``p = 1``, so d is T times as long.

    Raises:
      ConfigError: an unknown scale or parity; a preference that has not T numbers (at the first
        update).
    """
    check_parity(parity, ("torchjd", "libmtl"), "aligned_mtl")
    if scale not in SCALES:
        raise ConfigError(
            f"config.optim.aggregator.scale={scale!r} is not one of {', '.join(SCALES)}."
            f"{nearest(scale, SCALES)}"
        )

    def weights(gram, *, losses, key):
        del losses, key
        T, trace = len(gram), jnp.trace(gram)
        p = preferred(preference, gram, default=1.0 if parity == "libmtl" else 1 / T)
        values, vectors = jnp.linalg.eigh(gram / jnp.where(trace == 0, 1, trace))
        keep = values > T * jnp.finfo(gram.dtype).eps * values[-1]
        rank = keep.sum()
        if scale == "rmse":
            chosen = jnp.where(keep, values, 0).sum() / jnp.maximum(rank, 1)
        else:  # eigenvalues ascend, the kept ones are the last
            chosen = values[T - rank + ((rank - 1) // 2 if scale == "median" else 0)]
        stretch = jnp.where(keep, jnp.sqrt(chosen / jnp.where(keep, values, 1)), 0)
        return surface(jnp.where(rank == 0, p, vectors @ (stretch * (p @ vectors))), gram)

    return stateless(weights)


def norm_balance(*, eps: float = 1e-12) -> Weighting:
    """Norm balancing (NTKMTL, eq. 15 for one mini-batch): ``w_t = rms(n) / n_t``.

    Args:
      eps: a norm counts as at least this share of the rms, which runs over the tasks that have a
        gradient.
    """

    def weights(gram, *, losses, key):
        del losses, key
        squared = jnp.diagonal(gram)
        absent = squared == 0
        rms = jnp.sqrt(squared.sum() / jnp.maximum(len(gram) - absent.sum(), 1))
        least = jnp.maximum(jnp.sqrt(squared), eps * rms)
        return surface(jnp.where(absent, 0, rms / jnp.where(absent, 1, least)), gram)

    return stateless(weights)
