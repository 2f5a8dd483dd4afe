"""A contact sheet: a row per photo, a column per task, and what the colours mean."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mtl_vision.viz.colors import class_colors

CELL, MARGIN, GAP, LINE, HEAD = (216, 162), 28, 10, 16, 64
INK, FAINT, PANEL = "#22252a", "#7b818a", "#f2f3f5"


class Cell(NamedTuple):
    """A small picture ``[h, w, 3]`` uint8, and lines of (colour or None, text) below it."""

    picture: np.ndarray
    lines: tuple[tuple[str | None, str], ...] = ()


Row = Mapping[tuple[str, str], Cell]


def small(picture: np.ndarray) -> np.ndarray:
    """Returns a picture ``[H, W, 3]`` uint8 as large as fits into a cell."""
    H, W = picture.shape[:2]
    scale = min(CELL[0] / W, CELL[1] / H)
    size = max(round(W * scale), 1), max(round(H * scale), 1)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(picture, size, interpolation=how)


def over(photo: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Lays three quarters of a small picture over a photo of its size."""
    return cv2.addWeighted(photo, 0.25, picture, 0.75, 0)


def shares(ids: np.ndarray, classes: Sequence[str], *, most: int = 3) -> tuple:
    """Returns the lines of a class map: its largest classes, with colours and shares."""
    counts = np.bincount(ids.ravel(), minlength=len(classes))
    order = [k for k in np.argsort(-counts, kind="stable")[:most] if counts[k]]
    colors = class_colors(np.array(order), len(classes))
    return tuple(
        ("#{:02x}{:02x}{:02x}".format(*color), f"{classes[k]} {percent(counts[k] / ids.size)}")
        for k, color in zip(order, colors, strict=True)
    )


def percent(share: float) -> str:
    """Writes a share of 1."""
    return f"{100 * share:.0f} %" if share >= 0.005 else "< 1 %"


def sheet(rows: Sequence[Row], title: str) -> np.ndarray:
    """Draws the sheet.

    Args:
      rows: cells by (group, column), all rows with the same columns; the groups are written over
        their columns.
      title: above all.

    Returns: ``[H, W, 3]`` uint8.
    """
    columns = list(rows[0])
    heights = [_height(row) for row in rows]
    width = 2 * MARGIN + len(columns) * (CELL[0] + GAP) - GAP
    canvas = Image.new("RGB", (width, 2 * MARGIN + 2 * HEAD + sum(heights)), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), title, INK, _font(22))
    _write_columns(draw, columns, MARGIN + HEAD)
    top = MARGIN + 2 * HEAD - GAP
    for row, height in zip(rows, heights, strict=True):
        for i, cell in enumerate(row.values()):
            _paste(canvas, draw, cell, (MARGIN + i * (CELL[0] + GAP), top))
        top += height
    return np.asarray(canvas)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _height(row: Row) -> int:
    tallest = max(cell.picture.shape[0] for cell in row.values())
    return tallest + LINE * max(len(cell.lines) for cell in row.values()) + 2 * GAP + 4


def _write_columns(draw: ImageDraw.ImageDraw, columns: Sequence[tuple[str, str]], y: int) -> None:
    for i, (group, column) in enumerate(columns):
        x = MARGIN + i * (CELL[0] + GAP)
        if group and (i == 0 or columns[i - 1][0] != group):
            count = sum(g == group for g, _ in columns)
            draw.text((x, y - 8), group, FAINT, _font(14))
            line = (x, y + 12, x + count * (CELL[0] + GAP) - GAP, y + 12)
            draw.line(line, fill="#d6d9de")
        draw.text((x, y + 20), column, INK, _font(16))


def _paste(canvas: Image.Image, draw: ImageDraw.ImageDraw, cell: Cell, corner: tuple) -> None:
    (x, y), (h, w) = corner, cell.picture.shape[:2]
    draw.rectangle((x, y, x + CELL[0] - 1, y + h - 1), PANEL)
    canvas.paste(Image.fromarray(cell.picture), (x + (CELL[0] - w) // 2, y))
    font = _font(12)
    for i, (color, text) in enumerate(cell.lines):
        top, left = y + h + 5 + i * LINE, x
        if color:
            draw.rectangle((x, top + 2, x + 9, top + 11), color, "#c9ccd1")
            left += 15
        draw.text((left, top), _shorter(text, font, x + CELL[0] - left), FAINT, font)


def _shorter(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cuts the middle out of a text that is too wide."""
    if font.getlength(text) <= width:
        return text
    keep = len(text) // 2
    while keep > 1 and font.getlength(f"{text[:keep]}…{text[-keep:]}") > width:
        keep -= 1
    return f"{text[:keep]}…{text[-keep:]}"
