"""Saliency: the measures of both protocols, from one histogram of the probability."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logit

from mtl_vision.losses import wide
from mtl_vision.metrics import Metric, Totals
from mtl_vision.metrics.segmentation import count

A = np.linspace(0.2, 0.9, 15)  # mask = p > threshold
ATRC = np.arange(1, 20) / 20  # mask = p >= threshold
# Sigmoid of a probability is at least 0.5, so ten of the nineteen thresholds keep everything; it
# is at most 0.731, so those from 0.75 keep nothing and score 0.
INVPT = np.concatenate([[0.0], logit(np.array([0.55, 0.60, 0.65, 0.70]))])


def saliency() -> Metric:
    """Keys ``mIoU``, ``maxF`` (protocol A), ``maxF_atrc``, ``maxF_invpt`` (B), in percent.

    Predictions are one logit, read through a sigmoid, or two, of which the softmax's second counts;
    labels are 0 or 1, ``[B, H, W]``.

    * ``mIoU``: IoU of ``p > t`` with the label (1 if both are empty) averaged over images, best of
      15 thresholds t from 0.2 to 0.9 (scale-lab/MTLoRA). ``maxF``: F1 of precision and recall
      averaged over images, best threshold (facebookresearch/astmt).
    * ``maxF_atrc``: ``F = 1.3 P R / (0.3 P + R)`` from counts pooled over the split, ``p >= t``,
      best of 0.05, 0.10, ..., 0.95 (brdav/atrc).
    * ``maxF_invpt``: the same with a second sigmoid on p, as InvPT, TaskPrompter and MLoRE compute
      it; MTLoRA calls it Beta maxF.
    """

    def sums(pred, label, mask, valid):
        mask = mask & valid[:, None, None]
        tp, predicted, actual, pixels = _counts(wide(pred), label == 1, mask)
        a_tp, a_predicted = tp[:, : A.size], predicted[:, : A.size]
        union = a_predicted + actual - a_tp
        iou = jnp.where(union == 0, 1, a_tp / jnp.maximum(union, 1))
        there = (valid & (pixels[:, 0] > 0))[:, None]
        return {
            "images": there.sum(dtype=jnp.int32),
            "iou": jnp.where(there, iou, 0).sum(0),
            "precision": (a_tp / (a_predicted + 1e-12)).sum(0),
            "recall": (a_tp / (actual + 1e-12)).sum(0),
            "tp": tp.sum(0),
            "predicted": predicted.sum(0),
            "actual": actual.sum(),
        }

    def finish(totals):
        iou, f1 = curves(totals)
        f = f_beta(totals["tp"], totals["predicted"], totals["actual"])
        atrc, invpt = np.split(f[A.size :], [ATRC.size])
        scores = {"mIoU": iou, "maxF": f1, "maxF_atrc": atrc, "maxF_invpt": invpt}
        return {name: 100 * float(x.max()) for name, x in scores.items()}

    return Metric(sums, finish)


def constant() -> Metric:
    """Best scores of all-salient and nothing-salient maps; ``sums(label, mask, valid)``.

    Everything has IoU and precision equal to the salient share, and recall 1; nothing has IoU 1 on
    images without a salient pixel, else 0.
    """

    def sums(label, mask, valid):
        mask = mask & valid[:, None, None]
        actual = (mask & (label == 1)).sum((1, 2), dtype=jnp.int32)
        pixels = mask.sum((1, 2), dtype=jnp.int32)
        there = pixels > 0
        return {
            "images": there.sum(dtype=jnp.int32),
            "empty": (there & (actual == 0)).sum(dtype=jnp.int32),
            "share": (actual / jnp.maximum(pixels, 1)).sum(),
            "actual": actual.sum(),
            "pixels": pixels.sum(),
        }

    def finish(totals):
        images = totals["images"] or np.nan
        share, recall = totals["share"] / images, 1 - totals["empty"] / images
        pooled = f_beta(totals["actual"], totals["pixels"], totals["actual"])
        return {
            "mIoU": 100 * float(max(share, totals["empty"] / images)),
            "maxF": 100 * float(2 * share * recall / (share + recall + 1e-12)),
            "maxF_atrc": 100 * float(pooled),
            "maxF_invpt": 100 * float(pooled),
        }

    return Metric(sums, finish)


def probability(pred: jax.Array) -> jax.Array:
    """Returns the probability ``[B, H, W]`` of one logit, or of the second of two."""
    return jax.nn.sigmoid(pred[..., 1] - pred[..., 0] if pred.shape[-1] == 2 else pred[..., 0])


def curves(totals: Totals) -> tuple[np.ndarray, np.ndarray]:
    """Returns protocol A's mean IoU and F1 at each of the 15 thresholds, as fractions."""
    images = totals["images"] or np.nan
    p, r = totals["precision"] / images, totals["recall"] / images
    return totals["iou"] / images, 2 * p * r / (p + r + 1e-12)


def f_beta(tp: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Returns ``1.3 P R / (0.3 P + R)`` of pooled counts; 0 where it is 0 / 0."""
    # With P = tp / predicted and R = tp / actual this is 1.3 tp / (0.3 actual + predicted).
    return 1.3 * tp / np.where(tp > 0, 0.3 * actual + predicted, 1)


def _cuts(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """All thresholds as ``p >= cut``, ascending, and where A, ATRC, INVPT are among them."""
    strict = np.nextafter(A.astype(dtype), dtype.type(1))
    cuts = np.concatenate([strict, ATRC.astype(dtype), INVPT.astype(dtype)])
    order = np.argsort(cuts, kind="stable")
    return cuts[order], np.argsort(order, kind="stable")


def _counts(pred: jax.Array, label: jax.Array, mask: jax.Array) -> tuple[jax.Array, ...]:
    """Per image: true positives and predicted ``[B, thresholds]``, actual and pixels ``[B, 1]``."""
    p = probability(pred)
    cuts, place = _cuts(p.dtype)
    level = jnp.searchsorted(jnp.asarray(cuts), p, side="right", method="scan_unrolled")
    B, levels = p.shape[0], cuts.size + 1
    image = 2 * jnp.arange(B, dtype=jnp.int32)[:, None, None]
    cell = (image + label.astype(jnp.int32)) * levels + level.astype(jnp.int32)
    histogram = count(cell, mask, B * 2 * levels).reshape(B, 2, levels)
    above = jnp.cumsum(histogram[..., ::-1], -1)[..., ::-1]  # [..., i]: at least i cuts are passed
    tp, predicted = above[:, 1], above.sum(1)
    return tp[:, 1:][:, place], predicted[:, 1:][:, place], tp[:, :1], predicted[:, :1]
