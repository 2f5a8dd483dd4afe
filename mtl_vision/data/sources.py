"""Reads the files that archives hold: pictures, ``.npy`` and ``.mat`` arrays, lists of ids.

Everything comes from bytes, is held to its size before it is decoded, and nothing is unpickled.
Errors say what is wrong with a file; the caller adds which one.
"""

import io
import math
import re
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mtl_vision.data import matlab, png
from mtl_vision.errors import DataError

MAX_SIDE = 4096


def picture(data: bytes, modes: Sequence[str], max_side: int = MAX_SIDE) -> Image.Image:
    """Decodes a whole PNG or JPEG.

    Args:
      data: the file.
      modes: Pillow's names of the pixel formats allowed, such as ``L``, ``P``, ``RGB``.
      max_side: pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
            if max(image.size) > max_side:
                raise DataError(f"is {image.height}x{image.width}; at most {max_side} are allowed")
            if image.format == "PNG":
                image.verify()  # checksums, which decoding does not look at
                image = Image.open(io.BytesIO(data), formats=("PNG",))
            image.load()
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"is no whole PNG or JPEG ({error})") from error
    if image.mode not in modes:
        raise DataError(f"has pixels of format {image.mode}, expected {' or '.join(modes)}")
    return image


def photo(data: bytes, max_side: int = MAX_SIDE) -> bytes:
    """The file of an image as it is stored: itself if it decodes to the same RGB everywhere, else
    a PNG of Pillow's RGB."""
    modes = ("RGB", "L", "P", "RGBA", "CMYK", "1", "LA", "I;16")
    rgb = np.asarray(picture(data, modes, max_side).convert("RGB"))
    plain = png.decode(data)
    if plain is not None and plain.shape == rgb.shape and np.array_equal(plain[..., ::-1], rgb):
        return data
    return png.encode("image", rgb)


def shape(data: bytes) -> tuple[int, int]:
    """(H, W) of a PNG or JPEG."""
    return Image.open(io.BytesIO(data)).size[::-1]


def indices(data: bytes, max_side: int = MAX_SIDE) -> np.ndarray:
    """Pixel values of a PNG of one channel, [H, W], mostly uint8; of a palette the indices."""
    image = picture(data, ("L", "P", "1", "I;16", "I"), max_side)
    return np.asarray(image.convert("L") if image.mode == "1" else image)


def colors(data: bytes, max_side: int = MAX_SIDE) -> np.ndarray:
    """RGB values of a PNG or JPEG, uint8 [H, W, 3]."""
    return np.asarray(picture(data, ("RGB",), max_side))


def array(data: bytes, variable: str = "") -> np.ndarray:
    """A numpy file, or a variable of a MATLAB file if one is named, as numbers [H, W] or
    [H, W, C]; of (H, W, 1) the plane."""
    found = matlab.variable(data, variable) if variable else _npy(data)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        kind = found.dtype if isinstance(found, np.ndarray) else type(found).__name__
        raise DataError(f"holds {kind}, expected an array of numbers")
    if found.ndim == 3 and found.shape[-1] == 1:
        found = found[..., 0]
    if found.ndim not in (2, 3) or not found.size or max(found.shape) > MAX_SIDE:
        raise DataError(f"holds an array of shape {found.shape}, expected (H, W) or (H, W, 3)")
    if not np.isfinite(found).all():
        raise DataError("holds numbers that are not finite")
    return found


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _npy(data: bytes) -> np.ndarray:
    """`numpy.load` without pickle, and without trust in the size that the header claims."""
    try:
        file = io.BytesIO(data)
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        start, order = file.tell(), "F" if fortran else "C"
        if dtype.kind not in "biuf":
            raise DataError(f"holds {dtype} of shape {shape}, expected an array of numbers")
        if math.prod(shape) * dtype.itemsize != len(data) - start:
            raise DataError(f"is cut off: {len(data) - start} bytes of {dtype} {shape}")
        return np.frombuffer(data, dtype, offset=start).reshape(shape, order=order)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"is a damaged .npy file ({type(error).__name__}: {error})") from error


def ids(data: bytes) -> list[str]:
    """The ids of a list, one per line."""
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
    found = [line for line in lines if line]
    for name in found:
        if not re.fullmatch(r"[\w.+-]+", name):
            raise DataError(f"lists {name!r}, which is no id")
    if len(set(found)) != len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise DataError(f"lists {twice!r} twice")
    if not found:
        raise DataError("lists no ids")
    return found
