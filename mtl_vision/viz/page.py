"""The contact sheet as one page of HTML, which needs nothing but the files it links to."""

import base64
import html
import io
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image

from mtl_vision.viz.contact import Cell, Row

STYLE = """
body { margin: 2rem; font: 14px/1.45 system-ui, sans-serif; color: #22252a; background: #fff }
h1 { font-size: 1.3rem; font-weight: 600 }
section { display: flex; flex-wrap: wrap; gap: 10px; margin: 0 0 1.6rem }
figure { margin: 0; width: 216px }
figure a { display: block; background: #f2f3f5; text-align: center }
img { display: block; margin: auto }
figcaption { color: #7b818a; font-size: 12px; overflow-wrap: anywhere }
figcaption b { color: #22252a; font-weight: 600 }
i { display: inline-block; width: 9px; height: 9px; margin-right: 5px; border: 1px solid #c9ccd1 }
"""


def page(sections: Iterable[str], title: str) -> str:
    """Returns the page of what `section` gave, `title` above all."""
    head = f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title>"
    body = "\n".join(sections)
    return f"{head}<style>{STYLE}</style>\n<h1>{html.escape(title)}</h1>\n{body}\n"


def section(row: Row, links: Mapping[tuple[str, str], str]) -> str:
    """Returns the part of one photo.

    Args:
      row: cells as in `contact.sheet`.
      links: the addresses they lead to, by the same keys.
    """
    return (
        f"<section>{''.join(_figure(key, cell, links[key]) for key, cell in row.items())}</section>"
    )


def _figure(key: tuple[str, str], cell: Cell, link: str) -> str:
    caption = "".join(
        f"<br><i style='background:{color}'></i>{html.escape(text)}"
        if color
        else f"<br>{html.escape(text)}"
        for color, text in cell.lines
    )
    group, column, link = map(html.escape, (*key, link))
    return (
        f"<figure><a href='{link}'><img src='{_inline(cell.picture)}' alt='{column}'></a>"
        f"<figcaption><b>{column}</b> {group}{caption}</figcaption></figure>"
    )


def _inline(picture: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
