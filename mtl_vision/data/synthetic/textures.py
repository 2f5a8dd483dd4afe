"""A bank of tileable scalar textures with mip levels, made once per process.

A texture is a map [0, 1)^2 -> [0, 1] that says how far a material's colour is from its dark to its
light end. It does not depend on the scene's seed; materials choose scale, orientation, colours.
"""

import functools

import numpy as np

SIZE = 256
NAMES = (
    "flat cloud rough grain soft_stripes stripes checks bricks tiles planks wood weave dots plaid "
    "speckle marble leaves patches facade waves gravel spines screen canvas herringbone blades"
).split()
FLAT, CLOUD, ROUGH, GRAIN, SOFT_STRIPES, STRIPES, CHECKS, BRICKS, TILES, PLANKS, WOOD, WEAVE = (
    range(12)
)
DOTS, PLAID, SPECKLE, MARBLE, LEAVES, PATCHES, FACADE, WAVES, GRAVEL, SPINES = range(12, 22)
SCREEN, CANVAS, HERRINGBONE, BLADES = range(22, 26)


def _noise(rng: np.random.Generator, power: float, stretch: float = 1.0) -> np.ndarray:
    """Tileable noise with spectrum 1/f^power, in [0, 1] by rank."""
    fy = np.fft.fftfreq(SIZE)[:, None] * SIZE
    fx = np.fft.fftfreq(SIZE)[None] * SIZE * stretch
    f = np.sqrt(fx**2 + fy**2)
    f[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.standard_normal((SIZE, SIZE))) * f**-power
    value = np.fft.ifft2(spectrum).real
    return np.clip(0.5 + value / (4.5 * value.std()), 0, 1)


def _cells(
    rng: np.random.Generator, rows: int, columns: int, shift: float = 0.0, gap: float = 0.03
):
    """Rectangles of random grey in rows; every other row moved by `shift` of a cell."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    row = np.floor(y * rows).astype(int)
    u = (x * columns + shift * (row % 2)) % columns
    v = y * rows
    grey = rng.uniform(0.45, 1, (rows, columns))[row % rows, u.astype(int) % columns]
    edge = np.minimum(u % 1 / columns, v % 1 / rows) < gap / 4
    return np.where(edge, 0.0, grey)


def _spots(rng: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    """Discs of random grey on a torus; sizes as shares of the texture."""
    value = np.full((SIZE, SIZE), 0.35)
    reach = int(high * SIZE) + 1
    step = np.arange(-reach, reach + 1)
    square = np.add.outer(step**2, step**2)
    for _ in range(count):
        y, x = rng.integers(0, SIZE, 2)
        window = np.ix_((y + step) % SIZE, (x + step) % SIZE)
        disc = square < (rng.uniform(low, high) * SIZE) ** 2
        value[window] = np.where(disc, rng.random(), value[window])
    return value


def _rectangles(rng: np.random.Generator, count: int) -> np.ndarray:
    value = np.full((SIZE, SIZE), 0.2)
    for _ in range(count):
        x, y = rng.integers(0, SIZE, 2)
        w, h = rng.integers(SIZE // 12, SIZE // 3, 2)
        value[y : y + h, x : x + w] = rng.random()
    return value


def _textures() -> list[np.ndarray]:
    rng = np.random.default_rng(20240229)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    turn = 2 * np.pi
    cloud, rough, grain = _noise(rng, 1.7), _noise(rng, 1.1), _noise(rng, 0.5)
    wood = 0.5 + 0.5 * np.sin(turn * (6 * x + 1.6 * _noise(rng, 1.6, 5.0)))
    planks = _cells(rng, 8, 2, 0.5, 0.012) * (0.7 + 0.3 * _noise(rng, 1.0, 0.1))
    weave = 0.5 + 0.25 * np.sin(turn * 32 * x) + 0.25 * np.sin(turn * 32 * y)
    plaid = 0.5 * ((x * 4) % 1 < 0.5) + 0.3 * ((y * 4) % 1 < 0.5) + 0.2 * ((x * 16) % 1 < 0.2)
    marble = np.abs(np.sin(turn * (x + y + 2.2 * cloud)))
    facade = np.where(((x * 8) % 1 > 0.3) & ((y * 8) % 1 > 0.4), 0.1 + 0.2 * rough, 0.75)
    waves = _noise(rng, 1.4, 0.25)
    diagonal = ((x * 8 + np.where((y * 8).astype(int) % 2, y * 8, -y * 8)) % 1 < 0.5) * 0.6
    return [
        np.zeros((SIZE, SIZE)),
        cloud,
        rough,
        grain,
        0.5 + 0.5 * np.sin(turn * 8 * x),
        ((x * 8) % 1 < 0.5) * 1.0,
        (((x * 4) % 1 < 0.5) ^ ((y * 4) % 1 < 0.5)) * 1.0,
        _cells(rng, 12, 4, 0.5),
        _cells(rng, 4, 4) * 0.4 + 0.6 * (_cells(rng, 4, 4) > 0),
        planks,
        wood,
        weave,
        (((x * 8) % 1 - 0.5) ** 2 + ((y * 8) % 1 - 0.5) ** 2 < 0.07) * 1.0,
        plaid,
        _spots(rng, 900, 0.004, 0.012),
        marble,
        np.clip(_noise(rng, 0.9) * 2.2 - 0.6, 0, 1),
        (_noise(rng, 2.0) > 0.52) * 1.0,
        facade,
        waves,
        _spots(rng, 1500, 0.008, 0.03),
        _cells(rng, 1, 24, 0, 0.012) * (0.85 + 0.15 * grain),
        _rectangles(rng, 40) * (0.8 + 0.2 * cloud),
        _noise(rng, 2.2) * 0.6 + 0.4 * _rectangles(rng, 14),
        diagonal + 0.4 * rough,
        _noise(rng, 0.8, 0.2),
    ]


@functools.cache
def bank() -> tuple[np.ndarray, np.ndarray]:
    """All textures and levels in one array, and where level l of a texture starts.

    Returns: values [n] uint8, and offsets [levels] such that texture t, level l, texel (v, u) is
    at ``t * stride + offsets[l] + v * (SIZE >> l) + u`` with ``stride = offsets[-1]``.
    """
    rows, offsets = [], [0]
    level = np.stack(_textures())
    while True:
        rows.append(level.reshape(len(level), -1))
        offsets.append(offsets[-1] + rows[-1].shape[1])
        if level.shape[1] == 1:
            break
        side = level.shape[1] // 2
        level = level.reshape(len(level), side, 2, side, 2).mean((2, 4))
    values = np.concatenate(rows, 1)
    return np.round(255 * values).astype(np.uint8).ravel(), np.array(offsets)


def sample(texture: np.ndarray, u: np.ndarray, v: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Looks up textures: the nearest texel of the level whose texel is about one pixel wide.

    Where even the finest texel is wider than a pixel, four of them are interpolated.

    Args:
      texture: [N] int or one int, index into `NAMES`.
      u, v: [N] float32, in tiles.
      footprint: [N] float32, tiles per pixel.

    Returns: [N] float32 in [0, 1].
    """
    values, offsets = bank()
    start = np.intp(offsets[-1]) * texture
    level = np.frexp(footprint * (SIZE * 0.75))[1]
    np.clip(level, 0, len(offsets) - 2, out=level)
    side = np.right_shift(SIZE, level)
    scale = side.astype(np.float32)
    column = (u * scale).astype(np.int32) & (side - 1)
    row = (v * scale).astype(np.int32) & (side - 1)
    where = start + offsets.take(level) + row * side + column
    found = values.take(where).astype(np.float32)
    wide = np.flatnonzero(footprint * SIZE < 0.7)
    if len(wide):
        start = start if np.ndim(start) == 0 else start.take(wide)
        found[wide] = _between(values, start, u.take(wide), v.take(wide))
    found *= np.float32(1 / 255)
    return found


def _between(values: np.ndarray, start: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear look-up in the finest level, 0..255."""
    x, y = u * SIZE - np.float32(0.5), v * SIZE - np.float32(0.5)
    left, top = np.floor(x), np.floor(y)
    fx, fy = x - left, y - top
    left, top = left.astype(np.int32), top.astype(np.int32)
    columns = left & (SIZE - 1), (left + 1) & (SIZE - 1)
    rows = [start + (r & (SIZE - 1)) * SIZE for r in (top, top + 1)]
    upper, lower = (
        values.take(r + columns[0]) * (1 - fx) + values.take(r + columns[1]) * fx for r in rows
    )
    return upper * (1 - fy) + lower * fy
