"""Steps that move pixels. Each is pure, takes its random numbers, and moves all maps together."""

from collections.abc import Callable

import cv2
import numpy as np

from mtl_vision.data.transforms.maps import IGNORE, Maps

EPSILON = 2.2e-16  # added to the length of a normal, as in the ASTMT loaders


def flip(maps: Maps) -> Maps:
    """Mirrors left and right; the x component of normals changes its sign with it."""
    out = {name: [cv2.flip(p, 1) for p in planes] for name, planes in maps.items()}
    if "normals" in out:
        out["normals"][0] *= -1
    return out


def rotate_and_scale(maps: Maps, degrees: float, factor: float) -> Maps:
    """Turns and enlarges about the image's centre, keeping its size (ASTMT's ScaleNRotate).

    What was outside becomes 0 everywhere: black, class 0 (not "ignore"), no depth, no normal. The
    image and the normals are interpolated with cubics, the rest takes the nearest pixel. Normals
    turn in the image plane with the picture, depth is divided by the enlargement.

    Args:
      degrees: counter-clockwise on the screen.
      factor: above 1 enlarges.
    """
    if degrees == 0 and factor == 1:
        return maps
    H, W = maps["image"][0].shape
    matrix = cv2.getRotationMatrix2D((W / 2, H / 2), degrees, factor)

    # OpenCV's cubic is slow where a source pixel is missing, so the frame is widened with zeros
    # until none is; whole pixels leave the fixed-point coordinates as they are.
    inverse = cv2.invertAffineTransform(matrix)
    margins = _margins(inverse, (H, W))
    inverse[:, 2] += margins[2], margins[0]

    def warp(plane, how):
        if how == cv2.INTER_NEAREST:
            return cv2.warpAffine(plane, matrix, (W, H), flags=how)
        plane = cv2.copyMakeBorder(plane, *margins, cv2.BORDER_CONSTANT, value=0)
        return cv2.warpAffine(plane, inverse, (W, H), flags=how | cv2.WARP_INVERSE_MAP)

    if "normals" in maps:
        maps = maps | {"normals": _turn(maps["normals"], np.deg2rad(degrees))}
    out = _interpolate(maps, warp)
    if "depth" in out:
        out["depth"] = [out["depth"][0] / factor]
    return out


def squash(maps: Maps, size: tuple[int, int]) -> Maps:
    """Resizes to ``size = (H, W)`` without keeping the aspect (ASTMT's FixedResize).

    Cubic without antialiasing for the image and the normals, whose length becomes 1 again; nearest
    (source index ``floor(i * n_in / n_out)``) for the rest.
    """
    out = _interpolate(maps, lambda plane, how: cv2.resize(plane, size[::-1], interpolation=how))
    if "normals" in out:
        x, y, z = out["normals"]
        length = x * x  # cv2.magnitude rounds by the arrays' place in memory
        length += y * y
        length += z * z
        length = np.sqrt(length, out=length) + EPSILON
        out["normals"] = [np.divide(p, length, out=p) for p in (x, y, z)]
    return out


def rescale(maps: Maps, factor: float) -> Maps:
    """Resizes to ``(int(H * factor), int(W * factor))`` (ATRC's RandomScaling).

    Linear for the image, nearest for every label, normals included; depth is divided by `factor`.
    """
    if factor == 1:
        return maps
    H, W = maps["image"][0].shape
    size = (int(W * factor), int(H * factor))
    out = {
        name: [cv2.resize(p, size, interpolation=cv2.INTER_NEAREST) for p in planes]
        for name, planes in maps.items()
        if name != "image"
    }
    out["image"] = [
        cv2.resize(_real(p), size, interpolation=cv2.INTER_LINEAR) for p in maps["image"]
    ]
    if "depth" in out:
        out["depth"] = [out["depth"][0] / factor]
    return out


def crop(maps: Maps, corner: tuple[int, int], size: tuple[int, int]) -> Maps:
    """Cuts out ``size = (H, W)`` from ``corner = (top, left)``; a smaller side stays whole."""
    (top, left), (H, W) = corner, size
    return {
        name: [p[top : top + H, left : left + W] for p in planes] for name, planes in maps.items()
    }


def pad(maps: Maps, size: tuple[int, int]) -> Maps:
    """Centres the maps on a canvas of ``size = (H, W)`` (ATRC's PadImage); the rest is "no label".

    The smaller half of the margin is above and to the left. The image is expected normalised:
    its margin is 0, the mean colour.
    """
    H, W = maps["image"][0].shape[:2]
    down, across = size[0] - H, size[1] - W
    if not down and not across:
        return maps
    margins = (down // 2, down - down // 2, across // 2, across - across // 2)
    return {
        name: [
            cv2.copyMakeBorder(
                p, *margins, cv2.BORDER_CONSTANT, value=(IGNORE if name == "index" else 0,) * 4
            )
            for p in planes
        ]
        for name, planes in maps.items()
    }


def _margins(inverse: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """How far a map from targets to sources leaves the frame: (above, below, left, right)."""
    H, W = size
    corners = inverse @ np.array([[0, W - 1, 0, W - 1], [0, 0, H - 1, H - 1], [1, 1, 1, 1]])
    left, top = (int(v) for v in np.floor(corners.min(1)) - 2)  # a cubic reads 4 x 4 pixels
    right, bottom = (int(v) for v in np.ceil(corners.max(1)) + 3)
    return max(0, -top), max(0, bottom - H + 1), max(0, -left), max(0, right - W + 1)


def _turn(planes: list[np.ndarray], radians: float) -> list[np.ndarray]:
    """Rotates the in-plane part of normals, x to the right and y down, counter-clockwise."""
    x, y, z = planes
    cos, sin = float(np.cos(radians)), float(np.sin(radians))
    return [cv2.addWeighted(x, cos, y, sin, 0), cv2.addWeighted(y, cos, x, -sin, 0), z]


def _interpolate(maps: Maps, move: Callable) -> Maps:
    """Applies ``move(plane, how)``: cubic for the image and normals, nearest for the rest."""
    return {
        name: [
            move(_real(p), cv2.INTER_CUBIC)
            if name in ("image", "normals")
            else move(p, cv2.INTER_NEAREST)
            for p in planes
        ]
        for name, planes in maps.items()
    }


def _real(plane: np.ndarray) -> np.ndarray:
    """float32, because OpenCV would round every interpolation of a uint8 image."""
    return plane.astype(np.float32, copy=False)
