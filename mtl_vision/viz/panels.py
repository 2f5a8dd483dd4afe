"""Sheets of pictures with captions: image, prediction and label of every task side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mtl_vision.viz.colors import colorize

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
GAP, BAR = 4, 16


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Undoes the ImageNet normalisation: ``[H, W, 3]`` float32 -> uint8."""
    return np.clip((np.asarray(image, np.float32) * STD + MEAN) * 255, 0, 255).astype(np.uint8)


def sheet(rows: Sequence[Sequence[tuple[str, np.ndarray]]], *, side: int = 160) -> np.ndarray:
    """Lays out rows of (caption, ``[H, W, 3]`` uint8) cells on white.

    Args:
      rows: rows may differ in length.
      side: height in pixels that every picture is scaled to.

    Returns: ``[H', W', 3]`` uint8.
    """
    cells = [
        [
            (caption, Image.fromarray(p).resize((round(p.shape[1] * side / p.shape[0]), side), 0))
            for caption, p in row
        ]
        for row in rows
    ]
    width = max((sum(p.width + GAP for _, p in row) for row in cells), default=0) + GAP
    canvas = Image.new("RGB", (width, len(rows) * (side + BAR + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    y = GAP
    for row in cells:
        x = GAP
        for caption, picture in row:
            draw.text((x, y + 2), caption, fill="black", font=font)
            canvas.paste(picture, (x, y + BAR))
            x += picture.width + GAP
        y += side + BAR + GAP
    return np.asarray(canvas)


def pictures(
    image: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    classes: Mapping[str, int],
) -> dict[str, np.ndarray]:
    """Returns the pictures of one image: ``image``, ``<kind>_prediction`` and ``<kind>_label``.

    Args:
      image: ``[H, W, 3]`` float32, normalised.
      predictions: post-processed, by kind; see `colorize`.
      labels, masks: as in a batch, without the batch axis.
      classes: output channels by kind.
    """
    found = {"image": to_rgb(image)}
    for kind, value in predictions.items():
        found[f"{kind}_prediction"] = colorize(kind, value, classes=classes[kind])
        found[f"{kind}_label"] = colorize(kind, labels[kind], masks[kind], classes=classes[kind])
    return found


def prediction_sheet(images: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Lays out what `pictures` gave: two rows per image, predictions and below them labels."""
    rows = []
    for found in images:
        blank = np.full_like(found["image"], 255)
        parts = {"prediction": [("image", found["image"])], "label": [("", blank)]}
        for name, picture in found.items():
            kind, _, part = name.rpartition("_")
            if kind:
                parts[part].append((f"{kind}: {part}", picture))
        rows += parts.values()
    return sheet(rows)
