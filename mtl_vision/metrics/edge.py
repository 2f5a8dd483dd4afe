"""Edges while training: the weighted cross-entropy. The reported odsF is in `boundary`."""

import jax.numpy as jnp
import numpy as np

from mtl_vision.losses import binary_cross_entropy
from mtl_vision.metrics import Metric


def edge(positive: float = 0.95) -> Metric:
    """Key ``loss``: sigmoid cross-entropy of the logits ``[B, H, W, 1]``, pooled over the split.

    Positives weigh `positive`, negatives the rest. A progress number: the references feed it
    probabilities as if they were logits, this one the logits.
    """

    def sums(pred, label, mask, valid):
        mask = mask & valid[:, None, None]
        total, _ = binary_cross_entropy(pred, label, mask, positive=positive)
        return {"loss": total.sum(), "pixels": mask.sum(dtype=jnp.int32)}

    def finish(totals):
        return {"loss": float(totals["loss"] / (totals["pixels"] or np.nan))}

    return Metric(sums, finish)
