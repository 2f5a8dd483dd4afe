"""Depth and normals of real datasets as PNG files, without loss where the source has none to give.

Depth: millimetres in 16 bits if that is exact, else the four bytes of the float32 as four grey
pictures below each other. Normals: the 8-bit code ``n = 2 v / 255 - 1``, if the source has it, with
an alpha channel of 0 where they are undefined, if anywhere; else ``round(32767 n) + 32768`` in 16
bits, which is 0.001 degrees off at most.
"""

import struct

import cv2
import numpy as np

from mtl_vision.data import png

_CODES = 2 * np.arange(256, dtype=np.float32) / 255 - 1  # in float32, as the loaders do


def encode_depth(metres: np.ndarray) -> bytes:
    """Depth [H, W] of any number type; it comes back as float32, bit for bit."""
    metres = np.ascontiguousarray(metres, np.float32)
    whole = np.round(metres.astype(np.float64) * 1000)
    if whole.max(initial=0) < 65536:
        millimetres = whole.astype(np.uint16)
        if np.array_equal(_metres(millimetres), metres):
            return png.encode("depth", millimetres)
    planes = metres.view(np.uint8).reshape(*metres.shape, 4)
    below = np.ascontiguousarray(np.moveaxis(planes, -1, 0)).reshape(-1, metres.shape[1])
    return png.encode("depth", below)


def encode_codes(codes: np.ndarray, known: np.ndarray) -> bytes:
    """Normals as 8-bit codes uint8 [H, W, 3] with a mask bool [H, W]."""
    if known.all():
        return png.encode("normals", codes)
    alpha = np.where(known, np.uint8(255), np.uint8(0))
    shown = np.where(known[..., None], codes, np.uint8(0))
    return png.encode("normals", np.dstack([shown, alpha]))


def encode_normals(normals: np.ndarray) -> bytes:
    """Normals [H, W, 3] of any number type in [-1, 1], zero where undefined."""
    known = np.any(normals != 0, -1)
    codes = np.round((normals.astype(np.float64) + 1) * 127.5).astype(np.uint8)
    if np.array_equal(_CODES[codes][known], normals[known].astype(np.float32)):
        return encode_codes(codes, known)
    wide = np.round(normals.astype(np.float64) * 32767) + 32768
    return png.encode("normals", wide.astype(np.uint16))


def decode(kind: str, data: bytes) -> np.ndarray:
    """The inverse: depth float32 [H, W] in metres, normals float32 [H, W, 3]."""
    stored = png.decode(data)
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
    """In memory the planes lie one after another, as the transforms want them."""
    blue, green, red, *alpha = cv2.split(stored)
    planes = np.empty((3, *stored.shape[:2]), np.float32)
    for plane, part in zip(planes, (red, green, blue), strict=True):
        if stored.dtype == np.uint8:
            cv2.LUT(part, _CODES, dst=plane)
        else:
            np.subtract(part, np.float32(32768), out=plane)
            plane *= np.float32(1 / 32767)
    if alpha and not alpha[0].all():
        planes *= alpha[0] != 0
    return np.moveaxis(planes, 0, -1)


def shape(kind: str, data: bytes) -> tuple[int, int]:
    """(H, W) of the label in a PNG file of this module or of any other label."""
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    return (height // 4 if kind == "depth" and bits == 8 else height), width
