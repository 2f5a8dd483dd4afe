"""Metrics: sums on the device, totals on the host, numbers at the end.

This module and `boundary` import numpy and scipy only, so that worker processes start fast.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Totals = dict[str, np.ndarray]


class Metric(NamedTuple):
    """A metric as sums over a split.

    sums: ``(pred [B, H, W, K], label, mask [B, H, W], valid [B]) -> {name: small array}``, pure,
      for `jax.jit`; the arrays' shapes do not depend on B. Images where `valid` is False (filler
      rows of a last batch) and pixels where `mask` is False leave no trace.
    finish: totals of a split -> ``{key: number}``. Shares and scores are in percent, angles in
      degrees, depths in metres. A mean over nothing is NaN.
    """

    sums: Callable[..., dict[str, Any]]
    finish: Callable[[Totals], dict[str, float]]


def add(totals: Totals, sums: Mapping[str, Any]) -> Totals:
    """Returns the totals with one batch's sums added, in int64 or float64 on the host.

    Args:
      totals: of the batches so far; ``{}`` before the first.
      sums: what `Metric.sums` gave for the next batch.
    """
    new = {name: np.asarray(x) for name, x in sums.items()}
    new = {
        name: x.astype("int64" if x.dtype.kind in "bui" else "float64") for name, x in new.items()
    }
    return {name: x + totals[name] if totals else x for name, x in new.items()}
