"""Cosines between the tasks' gradients as one picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mtl_vision.viz.colors import signed

CELL, GAP, LINE = 76, 6, 18


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
    font = ImageFont.load_default(13)
    left = 2 * GAP + max(round(font.getlength(name)) for name in tasks)
    top, right = GAP + 2 * LINE, left + len(tasks) * CELL
    canvas = Image.new("RGB", (right + 2 * CELL + GAP, top + len(tasks) * CELL + GAP), "white")
    draw = ImageDraw.Draw(canvas)

    def write(x: float, y: float, text: str, anchor: str, ink: str = "black") -> None:
        draw.text((x, y), text, fill=ink, font=font, anchor=anchor)

    colors = signed(cosines)
    for i, name in enumerate(tasks):
        dataset, _, kind = name.rpartition("/")
        x, y = left + i * CELL, top + i * CELL
        if i == 0 or tasks[i - 1].rpartition("/")[0] != dataset:
            write(x + GAP, GAP, dataset, "la")
        write(x + CELL / 2, GAP + LINE, kind, "ma")
        write(left - GAP, y + CELL / 2, name, "rm")
        for j, cosine in enumerate(cosines[i]):
            x = left + j * CELL
            draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=tuple(colors[i, j].tolist()))
            ink = "white" if abs(cosine) > 0.6 else "black"
            write(x + CELL / 2, y + CELL / 2, f"{cosine:+.2f}", "mm", ink)
        for column, value in enumerate((norms[i], weights[i])):
            write(right + (column + 1) * CELL, y + CELL / 2, f"{value:.3g}", "rm")
    for column, name in enumerate(("norm", "weight")):
        write(right + (column + 1) * CELL, GAP + LINE, name, "ra")
    return np.asarray(canvas)
