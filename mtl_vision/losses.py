"""Per-pixel losses with validity masks: functions of arrays.

Every loss maps a prediction ``[B, H, W, K]``, a label and a mask (bool ``[B, H, W]``, True where
the label counts) to ``(total [B], count [B])``: each image's sum of pixel losses, and what the sum
is divided by. `mean` turns the two into one number. Under `jax.jit` arrays are global, so totals,
counts and the class balance are over all devices.

Sums are taken in float32, or in float64 if the prediction is float64. Where the mask is False
neither the prediction nor the label is read: whatever stands there, the loss and its gradient stay
finite and the gradient is 0; a batch without valid pixels has loss 0.

Sources: protocol A is scale-lab/MTLoRA ``mtl_loss_schemes.py`` (arXiv 2403.20320), protocol B is
prismformore/Multi-Task-Transformer ``losses/`` (arXiv 2203.07997).
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from mtl_vision.errors import lookup

Sums = tuple[jax.Array, jax.Array]


class Loss(Protocol):
    """The one form of every loss; see the module's first lines."""

    def __call__(self, pred: jax.Array, label: jax.Array, mask: jax.Array) -> Sums: ...


def wide(x: jax.Array) -> jax.Array:
    """Returns `x` as float32, or unchanged if it is float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def square(x: jax.Array) -> jax.Array:
    """Returns ``|x|^2`` over a short last axis: term by term, thrice as fast as a reduction."""
    return sum(x[..., i] ** 2 for i in range(x.shape[-1]))


def unit(x: jax.Array) -> jax.Array:
    """Returns ``x / |x|`` over a short last axis; vectors not longer than 1e-12 become zero.

    The references divide by ``max(|x|, 1e-12)``, whose slope at zero is 1e12; here it is 0.
    """
    length2 = square(x)[..., None]
    safe = length2 > 1e-24
    return jnp.where(safe, x / jnp.sqrt(jnp.where(safe, length2, 1)), 0)


def cross_entropy(
    pred: jax.Array, label: jax.Array, mask: jax.Array, *, balanced: bool = False
) -> Sums:
    """Softmax cross-entropy over the valid pixels.

    Args:
      pred: logits ``[B, H, W, K]``.
      label: integer ``[B, H, W]``, 0..K-1 where `mask` is True.
      mask: bool ``[B, H, W]``.
      balanced: for K = 2, weighs class 1 by w and class 0 by 1 - w, where w is the share of class
        0 among the batch's valid pixels (saliency in protocol B). The count stays the number of
        pixels, not the sum of weights.

    Returns: totals ``[B]`` and numbers of valid pixels ``[B]``.
    """
    logits = jnp.where(mask[..., None], wide(pred), 0)
    label = jnp.where(mask, label, 0).astype(jnp.int32)
    # A masked sum, not a gather: the gradient of a gather is a scatter.
    picked = jnp.where(jax.nn.one_hot(label, pred.shape[-1], dtype=bool), logits, 0).sum(-1)
    pixels = jax.nn.logsumexp(logits, -1) - picked
    if balanced:
        negative = _negative_share(label == 1, mask, pixels.dtype)
        pixels *= jnp.where(label == 1, negative, 1 - negative)
    return _sums(pixels, mask)


def binary_cross_entropy(
    pred: jax.Array, label: jax.Array, mask: jax.Array, *, positive: float | None = None
) -> Sums:
    """Sigmoid cross-entropy, positives weighted by w and negatives by 1 - w.

    Args:
      pred: logits ``[B, H, W, 1]``.
      label: ``[B, H, W]``, 1 where positive.
      mask: bool ``[B, H, W]``.
      positive: w. None takes the share of negatives among the batch's valid pixels (saliency in
        protocol A). Edges use 0.95; 0.8 on NYUD in ASTMT and ATRC (arXiv 1904.08918, 2104.13874),
        0.925 and 0.88 on the two sets in MLoRE (arXiv 2403.17749).

    Returns: totals ``[B]`` and numbers of valid pixels ``[B]``.
    """
    logits = jnp.where(mask, wide(pred[..., 0]), 0)
    label = mask & (label == 1)
    w = _negative_share(label, mask, logits.dtype) if positive is None else positive
    loss = jnp.where(label, w * jax.nn.softplus(-logits), (1 - w) * jax.nn.softplus(logits))
    return _sums(loss, mask)


def normals(
    pred: jax.Array, label: jax.Array, mask: jax.Array, *, per: str = "pixel", order: int = 1
) -> Sums:
    """``|pred / |pred|_2 - label|`` over the three components.

    Args:
      pred: ``[B, H, W, 3]``, any length; it is normalised here. The label is not.
      label: unit vectors ``[B, H, W, 3]``.
      mask: bool ``[B, H, W]``.
      per: what the sum is divided by: ``pixel`` (protocol B) or ``component``, three times as many
        (protocol A).
      order: 1 for the absolute difference, 2 for its square.

    Returns: totals ``[B]`` and counts ``[B]``.
    """
    away = unit(jnp.where(mask[..., None], wide(pred), 0)) - jnp.where(mask[..., None], label, 0)
    total, count = _sums(jnp.sum(jnp.abs(away) ** order, -1), mask)
    return total, lookup({"pixel": 1, "component": 3}, per, "normals.per") * count


def depth(pred: jax.Array, label: jax.Array, mask: jax.Array) -> Sums:
    """Absolute difference in metres. `pred` is ``[B, H, W, 1]``, `label` float ``[B, H, W]``.

    Returns: totals ``[B]`` and numbers of valid pixels ``[B]``.
    """
    away = jnp.where(mask, wide(pred[..., 0]), 0) - jnp.where(mask, label, 0)
    return _sums(jnp.abs(away), mask)


def silog(pred: jax.Array, label: jax.Array, mask: jax.Array) -> Sums:
    """Scale-invariant logarithmic error, ``sqrt(mean e^2 - mean(e)^2 / 2)`` over the batch.

    ``e = ln(max(pred, 0) + 1e-9) - ln label``; an alternative to `depth` in YuqiYang213/MLoRE,
    after arXiv 1406.2283, equation 3. A figure of the whole batch, so every image's total is it
    times the image's count: the pixel mean gives it back.
    """
    p = jnp.where(mask, wide(pred[..., 0]), 1)
    e = jnp.log(jnp.maximum(p, 0) + 1e-9) - jnp.log(jnp.where(mask, label, 1))
    (first, count), (second, _) = _sums(e, mask), _sums(e * e, mask)
    n = jnp.maximum(count.sum(), 1)
    variance = second.sum() / n - (first.sum() / n) ** 2 / 2
    safe = variance > 0  # the slope of a root at 0 is infinite
    return jnp.where(safe, jnp.sqrt(jnp.where(safe, variance, 1)), 0) * count, count


def _per_image(total: jax.Array, count: jax.Array) -> jax.Array:
    return total / jnp.maximum(count, 1)


# How (total [B], count [B]) become one number, by `loss_norm`.
NORMS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "pixel": lambda total, count: total.sum() / jnp.maximum(count.sum(), 1),
    "sample": lambda total, count: (
        _per_image(total, count).sum() / jnp.maximum((count > 0).sum(), 1)
    ),
    "batch": lambda total, count: _per_image(total, count).sum() / total.size,
}


def mean(total: jax.Array, count: jax.Array, norm: str = "pixel") -> jax.Array:
    """Returns the scalar loss of a batch.

    Args:
      total: ``[B]`` sums of pixel losses.
      count: ``[B]`` what they are divided by.
      norm: ``pixel``: sum of totals / sum of counts. ``sample``: mean over the images that have a
        valid pixel of their own means. ``batch``: sum of the images' means / B, so that an image
        without labels counts as 0 (MTPSL, arXiv 2111.14893).

    Raises:
      ConfigError: an unknown `norm`.
    """
    return lookup(NORMS, norm, "loss_norm")(total, count)


def _negative_share(positive: jax.Array, mask: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return (mask & ~positive).sum(dtype=dtype) / jnp.maximum(mask.sum(dtype=dtype), 1)


def _sums(pixels: jax.Array, mask: jax.Array) -> Sums:
    return jnp.where(mask, pixels, 0).sum((1, 2)), mask.sum((1, 2), dtype=pixels.dtype)
