"""Photos as people have them: any format, size, depth and orientation -> 8-bit RGB."""

import collections
import glob
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from mtl_vision.errors import DataError


def find(places: Sequence[str]) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns the photos of folders, files and patterns, and the files passed over.

    Args:
      places: folders, whose own files of an image's ending are taken; files; and patterns such as
        ``trip/*.jpg``.

    Raises:
      DataError: there is no such file or folder, or no photo in it.
    """
    found, others = [], []
    for place in places:
        path = pathlib.Path(place).expanduser()
        if path.is_dir():
            inside = sorted(f for f in path.iterdir() if f.is_file() and f.name[0] != ".")
            photos = [f for f in inside if f.suffix.lower() in endings()]
            others += [f for f in inside if f not in photos]
        else:
            photos = [path] if path.is_file() else sorted(map(pathlib.Path, glob.glob(str(path))))
        if not photos:
            what = "holds no photos" if path.is_dir() else "does not exist"
            raise DataError(f"{place} {what}; give a folder, files or a pattern.")
        found += photos
    return list(dict.fromkeys(found)), others


def endings() -> set[str]:
    """Returns the endings of the image files that can be read, such as ``.jpg``."""
    known = Image.registered_extensions()
    return {ending for ending, kind in known.items() if kind in Image.OPEN}


def names(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns a name without points for every file: its stem, if alone with it."""
    stems = [path.stem.replace(".", "_") for path in paths]
    whole = [path.name.replace(".", "_") for path in paths]
    counts = collections.Counter(map(str.casefold, stems))
    made: dict[str, str] = {}
    for stem, full in zip(stems, whole, strict=True):
        wanted = stem if counts[stem.casefold()] == 1 else full
        name, count = wanted, 1
        while name.casefold() in made:
            name, count = f"{wanted}_{count + 1}", count + 1
        made[name.casefold()] = name
    return list(made.values())


def read(path: pathlib.Path) -> np.ndarray:
    """Reads a photo upright: uint8 ``[H, W, 3]``, RGB.

    16 bits are cut to 8, grey becomes RGB, transparency white, of several frames the first is
    taken; colour profiles are not applied.

    Raises:
      DataError: it is no image, damaged, of floats, or has over 178 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return np.asarray(_rgb(ImageOps.exif_transpose(image)))
    except Exception as e:
        reason = (str(e).splitlines() or [""])[0][:200].replace(str(path), "it").rstrip(".")
        raise DataError(f"{path} is no photo: {reason or type(e).__name__}.") from e


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its values are floats; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
