"""One variable of a MATLAB 5 to 7 file (``.mat``).

A strict reader: numbers, text and structs of them, nothing else. Files of these datasets come from
anywhere, and `scipy.io.loadmat` crashes the process on cells that are nested deeply.
"""

import math
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from mtl_vision.errors import DataError

MAX_INFLATED = 512 << 20  # bytes; 24 masks of 500x500 for each of 80 people
DEPTH = 8
MATRIX, COMPRESSED = 14, 15
STRUCT, CHAR, NUMBERS = 2, 4, range(6, 16)
CLASSES = {1: "cell", 3: "object", 5: "sparse", 16: "function", 17: "opaque"}
NUMBER = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
NUMBER |= {13: "u8"}
TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}

Value = np.ndarray | str | list[dict[str, Any]]


class _Element(NamedTuple):
    kind: int
    data: memoryview
    rest: memoryview


def variable(data: bytes, name: str) -> Value:
    """Returns a variable: numbers as an array, text as str, a struct array as a list of dicts.

    Raises:
      DataError: the file is none, is damaged, has no such variable, or it holds something else.
    """
    if data[:10] == b"MATLAB 7.3":
        raise DataError("is a MATLAB 7.3 (HDF5) file; save it in MATLAB with '-v7'")
    if data[:10] != b"MATLAB 5.0" or data[126:128] not in (b"IM", b"MI"):
        raise DataError("is no MATLAB 5 file")
    order = "<" if data[126:128] == b"IM" else ">"
    rest, found = memoryview(data)[128:], []
    while rest:
        kind, body, rest = _element(rest, order)
        if kind == COMPRESSED:
            kind, body, _ = _element(memoryview(_inflate(body)), order)
        if kind != MATRIX:
            raise DataError(f"holds an element of kind {kind} where a variable should be")
        *_, label, _ = _head(body, order)
        if label == name:
            return _matrix(body, order, DEPTH)
        found.append(repr(label))
    raise DataError(f"has no variable {name!r}, only {', '.join(found) or 'none'}")


def _inflate(data: memoryview) -> bytes:
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, MAX_INFLATED)
    except zlib.error as error:
        raise DataError(f"is damaged ({error})") from error
    if stream.unconsumed_tail:
        raise DataError(f"grows over {MAX_INFLATED} bytes when it is inflated")
    if not stream.eof:
        raise DataError("is cut off")
    return plain


def _element(view: memoryview, order: str) -> _Element:
    """The first element of `view`, and what follows it."""
    if len(view) < 8:
        raise DataError("is cut off")
    kind, size = struct.unpack_from(order + "II", view)
    start = 8
    if kind >> 16:  # up to four bytes, in the tag itself
        kind, size, start = kind & 0xFFFF, kind >> 16, 4
    if start == 4 and size > 4 or start + size > len(view):
        raise DataError("is cut off")
    end = 8 if start == 4 else 8 + size
    pad = 0 if kind == COMPRESSED else -end % 8
    return _Element(kind, view[start : start + size], view[end + pad :])


def _head(view: memoryview, order: str) -> tuple[int, tuple[int, ...], str, memoryview]:
    """Class, shape and name of a matrix, and what follows them."""
    _, flags, rest = _element(view, order)
    _, shape, rest = _element(rest, order)
    _, name, rest = _element(rest, order)
    if len(flags) < 4 or len(shape) % 4 or not 8 <= len(shape) <= 16:
        raise DataError("is damaged (the head of a matrix)")
    (bits,) = struct.unpack_from(order + "I", flags)
    dims = struct.unpack(f"{order}{len(shape) // 4}i", shape)
    if min(dims) < 0 or bits & 0x800:
        raise DataError("holds complex numbers or a negative size")
    return bits & 0xFF, dims, bytes(name).decode("latin-1"), rest


def _matrix(view: memoryview, order: str, depth: int) -> Value:
    if not view:
        return np.zeros((0, 0))
    kind, dims, _, rest = _head(view, order)
    if kind == STRUCT and depth:
        return _struct(rest, math.prod(dims), order, depth - 1)
    if kind != CHAR and kind not in NUMBERS:
        what = CLASSES.get(kind, f"class {kind}")
        raise DataError(f"holds MATLAB data of class {what!r}; expected numbers, text, structs")
    stored, data, _ = _element(rest, order)
    if kind == CHAR:
        return _text(stored, bytes(data), order)
    if stored not in NUMBER:
        raise DataError(f"holds numbers of kind {stored}")
    numbers = np.frombuffer(data, order + NUMBER[stored])
    if numbers.size != math.prod(dims):
        raise DataError(f"is damaged ({numbers.size} numbers in a matrix of {dims})")
    return numbers.reshape(dims, order="F")


def _text(stored: int, data: bytes, order: str) -> str:
    coding = TEXT.get(stored, "latin-1")
    return data.decode(
        coding + ("-le" if order == "<" else "-be") * (coding == "utf-16"), "replace"
    )


def _struct(view: memoryview, count: int, order: str, depth: int) -> list[dict[str, Any]]:
    _, length, rest = _element(view, order)
    _, names, rest = _element(rest, order)
    (width,) = struct.unpack(order + "i", length) if len(length) == 4 else (0,)
    if width < 1 or len(names) % width or count * (len(names) // width) * 8 > len(rest):
        raise DataError("is damaged (the head of a struct)")
    fields = [bytes(names[i : i + width]) for i in range(0, len(names), width)]
    fields = [f.split(b"\0")[0].decode("latin-1") for f in fields]
    found = []
    for _ in range(count if fields else 0):
        row = {}
        for field in fields:
            kind, body, rest = _element(rest, order)
            if kind != MATRIX:
                raise DataError("is damaged (a field of a struct)")
            row[field] = _matrix(body, order, depth)
        found.append(row)
    return found
