"""Cosines between the tasks' gradients as one picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mtl_vision.viz.colors import signed

CELL, GAP, FONT = 56, 6, 13


def heat_map(
    cosines: np.ndarray, tasks: Sequence[str], norms: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Draws who conflicts with whom: red cells are negative cosines, blue ones positive.

    Args:
      cosines: ``[T, T]``.
      tasks: their names, ``dataset/kind``.
      norms: ``[T]`` of the gradients, written behind the rows.
      weights: ``[T]``, written behind the norms.

    Returns: ``[H, W, 3]`` uint8.
    """
    font = ImageFont.load_default(FONT)
    T = len(tasks)
    left = GAP + max(round(font.getlength(name)) for name in tasks) + GAP
    top = GAP + 2 * (FONT + 4)
    columns = ("norm", "weight")
    width = left + T * CELL + GAP + len(columns) * (CELL + 10 * GAP // 3)
    canvas = Image.new("RGB", (width, top + T * CELL + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    colors = signed(cosines)
    for i, name in enumerate(tasks):
        y = top + i * CELL
        draw.text((left - GAP, y + CELL / 2), name, fill="black", font=font, anchor="rm")
        for line, word in enumerate(name.rsplit("/", 1)):
            short = word[: CELL // 7]
            at = (left + i * CELL + CELL / 2, GAP + line * (FONT + 4))
            draw.text(at, short, fill="black", font=font, anchor="ma")
        for j in range(T):
            x = left + j * CELL
            draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=tuple(colors[i, j].tolist()))
            ink = "white" if abs(cosines[i, j]) > 0.6 else "black"
            at = (x + CELL / 2, y + CELL / 2)
            draw.text(at, f"{cosines[i, j]:+.2f}", fill=ink, font=font, anchor="mm")
        x = left + T * CELL + GAP
        for value in (norms[i], weights[i]):
            at = (x + CELL, y + CELL / 2)
            draw.text(at, f"{value:.3g}", fill="black", font=font, anchor="rm")
            x += CELL + GAP
    x = left + T * CELL + GAP
    for name in columns:
        draw.text((x + CELL, GAP + FONT + 4), name, fill="black", font=font, anchor="ra")
        x += CELL + GAP
    return np.asarray(canvas)
