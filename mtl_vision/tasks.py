"""Tasks: what a prediction is compared with, how, and what it looks like.

A task is a kind of label on a dataset. Each kind has one constructor; `protocol` is ``A`` (ASTMT,
Vandenhende, MTLoRA) or ``B`` (ATRC, InvPT, TaskPrompter, TaskExpert). The protocols' loss weights
agree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mtl_vision import losses
from mtl_vision.errors import lookup
from mtl_vision.losses import Loss
from mtl_vision.metrics import Metric
from mtl_vision.metrics import depth as depth_metric
from mtl_vision.metrics import edge as edge_metric
from mtl_vision.metrics import normals as normals_metric
from mtl_vision.metrics import saliency as saliency_metric
from mtl_vision.metrics import segmentation as segmentation_metric

KINDS = ("semseg", "depth", "normals", "edge", "sal", "human_parts")
PARTS = ("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs")


@dataclass(frozen=True)
class Task:
    """One kind of label on one dataset.

    name: ``dataset/kind``.
    channels: K of the prediction ``[B, H, W, K]``.
    names: of the classes, or ().
    loss: ``(pred, label, mask) -> (total [B], count [B])``; see `losses`.
    weight: of the loss in the protocol.
    metric: see `metrics.Metric`. odsF is not among its keys: it is counted on the host by
      `metrics.boundary`.
    score: the key that stands for the task in Delta_m.
    sign: +1 if a higher score is better, -1 if a lower one is.
    constant: the score of the best prediction that is the same at every pixel of every image, as
      a metric with ``sums(label, mask, valid)``; None for edges, which the host scores.
    max_dist: edges only: how far a matched pixel may lie, as a share of the image's diagonal.
    """

    dataset: str
    kind: str
    channels: int
    loss: Loss
    weight: float
    metric: Metric
    score: str
    sign: int
    constant: Metric | None
    names: tuple[str, ...] = ()
    max_dist: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.kind}"


def semseg(dataset: str, protocol: str, *, classes: Sequence[str]) -> Task:
    """Semantic segmentation into `classes`; background, if it is a class, is one of them."""
    return _segmentation(dataset, "semseg", protocol, classes, 1.0)


def human_parts(dataset: str, protocol: str, *, classes: Sequence[str] = PARTS) -> Task:
    """Segmentation of people into `classes`, background first."""
    return _segmentation(dataset, "human_parts", protocol, classes, 2.0)


def _segmentation(
    dataset: str, kind: str, protocol: str, classes: Sequence[str], weight: float
) -> Task:
    _check(protocol)
    return Task(
        dataset,
        kind,
        channels=len(classes),
        loss=losses.cross_entropy,
        weight=weight,
        metric=segmentation_metric.segmentation(len(classes)),
        score="mIoU",
        sign=1,
        constant=segmentation_metric.constant(len(classes)),
        names=tuple(classes),
    )


def depth(dataset: str, protocol: str, *, loss: Loss = losses.depth) -> Task:
    """Depth in metres; the same in both protocols. MLoRE also trains with `losses.silog`."""
    _check(protocol)
    return Task(
        dataset,
        "depth",
        channels=1,
        loss=loss,
        weight=1.0,
        metric=depth_metric.depth(),
        score="rmse",
        sign=-1,
        constant=depth_metric.constant(),
    )


def normals(dataset: str, protocol: str) -> Task:
    """Surface normals. The loss is per component in A and per pixel, three times that, in B."""
    per = lookup({"A": "component", "B": "pixel"}, protocol, "protocol")
    return Task(
        dataset,
        "normals",
        channels=3,
        loss=partial(losses.normals, per=per),
        weight=10.0,
        metric=normals_metric.normals(),
        score="mean",
        sign=-1,
        constant=normals_metric.constant(),
    )


def edge(dataset: str, protocol: str, *, positive: float = 0.95, max_dist: float = 0.0075) -> Task:
    """Boundaries.

    Args:
      dataset: its name.
      protocol: A and B differ only in the masks that the data gives.
      positive: weight of edge pixels in the loss; see `losses.binary_cross_entropy`.
      max_dist: 0.0075 on PASCAL-Context, 0.011 on NYUD-v2 (SEISM).
    """
    _check(protocol)
    return Task(
        dataset,
        "edge",
        channels=1,
        loss=partial(losses.binary_cross_entropy, positive=positive),
        weight=50.0,
        metric=edge_metric.edge(positive),
        score="odsF",
        sign=1,
        constant=None,
        max_dist=max_dist,
    )


def sal(dataset: str, protocol: str) -> Task:
    """Saliency: one logit, scored by mIoU, in A; two, scored by InvPT's maximal F, in B.

    B's score is the figure that InvPT, TaskPrompter and MLoRE print; ATRC's is another key of the
    same metric.
    """
    channels, loss, score = lookup(
        {
            "A": (1, losses.binary_cross_entropy, "mIoU"),
            "B": (2, partial(losses.cross_entropy, balanced=True), "maxF_invpt"),
        },
        protocol,
        "protocol",
    )
    return Task(
        dataset,
        "sal",
        channels=channels,
        loss=loss,
        weight=5.0,
        metric=saliency_metric.saliency(),
        score=score,
        sign=1,
        constant=saliency_metric.constant(),
    )


TASKS: dict[str, Callable[..., Task]] = {
    "semseg": semseg,
    "depth": depth,
    "normals": normals,
    "edge": edge,
    "sal": sal,
    "human_parts": human_parts,
}


def post(task: Task, pred: jax.Array) -> jax.Array:
    """Turns the model's output into what pictures and files show.

    Args:
      task: whose output it is.
      pred: ``[B, H, W, K]``.

    Returns: semseg and human_parts: classes uint8 ``[B, H, W]``. sal and edge: probability float32
      ``[B, H, W]``. depth: metres, at least 0, ``[B, H, W]``. normals: unit vectors
      ``[B, H, W, 3]``.
    """
    return _POST[task.kind](losses.wide(pred))


def _classes(pred: jax.Array) -> jax.Array:
    return jnp.argmax(pred, -1).astype(jnp.uint8)


_POST: dict[str, Callable[[Any], jax.Array]] = {
    "semseg": _classes,
    "depth": lambda pred: jnp.maximum(pred[..., 0], 0),
    "normals": losses.unit,
    "edge": saliency_metric.probability,
    "sal": saliency_metric.probability,
    "human_parts": _classes,
}


def _check(protocol: str) -> None:
    lookup({"A": None, "B": None}, protocol, "protocol")
