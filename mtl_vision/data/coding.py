"""Depth and normals of real datasets as PNG files, without loss where the source has none to give.

Depth: millimetres in 16 bits if that is exact, else the four bytes of the float32 as four grey
pictures below each other. Normals: the 8-bit code ``n = 2 v / 255 - 1`` with an alpha channel of 0
where they are undefined, if the source has that code, else ``round(32767 n) + 32768`` in 16 bits,
which is 0.001 degrees off at most.
"""

import struct

import cv2
import numpy as np

from mtl_vision.data.sources import png

_CODES = 2 * np.arange(256, dtype=np.float32) / 255 - 1  # in float32, as the loaders do


def encode_depth(metres: np.ndarray) -> bytes:
    """Depth [H, W] of any number type; it comes back as float32, bit for bit."""
    metres = np.ascontiguousarray(metres, np.float32)
    whole = np.round(metres.astype(np.float64) * 1000)
    if whole.max(initial=0) < 65536:
        millimetres = whole.astype(np.uint16)
        if np.array_equal(_metres(millimetres), metres):
            return png(millimetres)
    planes = metres.view(np.uint8).reshape(*metres.shape, 4)
    return png(np.ascontiguousarray(np.moveaxis(planes, -1, 0)).reshape(-1, metres.shape[1]))


def encode_codes(codes: np.ndarray, known: np.ndarray) -> bytes:
    """Normals as 8-bit codes uint8 [H, W, 3] with a mask bool [H, W]."""
    alpha = np.where(known, np.uint8(255), np.uint8(0))
    return png(np.dstack([np.where(known[..., None], codes, np.uint8(0)), alpha]))


def encode_normals(normals: np.ndarray) -> bytes:
    """Normals [H, W, 3] of any number type in [-1, 1], zero where undefined."""
    known = np.any(normals != 0, -1)
    codes = np.round((normals.astype(np.float64) + 1) * 127.5).astype(np.uint8)
    if np.array_equal(_CODES[codes][known], normals[known].astype(np.float32)):
        return encode_codes(codes, known)
    return png((np.round(normals.astype(np.float64) * 32767) + 32768).astype(np.uint16))


def decode(kind: str, data: bytes) -> np.ndarray:
    """The inverse: depth float32 [H, W] in metres, normals float32 [H, W, 3]."""
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise ValueError(f"{kind} is no PNG")
    return _depth(stored) if kind == "depth" else _normals(stored)


def _depth(stored: np.ndarray) -> np.ndarray:
    if stored.dtype == np.uint16:
        return _metres(stored)
    H, W = stored.shape[0] // 4, stored.shape[1]
    planes = cv2.merge(list(stored.reshape(4, H, W)))
    return planes.view(np.float32).reshape(H, W)


def _metres(millimetres: np.ndarray) -> np.ndarray:
    return millimetres.astype(np.float32) / np.float32(1000)


def _normals(stored: np.ndarray) -> np.ndarray:
    if stored.dtype == np.uint16:
        normals = cv2.cvtColor(stored, cv2.COLOR_BGR2RGB).astype(np.float32)
        normals -= np.float32(32768)
        normals *= np.float32(1 / 32767)
        return normals
    normals = cv2.LUT(cv2.cvtColor(stored, cv2.COLOR_BGRA2RGB), _CODES)
    known = cv2.extractChannel(stored, 3)
    if not known.all():
        normals[known == 0] = 0
    return normals


def shape(kind: str, data: bytes) -> tuple[int, int]:
    """(H, W) of the label in a PNG file of this module or of any other label."""
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    return (height // 4 if kind == "depth" and bits == 8 else height), width
