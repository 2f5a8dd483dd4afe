"""Depth: four errors pooled over all valid pixels of the split."""

import jax.numpy as jnp
import numpy as np

from mtl_vision.losses import wide
from mtl_vision.metrics import Metric

FLOOR = 1e-9  # metres; predictions at or below zero enter the logarithm as this


def depth() -> Metric:
    """Keys ``rmse`` (m), ``log_rmse``, ``abs_rel``, ``sq_rel`` (m).

    With label g and prediction ``p = max(pred, 1e-9)``: ``rmse = sqrt(sum (g - p)^2 / n)``,
    ``log_rmse = sqrt(sum (ln g - ln p)^2 / n)``, ``abs_rel = sum(|g - p| / g) / n``,
    ``sq_rel = sum((g - p)^2 / g) / n``. Predictions are ``[B, H, W, 1]``, labels float
    ``[B, H, W]`` in metres. Which pixels count is the mask's matter: InvPT takes all that are
    labelled, TaskPrompter and MLoRE those with 0 < g < 80.
    """

    def sums(pred, label, mask, valid):
        mask = mask & valid[:, None, None]
        g = jnp.where(mask, jnp.maximum(wide(label), FLOOR), 1)
        p = jnp.where(mask, jnp.maximum(wide(pred[..., 0]), FLOOR), 1)
        away = jnp.abs(g - p)
        return {
            "pixels": mask.sum(dtype=jnp.int32),
            "square": (away**2).sum(),
            "log": ((jnp.log(g) - jnp.log(p)) ** 2).sum(),
            "relative": (away / g).sum(),
            "square_relative": (away**2 / g).sum(),
        }

    def finish(totals):
        n = totals["pixels"] or np.nan
        return {
            "rmse": float(np.sqrt(totals["square"] / n)),
            "log_rmse": float(np.sqrt(totals["log"] / n)),
            "abs_rel": float(totals["relative"] / n),
            "sq_rel": float(totals["square_relative"] / n),
        }

    return Metric(sums, finish)


def constant() -> Metric:
    """Lowest rmse of one depth everywhere, the labels' deviation; ``sums(label, mask, valid)``."""

    def sums(label, mask, valid):
        mask = mask & valid[:, None, None]
        label = jnp.where(mask, wide(label), 0)
        return {
            "pixels": mask.sum(dtype=jnp.int32),
            "label": label.sum(),
            "square": (label**2).sum(),
        }

    def finish(totals):
        n = totals["pixels"] or np.nan
        return {"rmse": float(np.sqrt(totals["square"] / n - (totals["label"] / n) ** 2))}

    return Metric(sums, finish)
