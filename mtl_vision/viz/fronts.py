"""Scores at several preferences between tasks as one picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LINE = 84, 6, 22


def chart(
    preferences: np.ndarray, scores: np.ndarray, signs: np.ndarray, tasks: Sequence[str]
) -> np.ndarray:
    """Draws a row per preference: the bluer a cell, the nearer it is to the task's best score.

    Args:
      preferences: ``[P, T]``, written small into the cells.
      scores: ``[P, T]``, in the units of the tasks.
      signs: ``[T]``, +1 where higher is better.
      tasks: their names, ``dataset/kind``.

    Returns: ``[H, W, 3]`` uint8.
    """
    font = ImageFont.load_default(13)
    size = GAP * 2 + CELL * len(tasks), GAP * 2 + LINE * (1 + len(scores))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    gains = scores * signs
    low, high = gains.min(0), gains.max(0)
    parts = (gains - low) / np.where(high > low, high - low, 1)
    for t, name in enumerate(tasks):
        x = GAP + t * CELL
        draw.text((x + GAP, GAP), name.rpartition("/")[2][:11], "black", font)
        for p, part in enumerate(parts[:, t]):
            y = GAP + (p + 1) * LINE
            fill = tuple(int(255 - part * (255 - full)) for full in (80, 130, 200))
            draw.rectangle((x, y, x + CELL - 2, y + LINE - 2), fill=fill)
            draw.text((x + GAP, y + 3), f"{preferences[p, t]:.2f}", "gray", font)
            draw.text((x + CELL - GAP, y + 3), f"{scores[p, t]:.4g}", "black", font, anchor="ra")
    return np.asarray(canvas)
