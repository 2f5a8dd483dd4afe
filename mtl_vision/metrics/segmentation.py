"""Semantic segmentation and human parts: mean intersection over union."""

import jax
import jax.numpy as jnp
import numpy as np

from mtl_vision.metrics import Metric, Totals


def segmentation(classes: int) -> Metric:
    """mIoU over all `classes`, background included, from one confusion matrix of the split.

    ``IoU_c = tp / max(tp + fp + fn, 1e-8)``; a class in neither labels nor predictions counts as 0.
    Predictions are logits ``[B, H, W, classes]`` (the first of equal maxima wins), labels integers
    ``[B, H, W]``. Key: ``mIoU``, in percent. The same in both protocols.
    """

    def sums(pred, label, mask, valid):
        mask = mask & valid[:, None, None]
        cell = label.astype(jnp.int32) * classes + jnp.argmax(pred, -1).astype(jnp.int32)
        return {"confusion": count(cell, mask, classes**2).reshape(classes, classes)}

    def finish(totals):
        return {"mIoU": 100 * float(class_iou(totals["confusion"]).mean())}

    return Metric(sums, finish)


def constant(classes: int) -> Metric:
    """Best mIoU that one class everywhere can reach; ``sums(label, mask, valid)``.

    Class c then has IoU ``n_c / n`` and every other class 0.
    """

    def sums(label, mask, valid):
        return {"labels": count(label.astype(jnp.int32), mask & valid[:, None, None], classes)}

    def finish(totals: Totals):
        n = totals["labels"]
        return {"mIoU": 100 * float(n.max() / max(n.sum(), 1)) / classes}

    return Metric(sums, finish)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Returns the IoU ``[K]`` as fractions; `confusion` is ``[K, K]``, rows are labels."""
    hit = np.diagonal(confusion)
    return hit / np.maximum(confusion.sum(0) + confusion.sum(1) - hit, 1e-8)


def count(index: jax.Array, mask: jax.Array, length: int) -> jax.Array:
    """Returns how often each of 0..length-1 occurs in `index` where `mask`, int32 ``[length]``.

    A scatter: on a CPU a hundred times faster than comparing with every value.
    """
    index = jnp.where(mask, index, length).reshape(-1)
    return jnp.zeros(length, jnp.int32).at[index].add(1, mode="drop")
