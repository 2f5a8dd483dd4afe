"""Colour of surfaces and sky, and what a sensor makes of it."""

from typing import NamedTuple

import cv2
import numpy as np

from mtl_vision.data.synthetic import textures as tx
from mtl_vision.data.synthetic.camera import light_view
from mtl_vision.data.synthetic.materials import Material
from mtl_vision.data.synthetic.raycast import Geometry, View, cast
from mtl_vision.data.synthetic.surface import Surface, Vector


class Sky(NamedTuple):
    """What is seen where no surface is: a gradient, clouds, and outlines of hills or trees."""

    zenith: np.ndarray
    horizon: np.ndarray
    cloud: np.ndarray
    cover: float  # share of clouds
    outlines: tuple[tuple[np.ndarray, np.ndarray], ...]  # (waves [n, 3], colour [3]), far first


class Lighting(NamedTuple):
    """Colours are linear RGB [3]; directions [3] are unit vectors towards the light."""

    key_direction: np.ndarray
    key: np.ndarray
    fill_direction: np.ndarray
    fill: np.ndarray
    above: np.ndarray  # ambient light from above
    below: np.ndarray  # and from below
    lamps: tuple[tuple[np.ndarray, np.ndarray], ...]  # (position, colour)
    fog: float  # per metre
    sky: Sky


class Sensor(NamedTuple):
    exposure: float  # mean of the tone-mapped image
    balance: np.ndarray  # [3] white balance
    vignette: float
    blur: float  # standard deviation at 448 pixels
    noise: float
    contrast: float


def lit(surface: Surface, geo: Geometry, casters: np.ndarray, towards: np.ndarray, side: int):
    """Share [N] of the key light that arrives: 0 in shadow, soft at its border.

    Args:
      casters: indices of the primitives that throw shadows.
      side: width in pixels of the shadow map.
    """
    part = Geometry(*(field[casters] for field in geo))
    centres = part.matrix[:, :, 3]
    reach = (np.abs(part.matrix[:, :, :3]) * part.half[:, None]).sum(2)
    low, high = (centres - reach).min(0), (centres + reach).max(0)
    radius = float(np.linalg.norm(high - low)) / 2
    view = light_view(towards, (low + high) / 2, radius, side)
    depth, _ = cast(view, part)
    g, o = view.spread.astype(np.float32), towards.astype(np.float32)
    texel = np.float32(2 * radius / side)
    x, y, z = (
        p - c + (1.5 * texel) * n
        for p, c, n in zip(surface.point, g[:3, 2], surface.normal, strict=True)
    )
    column = ((x * g[0, 0] + y * g[1, 0] + z * g[2, 0]) / texel + side / 2).astype(np.int32)
    row = ((x * g[0, 1] + y * g[1, 1] + z * g[2, 1]) / texel + side / 2).astype(np.int32)
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    np.clip(column, 0, side - 1, out=column)
    np.clip(row, 0, side - 1, out=row)
    height = x * o[0] + y * o[1] + z * o[2] + texel
    return ~(inside & (depth.ravel().take(row * side + column) > height))


def soften(values: np.ndarray, surface: Surface, size, width: float) -> np.ndarray:
    """Blurs per-surface values [N] over the image; width in pixels."""
    image = np.ones(size, np.float32)
    image.ravel()[surface.where] = values
    return cv2.GaussianBlur(image, (0, 0), width).ravel().take(surface.where)


def albedo(surface: Surface, materials: list[Material], focal: float) -> Vector:
    """Texture between the material's two colours, with large faint stains."""
    table = np.array([m.scale for m in materials], np.float32).take(surface.prim)
    texture = np.array([m.texture for m in materials], np.int32).take(surface.prim)
    turned = np.array([m.turned for m in materials]).take(surface.prim)
    u = np.where(turned, surface.v, surface.u)
    v = np.where(turned, surface.u, surface.v)
    width = surface.distance / (focal * np.sqrt(np.maximum(surface.facing, 0.02)))
    share = tx.sample(texture, u * table, v * table, width * table)
    stains = tx.sample(tx.CLOUD, u * 0.13 + 0.37, v * 0.13, width * 0.13)
    stains = 0.8 + 0.4 * stains
    dark = np.stack([m.dark for m in materials]).astype(np.float32)
    step = np.stack([m.light - m.dark for m in materials]).astype(np.float32)
    return tuple(
        (dark[:, i].take(surface.prim) + step[:, i].take(surface.prim) * share) * stains
        for i in range(3)
    )


def _dot(a: Vector, b: np.ndarray) -> np.ndarray:
    b = b.astype(np.float32)
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def shade(
    surface: Surface, view: View, materials: list[Material], lighting: Lighting, shadow: np.ndarray
) -> Vector:
    """Diffuse, ambient, lamp and specular light, glow and fog; linear RGB [N] each."""
    colour = albedo(surface, materials, view.focal)
    key = np.maximum(_dot(surface.normal, lighting.key_direction), 0) * shadow
    fill = np.maximum(_dot(surface.normal, lighting.fill_direction), 0)
    up = 0.5 + 0.5 * surface.normal[1]
    lamps = [(_lamp(surface, position), c) for position, c in lighting.lamps]
    gloss = np.array([m.gloss for m in materials], np.float32)
    glow = np.array([m.glow for m in materials], np.float32).take(surface.prim)
    shiny = np.flatnonzero((gloss > 0).take(surface.prim))
    shine = _highlight(surface, shiny, view, lighting.key_direction)
    shine *= shadow.take(shiny) * gloss.take(surface.prim.take(shiny))
    haze = np.exp(-np.float32(lighting.fog) * surface.distance)
    out = []
    for i in range(3):
        light = key * np.float32(lighting.key[i]) + fill * np.float32(lighting.fill[i])
        light += np.float32(lighting.below[i])
        light += up * np.float32(lighting.above[i] - lighting.below[i])
        for strength, c in lamps:
            light += strength * np.float32(c[i])
        value = colour[i] * (light + glow)
        value[shiny] += shine * np.float32(lighting.key[i])
        if lighting.fog:
            horizon = np.float32(lighting.sky.horizon[i])
            value = horizon + (value - horizon) * haze
        out.append(value)
    return tuple(out)


def _lamp(surface: Surface, position: np.ndarray) -> np.ndarray:
    """Light of a lamp at `position`: falls with the square of the distance, flattened near it."""
    d = [np.float32(o) - p for o, p in zip(position, surface.point, strict=True)]
    square = d[0] ** 2 + d[1] ** 2 + d[2] ** 2
    cosine = sum(a * b for a, b in zip(d, surface.normal, strict=True)) / np.sqrt(square)
    return np.maximum(0.25 + 0.75 * cosine, 0) / (0.5 + square)


def _highlight(surface: Surface, at: np.ndarray, view: View, towards: np.ndarray) -> np.ndarray:
    """Blinn-Phong at some points: how well the normal halves the angle of light and camera."""
    d = [np.float32(o) - p.take(at) for o, p in zip(view.origin[:3], surface.point, strict=True)]
    scale = 1 / np.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2)
    half = [c * scale + np.float32(t) for c, t in zip(d, towards, strict=True)]
    length = np.sqrt(half[0] ** 2 + half[1] ** 2 + half[2] ** 2) + 1e-6
    cosine = sum(a * b.take(at) for a, b in zip(half, surface.normal, strict=True)) / length
    for _ in range(5):  # to the 32nd power
        cosine = cosine * cosine
    return cosine


def sky_colour(sky: Sky, direction: Vector) -> Vector:
    """Linear RGB of the sky in world directions [N]."""
    x, y, z = direction
    flat = np.sqrt(x * x + z * z)
    rise = y / (flat + np.abs(y))
    share = np.clip(rise * 2.2, 0, 1)
    height = np.maximum(rise, 0.03)
    across = np.float32(0.1) / (flat * height)
    drift = tx.sample(tx.CLOUD, x * across, z * across, 0.0003 / height)
    cloud = np.clip((drift - 1 + sky.cover) * 3, 0, 0.9) * np.clip(rise * 6, 0, 1)
    out = []
    for i in range(3):
        c = np.float32(sky.horizon[i]) + share * np.float32(sky.zenith[i] - sky.horizon[i])
        out.append(c + cloud * (np.float32(sky.cloud[i]) - c))
    azimuth = np.arctan2(x, z)
    for waves, colour in sky.outlines:
        edge = sum(
            np.float32(a) * np.sin(np.float32(k) * azimuth + np.float32(p)) for k, a, p in waves
        )
        mottle = tx.sample(tx.ROUGH, azimuth * 3, rise * 5, np.full_like(x, 0.004))
        inside = y / flat < edge + np.float32(waves[:, 1].sum())
        for i in range(3):
            c = np.float32(colour[i]) * (0.6 + 0.8 * mottle)
            out[i] = np.where(inside, c, out[i])
    return tuple(out)


def develop(rgb: np.ndarray, sensor: Sensor, rng: np.random.Generator) -> np.ndarray:
    """Linear light [H, W, 3] float32 to an image [H, W, 3] uint8.

    Exposure is set by the mean, as a camera's is; then vignetting, tone curve, lens blur, noise.
    """
    H, W, _ = rgb.shape
    y = np.linspace(-1, 1, H, dtype=np.float32)[:, None] ** 2
    x = np.linspace(-1, 1, W, dtype=np.float32)[None] ** 2
    shade = 1 - np.float32(sensor.vignette) * (x + y)
    gain = -np.log(1 - sensor.exposure) / (np.minimum(rgb, 4 * rgb.mean()).mean() + 1e-6)
    rgb = rgb * (shade[..., None] * (np.float32(gain) * sensor.balance.astype(np.float32)))
    np.negative(rgb, out=rgb)
    np.exp(rgb, out=rgb)
    np.subtract(np.float32(1 + 1e-6), rgb, out=rgb)
    np.log(rgb, out=rgb)  # a power by log and exp: several times faster than np.power
    rgb *= np.float32(sensor.contrast / 2.2)
    np.exp(rgb, out=rgb)
    width = max(sensor.blur * min(H, W) / 448, 0.45)
    rgb = cv2.GaussianBlur(rgb, (0, 0), width)
    rgb += rng.standard_normal(rgb.shape, np.float32) * np.float32(sensor.noise)
    return np.clip(rgb * 255 + 0.5, 0, 255).astype(np.uint8)
