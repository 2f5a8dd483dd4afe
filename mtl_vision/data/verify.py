"""Reads a whole source, holds its labels to their ranges and sums up what they hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtl_vision.errors import DataError

BINARY = ("edge", "sal")
Totals = dict[str, np.ndarray]


def check_example(example: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> None:
    """Holds one example to the conventions of its kinds.

    Args:
      example: ``id``, ``image`` and labels, before any transform.
      classes: names of the classes of ``semseg`` and ``human_parts``.

    Raises:
      DataError: a shape, a dtype or a value that cannot be; it names the example and the label.
    """
    H, W, _ = example["image"].shape
    for kind, label in example.items():
        if kind == "id":
            continue
        rgb = kind in ("image", "normals")
        dtype = np.float32 if kind in ("depth", "normals") else np.uint8
        expected = (H, W, 3) if rgb else (H, W)
        if label.shape != expected or label.dtype != dtype:
            raise DataError(
                f"{example['id']}: {kind} is {label.dtype} {label.shape}, expected "
                f"{np.dtype(dtype)} {expected}."
            )
        if fault := _fault(kind, label, classes):
            raise DataError(f"{example['id']}: {kind} {fault}.")


def _fault(kind: str, label: np.ndarray, classes: Mapping[str, Sequence[str]]) -> str:
    """What is wrong with the values of a label, or nothing."""
    if kind in classes:
        legal = label[label != 255] if kind == "semseg" else label
        worst = int(legal.max(initial=0))
        return f"holds class {worst} of {len(classes[kind])}" if worst >= len(classes[kind]) else ""
    if kind in BINARY:
        return f"holds {label.max()}, expected 0 and 1" if label.max() > 1 else ""
    if kind == "depth":
        low = float(label.min())
        return f"holds {low} m" if low < 0 or not np.isfinite(label).all() else ""
    if kind == "normals":  # of real datasets they are near unit length, as the files have them
        largest = float(np.abs(label).max(initial=0))
        return "" if largest <= 1.001 else f"holds {largest:.4f}, expected -1 to 1"
    return ""


def add(totals: Totals, example: Mapping[str, Any]) -> Totals:
    """Adds the counts and sums of one example's labels."""
    H, W, _ = example["image"].shape
    new: Totals = {
        "images": np.int64(1),
        "pixels": np.int64(H * W),
        "sides": np.array([H, W, H, W]),
    }
    for kind, label in example.items():
        if kind in ("semseg", "human_parts", *BINARY):
            new[kind] = np.bincount(label.ravel(), minlength=256)
        elif kind == "depth":
            valid = label[label > 0].astype(np.float64)
            low, high = valid.min(initial=np.inf), valid.max(initial=0)
            new[kind] = np.array([valid.size, valid.sum(), low, high])
        elif kind == "normals":
            valid = label[np.any(label != 0, -1)].astype(np.float64)
            length = np.sqrt(np.einsum("nc,nc->n", valid, valid)).sum()
            new[kind] = np.array([len(valid), *valid.sum(0), length])
    return merge(totals, new)


def merge(a: Totals, b: Totals) -> Totals:
    """Adds the totals of other examples; ``{}`` is nothing."""
    return {k: v if k not in a else _joined(k, a[k], v) for k, v in b.items()}


def summary(source: Any, classes: Mapping[str, Sequence[str]], index: int) -> Totals:
    """Checks one example of a source and sums it up, with its ``id`` beside the sums; arguments and
    errors as in `check_example`."""
    example = source[index]
    check_example(example, classes)
    return add({}, example) | {"id": example["id"]}


def _joined(key: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if key == "depth":
        return np.array([*(a[:2] + b[:2]), min(a[2], b[2]), max(a[3], b[3])])
    if key == "sides":
        return np.array([*np.minimum(a[:2], b[:2]), *np.maximum(a[2:], b[2:])])
    return a + b


def report(totals: Totals, classes: Mapping[str, Sequence[str]]) -> list[str]:
    """The totals as lines of text, one per kind."""
    pixels, (h, w, H, W) = totals["pixels"], totals["sides"]
    lines = [f"images: {totals['images']}, {h} to {H} rows, {w} to {W} columns"]
    for kind, sums in totals.items():
        if kind in classes:
            names = dict(enumerate(classes[kind])) | {255: "ignored"}
            shares = [f"{n} {100 * sums[i] / pixels:.2f}" for i, n in names.items() if sums[i]]
            absent = [n for i, n in names.items() if not sums[i] and i != 255]
            lines.append(f"{kind} (% of pixels): {', '.join(shares)}")
            if absent:
                lines.append(f"{kind}, absent: {', '.join(absent)}")
        elif kind in BINARY:
            lines.append(f"{kind} (% of pixels): {100 * sums[1] / pixels:.2f}")
        elif kind == "depth":
            count, total, low, high = sums
            known, mean = 100 * count / pixels, total / max(count, 1)
            lines.append(
                f"depth: {low:.3f} to {high:.3f} m, mean {mean:.3f}, known at {known:.1f} %"
            )
        elif kind == "normals":
            count, *total = sums
            x, y, z, length = (t / max(count, 1) for t in total)
            lines.append(
                f"normals: mean ({x:+.3f}, {y:+.3f}, {z:+.3f}), mean length {length:.3f}, "
                f"known at {100 * count / pixels:.1f} %"
            )
    return lines
