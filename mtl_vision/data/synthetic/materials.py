"""Materials: a texture between two colours, gloss and glow. Colours are linear RGB in [0, 1]."""

from typing import NamedTuple

import numpy as np

from mtl_vision.data.synthetic import textures as tx

Rng = np.random.Generator


class Material(NamedTuple):
    """`dark` and `light` are the ends of the texture's scale; `scale` is in tiles per metre.

    `blind` surfaces (glass, black gloss) return nothing to the depth sensor.
    """

    dark: np.ndarray
    light: np.ndarray
    texture: int = tx.FLAT
    scale: float = 1.0
    turned: bool = False
    gloss: float = 0.0
    glow: float = 0.0
    blind: bool = False


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """Linear RGB [3] of a colour given in the sRGB-like HSV cone."""
    rgb = []
    for channel in (5.0, 3.0, 1.0):
        k = (channel + hue * 6) % 6
        rgb.append((value - value * saturation * max(0.0, min(k, 4 - k, 1.0))) ** 2.2)
    return np.array(rgb)


def any_colour(rng: Rng) -> np.ndarray:
    """Any hue; half the time a muted one."""
    saturation = rng.uniform(0.0, 0.35) if rng.random() < 0.5 else rng.uniform(0.3, 0.95)
    return hsv(rng.random(), saturation, rng.uniform(0.15, 1.0))


def near(rng: Rng, colour: np.ndarray, spread: float = 0.25) -> np.ndarray:
    """A colour like `colour`: brighter or darker, slightly tinted."""
    tint = 1 + rng.uniform(-spread, spread) + rng.uniform(-0.08, 0.08, 3)
    return np.clip(colour * tint, 0.004, 1)


def pattern(rng: Rng, choices, colour: np.ndarray, *, contrast=(0.1, 0.7), scale=(0.5, 3)):
    """One of the textures in `choices` between `colour` and a darker or unlike colour."""
    other = colour * (1 - rng.uniform(*contrast))
    if rng.random() < 0.25:
        other = any_colour(rng)
    dark, light = (other, colour) if rng.random() < 0.7 else (colour, other)
    low, high = np.log(scale)
    return Material(
        near(rng, dark, 0.1),
        near(rng, light, 0.1),
        int(rng.choice(choices)),
        float(np.exp(rng.uniform(low, high))),
        bool(rng.random() < 0.5),
    )


def paint(rng: Rng, colour: np.ndarray | None = None, gloss: float | None = None) -> Material:
    """Plain or slightly mottled surface; lacquer when glossy."""
    colour = any_colour(rng) if colour is None else near(rng, colour)
    gloss = rng.choice([0.0, 0.15, 0.5]) if gloss is None else gloss
    texture = int(rng.choice([tx.FLAT, tx.CLOUD, tx.ROUGH]))
    return Material(colour * rng.uniform(0.6, 0.95), colour, texture, 1.5, gloss=gloss)


def wood(rng: Rng) -> Material:
    """Anything from ebony to bleached pine, or painted."""
    if rng.random() < 0.25:
        return paint(rng)
    tone = hsv(rng.uniform(0.03, 0.12), rng.uniform(0.2, 0.75), rng.uniform(0.25, 0.95))
    dark = tone * rng.uniform(0.35, 0.8)
    texture = int(rng.choice([tx.WOOD, tx.WOOD, tx.ROUGH, tx.PLANKS]))
    scale, turned = rng.uniform(0.7, 2.5), bool(rng.random() < 0.5)
    return Material(dark, tone, texture, scale, turned, rng.choice([0.0, 0.1, 0.4]))


def fabric(rng: Rng) -> Material:
    choices = (tx.FLAT, tx.WEAVE, tx.STRIPES, tx.PLAID, tx.DOTS, tx.CLOUD, tx.SOFT_STRIPES)
    choices = (*choices, tx.ROUGH, tx.ROUGH, tx.FLAT, tx.CHECKS, tx.GRAIN)
    return pattern(rng, choices, any_colour(rng), scale=(1.0, 5))


def metal(rng: Rng) -> Material:
    grey = hsv(rng.random(), rng.uniform(0, 0.15), rng.uniform(0.2, 0.9))
    return Material(grey * 0.85, grey, tx.GRAIN, 1.0, gloss=rng.uniform(0.3, 0.9))


def black(rng: Rng) -> Material:
    grey = hsv(0, 0, rng.uniform(0.05, 0.25))
    return Material(grey, grey * 1.2, tx.ROUGH, 2.0, gloss=0.2)


def glass(rng: Rng) -> Material:
    tint = hsv(rng.uniform(0.4, 0.7), rng.uniform(0, 0.4), rng.uniform(0.08, 0.55))
    return Material(tint * 0.6, tint * 1.4, tx.CLOUD, 0.6, gloss=0.9, blind=True)


def skin(rng: Rng) -> Material:
    tone = hsv(rng.uniform(0.03, 0.08), rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.95))
    return Material(tone * 0.9, tone, tx.CLOUD, 2.0, gloss=0.05)


def hair(rng: Rng) -> Material:
    tone = hsv(rng.uniform(0.02, 0.13), rng.uniform(0.1, 0.7), rng.uniform(0.05, 0.8))
    return Material(tone * 0.5, tone, tx.BLADES, 3.0)


def fur(rng: Rng, patched: float = 0.3) -> Material:
    """Brown, black, white, grey, ginger; patched with probability `patched`."""

    def tone():
        return hsv(rng.uniform(0.02, 0.12), rng.uniform(0.0, 0.65), rng.uniform(0.08, 0.97))

    colour = tone()
    if rng.random() < patched:
        texture, other = int(rng.choice([tx.PATCHES, tx.SOFT_STRIPES], p=[0.8, 0.2])), tone()
        return Material(other, colour, texture, rng.uniform(0.6, 2.0), bool(rng.random() < 0.5))
    texture = int(rng.choice([tx.ROUGH, tx.GRAIN, tx.BLADES]))
    return Material(colour * rng.uniform(0.5, 0.85), colour, texture, rng.uniform(1, 4))


def foliage(rng: Rng) -> Material:
    hue = rng.uniform(0.2, 0.4) if rng.random() < 0.8 else rng.uniform(0.02, 0.16)
    tone = hsv(hue, rng.uniform(0.25, 0.8), rng.uniform(0.2, 0.75))
    return Material(tone * rng.uniform(0.1, 0.4), tone, tx.LEAVES, rng.uniform(0.5, 2.0))


def screen(rng: Rng) -> Material:
    """A television: off (black gloss) or showing something."""
    if rng.random() < 0.45:
        grey = hsv(0.6, 0.1, rng.uniform(0.03, 0.2))
        return Material(grey, grey * 1.5, tx.CLOUD, 1.0, gloss=0.9, blind=True)
    dark, light = any_colour(rng), any_colour(rng)
    texture = int(rng.choice([tx.SCREEN, tx.CANVAS]))
    glow = rng.uniform(0.3, 0.9)
    return Material(dark, light, texture, rng.uniform(0.5, 1.5), gloss=0.3, glow=glow, blind=True)


def canvas(rng: Rng) -> Material:
    choices = (tx.CANVAS, tx.SCREEN, tx.PATCHES, tx.MARBLE, tx.CLOUD, tx.LEAVES)
    return pattern(rng, choices, any_colour(rng), contrast=(0.3, 0.95), scale=(0.6, 2.5))


def stone(rng: Rng) -> Material:
    tone = hsv(rng.uniform(0, 0.15), rng.uniform(0, 0.3), rng.uniform(0.3, 0.85))
    choices = (tx.ROUGH, tx.SPECKLE, tx.GRAVEL, tx.CLOUD)
    return pattern(rng, choices, tone, scale=(0.5, 2))


def facade(rng: Rng) -> Material:
    tone = hsv(rng.uniform(0, 0.2), rng.uniform(0.05, 0.5), rng.uniform(0.35, 0.95))
    choices = (tx.FACADE, tx.FACADE, tx.BRICKS, tx.ROUGH)
    return pattern(rng, choices, tone, contrast=(0.3, 0.8), scale=(0.03, 0.12))


def wall(rng: Rng) -> Material:
    """Painted plaster, wallpaper, brick, panels or tiles."""
    plain = rng.random() < 0.6
    value = rng.uniform(0.55, 1) if rng.random() < 0.7 else rng.uniform(0.2, 0.6)
    tone = hsv(rng.random(), rng.uniform(0, 0.5) ** 1.5, value)
    if plain:
        return Material(tone * 0.9, tone, int(rng.choice([tx.CLOUD, tx.ROUGH, tx.FLAT])), 0.5)
    choices = (tx.STRIPES, tx.BRICKS, tx.TILES, tx.PLANKS, tx.DOTS, tx.PLAID, tx.CANVAS)
    return pattern(rng, choices, tone, contrast=(0.05, 0.4), scale=(0.4, 1.5))


def floor(rng: Rng) -> Material:
    kind = rng.integers(4)
    if kind == 0:
        return wood(rng)._replace(texture=tx.PLANKS, scale=rng.uniform(0.4, 1))
    tone = hsv(rng.uniform(0, 1), rng.uniform(0, 0.4), rng.uniform(0.2, 0.95))
    if kind == 1:
        choices = (tx.TILES, tx.CHECKS, tx.HERRINGBONE, tx.BRICKS)
        return pattern(rng, choices, tone, scale=(0.3, 1.0))._replace(gloss=0.2)
    if kind == 2:
        return pattern(rng, (tx.GRAIN, tx.ROUGH, tx.CLOUD), tone, scale=(0.5, 2))
    return pattern(rng, (tx.SPECKLE, tx.MARBLE, tx.PLAID), tone, contrast=(0.1, 0.4))
