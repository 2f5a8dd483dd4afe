"""Gates of a mixture of experts as one picture: what every task takes, layer by layer."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mtl_vision.viz.colors import signed

WIDTH, HEIGHT, GAP, LINE = 62, 28, 6, 18


def gate_map(
    gates: np.ndarray, tasks: Sequence[str], entries: Sequence[str] | None = None
) -> np.ndarray:
    """Draws a block of rows per layer, a row per task: the bluer a cell, the larger the gate.

    Args:
      gates: ``[T, L, n]`` in 0..1, for L layers.
      tasks: their names, T.
      entries: what is gated, n names such as ``expert 1`` and ``memory``; experts if None.

    Returns: ``[H, W, 3]`` uint8.
    """
    T, L, n = gates.shape
    entries = entries or [f"expert {k + 1}" for k in range(n)]
    font = ImageFont.load_default(13)
    left = 2 * GAP + max(round(font.getlength(name)) for name in tasks)
    top, block = GAP + LINE, T * HEIGHT + 2 * GAP
    canvas = Image.new("RGB", (left + n * WIDTH + LINE + 3 * GAP, top + L * block), "white")
    draw = ImageDraw.Draw(canvas)

    def write(x: float, y: float, text: str, anchor: str, ink: str = "black") -> None:
        draw.text((x, y), text, fill=ink, font=font, anchor=anchor)

    colors = signed(gates)
    write(left + n * WIDTH + GAP, GAP, "layer", "la")
    for k, name in enumerate(entries):
        write(left + (k + 0.5) * WIDTH, GAP, name, "ma")
    for layer in range(L):
        write(left + n * WIDTH + GAP, top + layer * block + T * HEIGHT / 2, str(layer + 1), "lm")
        for t, name in enumerate(tasks):
            y = top + layer * block + t * HEIGHT
            write(left - GAP, y + HEIGHT / 2, name, "rm")
            for k, gate in enumerate(gates[t, layer]):
                x, fill = left + k * WIDTH, tuple(colors[t, layer, k].tolist())
                draw.rectangle((x, y, x + WIDTH - 1, y + HEIGHT - 1), fill=fill)
                ink = "white" if gate > 0.6 else "black"
                write(x + WIDTH / 2, y + HEIGHT / 2, f"{gate:.2f}", "mm", ink)
    return np.asarray(canvas)
