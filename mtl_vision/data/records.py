"""Labels as small integer images, and examples as files of records.

A label is stored as an 8- or 16-bit image: classes as they are, depth in millimetres, normals as
``round(127 n) + 128`` with (128, 128, 128) for undefined (0.2 degrees off on average).
"""

import cv2
import numpy as np

MAX_DEPTH = 65.535  # metres


def pack(kind: str, label: np.ndarray) -> np.ndarray:
    """Label of `kind` as stored: uint8 [H, W], depth uint16 [H, W], normals uint8 [H, W, 3]."""
    if kind == "depth":
        return np.round(np.clip(label, 0, MAX_DEPTH) * 1000).astype(np.uint16)
    if kind == "normals":
        return (np.round(label * 127) + 128).astype(np.uint8)
    return label.astype(np.uint8)


def unpack(kind: str, stored: np.ndarray) -> np.ndarray:
    """The inverse: depth float32 in metres, normals float32 of unit length or zero."""
    if kind == "depth":
        return stored.astype(np.float32) / np.float32(1000)
    if kind == "normals":
        normals = stored.astype(np.float32) - 128
        square = np.einsum("hwc,hwc->hw", normals, normals)
        normals *= (1 / np.sqrt(np.maximum(square, 1)))[..., None]
        return normals
    return stored


def encode(stored: np.ndarray) -> bytes:
    """PNG of a packed label or an RGB image."""
    if stored.ndim == 3:
        stored = cv2.cvtColor(stored, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", stored)
    assert done
    return data.tobytes()
