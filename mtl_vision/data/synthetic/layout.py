"""What a scene is, and how things find their places in it."""

from typing import NamedTuple

import numpy as np

from mtl_vision.data.synthetic import materials as mt
from mtl_vision.data.synthetic.shading import Lighting, Sensor, Sky
from mtl_vision.data.synthetic.shapes import Model, Prim, bounds, place

Rng = np.random.Generator


class Thing(NamedTuple):
    """One object of a scene: an instance to the edge labels, a candidate for saliency."""

    prims: list[Prim]
    label: int
    salient: bool = True  # may be salient; False for surroundings
    normals: bool = True  # has normals
    casts: bool = True  # throws shadows


class Scene(NamedTuple):
    """A world and the camera in it. Nothing in it depends on the image's size."""

    things: list[Thing]
    position: np.ndarray
    yaw: float
    pitch: float
    roll: float
    focal: float  # in units of the image's shorter side
    lighting: Lighting
    sensor: Sensor


class Floor:
    """Circles already taken on the ground; finds free places."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, float, float]] = []

    def free(self, x: float, z: float, radius: float) -> bool:
        return all((x - a) ** 2 + (z - b) ** 2 > (radius + r) ** 2 for a, b, r in self.taken)

    def take(self, x: float, z: float, radius: float) -> None:
        self.taken.append((x, z, radius))


def footprint(prims: list[Prim]) -> tuple[float, float]:
    """Radius on the ground, and height."""
    low, high = bounds(prims)
    return float(np.hypot(*(high - low)[[0, 2]]) / 2), float(high[1])


def moved(model: Model, label: int, position, yaw: float = 0.0, **flags) -> Thing:
    return Thing(place(model.prims, position, yaw), label, **flags)


def sky(rng: Rng) -> Sky:
    """Blue, overcast or evening; hills, woods or roofs along the horizon."""
    mood = rng.integers(4)
    if mood == 0:
        zenith, horizon = mt.hsv(0.6, 0.1, 0.75), mt.hsv(0.6, 0.05, 0.9)
    elif mood == 1:
        zenith = mt.hsv(rng.uniform(0.55, 0.75), 0.4, rng.uniform(0.3, 0.7))
        horizon = mt.hsv(rng.uniform(0.0, 0.12), rng.uniform(0.2, 0.6), 0.95)
    else:
        zenith = mt.hsv(rng.uniform(0.55, 0.63), rng.uniform(0.4, 0.8), rng.uniform(0.6, 0.95))
        horizon = mt.hsv(rng.uniform(0.5, 0.62), rng.uniform(0.05, 0.25), 0.95)
    outlines = []
    for i in range(int(rng.integers(0, 4))):
        n = int(rng.integers(3, 9))
        waves = np.stack(
            [
                rng.uniform(1, 3 + 14 * rng.random(), n),
                rng.uniform(0.003, 0.03, n),
                rng.uniform(0, 6.3, n),
            ],
            1,
        )
        haze = (i + 1) / 4
        tone = mt.hsv(rng.uniform(0.05, 0.65), rng.uniform(0.05, 0.5), rng.uniform(0.15, 0.6))
        outlines.append((waves / [1, 1 + i * 0.6, 1], tone * haze + horizon * (1 - haze) * 0.6))
    cloud = np.clip(horizon * rng.uniform(0.5, 1.2), 0, 1)
    return Sky(zenith, horizon, cloud, rng.uniform(0.1, 0.9), tuple(outlines))


def direction(rng: Rng, elevation: tuple[float, float], azimuth=(-np.pi, np.pi)) -> np.ndarray:
    """A unit vector; angles in radians, azimuth 0 is +z."""
    e, a = rng.uniform(*elevation), rng.uniform(*azimuth)
    return np.array([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)])


def sensor(rng: Rng) -> Sensor:
    return Sensor(
        exposure=rng.uniform(0.14, 0.42),
        balance=np.exp(rng.normal(0, 0.07, 3)),
        vignette=rng.uniform(0, 0.2),
        blur=rng.uniform(0.3, 1.3),
        noise=rng.uniform(0.002, 0.025),
        contrast=rng.uniform(0.85, 1.35),
    )
