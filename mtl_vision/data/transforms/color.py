"""Steps that change colours: photometric distortion and normalisation."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # ImageNet, RGB, of values in 0..1
STD = np.array([0.229, 0.224, 0.225], np.float32)
LEVELS = np.arange(256, dtype=np.float32)
SAME = np.arange(256, dtype=np.uint8)


@dataclass(frozen=True)
class Distortion:
    """One draw of the photometric distortion; None leaves the step out.

    Attributes:
      brightness: added to every value, -32 to 32 grey levels.
      contrast: factor on every value, 0.5 to 1.5.
      saturation: factor on the saturation, 0.5 to 1.5.
      hue: added to the hue in steps of two degrees, -18 to 17.
      contrast_first: contrast before saturation and hue, else after them.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: int | None = None
    contrast_first: bool = True


def draw_distortion(rng: np.random.Generator) -> Distortion:
    """Draws a distortion; each of its four steps happens with probability 1/2."""
    apply = rng.random(4) < 0.5
    brightness, contrast, saturation = rng.uniform((-32, 0.5, 0.5), (32, 1.5, 1.5)).tolist()
    hue = int(rng.integers(-18, 18))
    values = (brightness, contrast, saturation, hue)
    steps = [v if on else None for v, on in zip(values, apply, strict=True)]
    return Distortion(*steps, contrast_first=bool(rng.random() < 0.5))


def distort(image: np.ndarray, drawn: Distortion) -> np.ndarray:
    """Applies a photometric distortion (ATRC's PhotoMetricDistortion, no swap of channels).

    Every step clips to 0..255 and truncates. All of them act on single uint8 values, of the image
    or of its HSV form, so each is a table of 256 entries.

    Args:
      image: uint8 ``[H, W, 3]`` RGB.
    """
    if drawn.brightness is not None:
        image = cv2.LUT(image, _levels(LEVELS + drawn.brightness))
    if drawn.contrast is not None and drawn.contrast_first:
        image = cv2.LUT(image, _levels(LEVELS * drawn.contrast))
    if drawn.saturation is not None:
        image = _in_hsv(image, (SAME, _levels(LEVELS * drawn.saturation), SAME))
    if drawn.hue is not None:
        turned = ((SAME.astype(int) + drawn.hue) % 180).astype(np.uint8)
        image = _in_hsv(image, (turned, SAME, SAME))
    if drawn.contrast is not None and not drawn.contrast_first:
        image = cv2.LUT(image, _levels(LEVELS * drawn.contrast))
    return image


def quantise(planes: list[np.ndarray]) -> np.ndarray:
    """Puts planes together as uint8 ``[H, W, 3]``, clipped, then truncated.

    The MTLoRA loader truncates without clipping, so that a cubic's overshoot wraps around and a
    white edge turns black; this is the one place where its protocol is not followed.
    """
    return cv2.merge([p if p.dtype == np.uint8 else _levels(p) for p in planes])


def normalise(image: np.ndarray) -> np.ndarray:
    """uint8 ``[H, W, 3]`` to float32 ``(v / 255 - mean) / std`` with ImageNet's statistics."""
    return cv2.LUT(image, (LEVELS[:, None, None] / 255 - MEAN[None, None]) / STD[None, None])


def _levels(values: np.ndarray) -> np.ndarray:
    low, high, *_ = cv2.minMaxLoc(values)
    return (values if 0 <= low and high < 256 else np.clip(values, 0, 255)).astype(np.uint8)


def _in_hsv(image: np.ndarray, tables: tuple[np.ndarray, ...]) -> np.ndarray:
    """Looks up hue (0..179), saturation and value; back to RGB, which rounds."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return _to_rgb(cv2.LUT(hsv, np.stack(tables, -1)[None]))


@functools.cache
def _shares() -> list[np.ndarray]:
    """Red, green and blue over the value, float32, at ``256 * hue + saturation``."""
    hue = np.arange(180, dtype=np.float32) * np.float32(6 / 180)
    sector = hue.astype(int)
    part = hue - sector.astype(np.float32)
    # How much of the saturation a channel lacks, sector by sector.
    zero, one = np.zeros_like(part), np.ones_like(part)
    red = np.choose(sector, [zero, part, one, one, 1 - part, zero])
    green = np.choose(sector, [1 - part, zero, zero, part, one, one])
    blue = np.choose(sector, [one, one, 1 - part, zero, zero, part])
    saturation = LEVELS * np.float32(1 / 255)
    # In double, so that the product is rounded once, with the difference.
    lack = [c[:, None].astype(np.float64) * saturation for c in (red, green, blue)]
    return [(1 - x).astype(np.float32).ravel() for x in lack]


def _to_rgb(hsv: np.ndarray) -> np.ndarray:
    """uint8 HSV to RGB by OpenCV's formula.

    OpenCV's vector code rounds as the processor does and by a pixel's place in the row: on some
    processors every seventh value is off by one.
    """
    hue, saturation, value = cv2.split(hsv)
    index = cv2.merge([saturation, hue]).view("<u2")[..., 0].astype(np.intp)
    value = cv2.LUT(value, LEVELS * np.float32(1 / 255))
    planes = []
    for table in _shares():
        plane = table.take(index, mode="clip")
        plane *= value
        plane *= np.float32(255)
        planes.append(np.rint(plane, out=plane).astype(np.uint8))
    return cv2.merge(planes)
