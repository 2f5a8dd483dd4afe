"""Predictions in a folder: a folder per photo, a contact sheet, and what the files mean.

``predictions.json`` lists the files, so that a second start knows which are its own.
"""

import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from mtl_vision import files
from mtl_vision.build import Groups
from mtl_vision.data import photos
from mtl_vision.errors import DataError
from mtl_vision.predict.canvas import at_size
from mtl_vision.predict.run import Prediction
from mtl_vision.report import page
from mtl_vision.tasks import Task
from mtl_vision.train.log import write_json
from mtl_vision.viz import contact
from mtl_vision.viz.colors import colorize
from mtl_vision.viz.contact import Cell

LIST, SHEET, PAGE = "predictions.json", "sheet.png", "index.html"
FORMAT = "mtl_vision predictions/1"
SHOWN = 40  # photos on the sheet
STRIP = 256  # rows coloured at once
UNITS = {
    "semseg": "index of the class, uint8",
    "depth": "metres, float32",
    "normals": "unit vector (x right, y down, z ahead), float16",
    "edge": "probability, float16",
    "sal": "probability, float16",
    "human_parts": "index of the class, uint8",
}


def picture_of(task: Task) -> str:
    """Returns the name of a task's picture in the folder of a photo."""
    return f"{task.dataset}_{task.kind}.png"


def array_of(task: Task) -> str:
    """Returns the name of a task's array in the folder of a photo; of classes it is a PNG."""
    return f"{task.dataset}_{task.kind}" + ("_classes.png" if task.names else ".npy")


class Album:
    """Writes predictions into a folder."""

    def __init__(self, out: pathlib.Path, groups: Groups, paths: Sequence[pathlib.Path]):
        """Makes the folder, or checks that nothing in it would be overwritten that is not its own.

        Args:
          out: the folder.
          groups: tasks by dataset.
          paths: the photos.

        Raises:
          DataError: somebody else's file is in the way, or `out` cannot be made.
        """
        self.out = out
        self.tasks = [task for group in groups.values() for task in group]
        self.names = dict(zip(paths, photos.names(paths), strict=True))
        self.rows: list[contact.Row] = []
        self.sections: list[list[dict[str, Any]]] = []
        self.photos: dict[str, Any] = {}
        inside = [name for task in self.tasks for name in (picture_of(task), array_of(task))]
        files = [f"{name}/{file}" for name in self.names.values() for file in inside]
        self.files = claim(out, [SHEET, PAGE, *files])

    def add(self, prediction: Prediction) -> None:
        """Writes pictures and arrays of a photo."""
        photo, name = prediction.photo, self.names[prediction.photo.path]
        (self.out / name).mkdir(exist_ok=True)
        H, W = photo.size
        lines = ((None, photo.path.name), (None, f"{W} x {H}"))
        row, links = {("", "photo"): Cell(photo.picture, lines)}, {}
        links["", "photo"] = photo.path.absolute().as_uri()
        for task in self.tasks:
            value = at_size(task, prediction.maps[task.name], photo.size)
            picture = colored(task, value)
            save_picture(self.out / name / picture_of(task), picture)
            save_array(self.out / name / array_of(task), value)
            key = task.dataset, task.kind
            cell = contact.small(picture)
            cell = contact.over(photo.picture, cell) if task.names else cell
            row[key] = Cell(cell, legend(task, value))
            links[key] = quote(f"{name}/{picture_of(task)}")
        if len(self.rows) < SHOWN:
            self.rows.append(row)
        self.sections.append([figure(key, cell, links[key]) for key, cell in row.items()])
        self.photos[name] = {"file": str(photo.path), "size": photo.size}

    def finish(
        self, title: str, failed: Mapping[pathlib.Path, str], about: Mapping[str, Any]
    ) -> None:
        """Writes the sheet, the page and the list.

        Args:
          title: of sheet and page.
          failed: what is wrong with the other photos.
          about: where all is from, for whoever reads the list.
        """
        if self.rows:
            shown = title if len(self.sections) <= SHOWN else f"{title}, the first {SHOWN}"
            save_picture(self.out / SHEET, contact.sheet(self.rows, shown))
        template = page.environment().get_template("predictions.html")
        text = template.render(title=title, sections=self.sections)
        page.write_whole(self.out / PAGE, text)
        content = {
            "format": FORMAT,
            **about,
            "tasks": {t.name: {"array": UNITS[t.kind], "classes": t.names} for t in self.tasks},
            "photos": self.photos,
            "failed": {str(path): reason for path, reason in failed.items()},
            "files": [f for f in self.files if (self.out / f).exists()],
        }
        write_json(self.out / LIST, content)


def figure(key: tuple[str, str], cell: Cell, link: str) -> dict[str, Any]:
    """Returns what the page shows of a cell of the sheet, and the address it leads to."""
    data = io.BytesIO()
    Image.fromarray(cell.picture).save(data, "JPEG", quality=85)
    picture = page.data_uri(data.getvalue(), "jpeg")
    return dict(group=key[0], column=key[1], picture=picture, lines=cell.lines, link=link)


def claim(out: pathlib.Path, files: Sequence[str]) -> list[str]:
    """Makes `out` a folder in which `files` may be written.

    Returns: all files that are or will be its own.

    Raises:
      DataError: one of them is there and not on the folder's list, or it cannot be made.
    """
    own = listed(out / LIST)
    foreign = [f for f in files if f not in own and (out / f).exists()]
    folders = {str(pathlib.PurePath(f).parent) for f in files}
    foreign += sorted(f for f in folders if (out / f).exists() and not (out / f).is_dir())
    if foreign:
        raise DataError(
            f"{out / foreign[0]} is there and was not written by this command; give another --out."
        )
    own = sorted({*own, *files})
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / LIST, {"format": FORMAT, "files": own})
    except OSError as e:
        raise DataError(f"the folder {out} cannot be used: {e.strerror}.") from e
    return own


def listed(file: pathlib.Path) -> list[str]:
    """Returns the files on the list of a folder, none if there is no list."""
    if not file.exists():
        return []
    try:
        content = json.loads(file.read_text())
        if content["format"] == FORMAT:
            return list(map(str, content["files"]))
    except (OSError, ValueError, TypeError, LookupError):
        pass
    raise DataError(f"{file} is not a list of predictions; give another --out.")


def save_picture(path: pathlib.Path, picture: np.ndarray) -> None:
    """Writes a PNG."""
    with files.whole(path) as file:
        Image.fromarray(picture).save(file, compress_level=3)


def save_array(path: pathlib.Path, value: np.ndarray) -> None:
    """Writes a ``.npy``, or a PNG of classes."""
    if path.suffix == ".png":
        save_picture(path, value)
    else:
        with files.whole(path) as file:
            np.save(file, value)


def colored(task: Task, value: np.ndarray) -> np.ndarray:
    """Returns the picture ``[H, W, 3]`` uint8 of what `predict.at_size` gives."""
    strips = range(0, len(value), STRIP)
    return np.concatenate(
        [colorize(task.kind, value[i : i + STRIP], classes=task.channels) for i in strips]
    )


def legend(task: Task, value: np.ndarray) -> tuple[tuple[str | None, str], ...]:
    """Returns what a cell of the sheet says of a prediction."""
    step = max(max(value.shape[:2]) // 512, 1)
    value = value[::step, ::step]
    if task.names:
        return contact.shares(value, task.names)
    if task.kind == "depth":
        low, high = np.percentile(value, (2, 98))
        return ((None, f"{low:.1f} to {high:.1f} m"),)
    return ()
