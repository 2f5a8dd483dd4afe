"""Surface normals: angles pooled over all valid pixels of the split."""

import jax
import jax.numpy as jnp
import numpy as np

from mtl_vision.losses import square, unit, wide
from mtl_vision.metrics import Metric, Totals
from mtl_vision.metrics.segmentation import count

BINS = 18000  # of 0.01 degrees
NEAR = (11.25, 22.5, 30.0)  # degrees
CELLS = 64  # of each of x and y, for the best constant


def normals() -> Metric:
    """Keys ``mean``, ``rmse``, ``median`` in degrees; ``11.25``, ``22.5``, ``30``: % below.

    The angle between prediction p and label g, both normalised (zero vectors stay zero), is
    ``2 atan2(|p - g|, |p + g|)``; exact where an arc cosine is not. The median is read from bins
    of 0.01 degrees. Predictions and labels are ``[B, H, W, 3]``.

    The tables of the MTLoRA family print this ``mean`` in a column titled rmse: the released meter
    returns the mean under both keys.
    """

    def sums(pred, label, mask, valid):
        mask = mask & valid[:, None, None]
        degrees = jnp.where(mask, angle(wide(pred), wide(label)), 0)
        return {
            "pixels": mask.sum(dtype=jnp.int32),
            "angle": degrees.sum(),
            "square": (degrees**2).sum(),
            "near": jnp.stack([(mask & (degrees < x)).sum(dtype=jnp.int32) for x in NEAR]),
            "histogram": count(
                jnp.minimum(degrees * (BINS / 180), BINS - 1).astype(jnp.int32), mask, BINS
            ),
        }

    def finish(totals):
        n = totals["pixels"] or np.nan
        near = {f"{x:g}": 100 * float(hit / n) for x, hit in zip(NEAR, totals["near"], strict=True)}
        return {
            "mean": float(totals["angle"] / n),
            "rmse": float(np.sqrt(totals["square"] / n)),
            "median": _median(totals["histogram"]),
        } | near

    return Metric(sums, finish)


def angle(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the angle in degrees between vectors along the last axis."""
    a, b = unit(a), unit(b)
    return jnp.degrees(2 * jnp.arctan2(jnp.sqrt(square(a - b)), jnp.sqrt(square(a + b))))


def _median(histogram: np.ndarray) -> float:
    below = np.cumsum(histogram)
    if not (n := below[-1]):
        return float("nan")
    middle = np.searchsorted(below, [(n - 1) // 2, n // 2], side="right")  # bins of the middle two
    return float((middle + 0.5).mean() * 180 / BINS)


def constant() -> Metric:
    """Lowest mean angle of the labels' mean direction and the six axes.

    ``sums(label, mask, valid)``. The labels are gathered in cells of (x, y, sign of z): how many,
    and the sum of the vectors.
    """

    def sums(label, mask, valid):
        mask = mask & valid[:, None, None]
        n = unit(wide(label))
        x, y = (
            jnp.clip((n[..., i] + 1) * CELLS / 2, 0, CELLS - 1).astype(jnp.int32) for i in (0, 1)
        )
        cell = (x * CELLS + y) * 2 + (n[..., 2] < 0)
        cells = 2 * CELLS**2
        index = jnp.where(mask, cell, cells).reshape(-1)
        vectors = jnp.where(mask[..., None], n, 0).reshape(-1, 3)
        return {
            "pixels": count(cell, mask, cells),
            "vectors": jnp.zeros((cells, 3), n.dtype).at[index].add(vectors, mode="drop"),
        }

    def finish(totals: Totals):
        n = totals["pixels"]
        candidates = np.stack([totals["vectors"].sum(0), *np.eye(3), *-np.eye(3)])
        cosine = _unit(candidates) @ _unit(totals["vectors"]).T
        degrees = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        return {"mean": float((degrees @ n).min() / (n.sum() or np.nan))}

    return Metric(sums, finish)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
