"""Published speeds of systems, and the least time of a step there: its products, its messages."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Sent = Mapping[tuple[str, tuple[str, ...]], float]  # bytes by kind and axes of the mesh


class System(NamedTuple):
    """What the makers publish of a system; docs/scaling.md says where.

    Attributes:
      name: of the system.
      flops: bfloat16 operations a second of a device, dense.
      memory: bytes of a device.
      near: bytes a second that a device sends over its links, all of them, one way.
      domain: devices that these links join.
      far: bytes a second of its share of the network between domains, one way.
    """

    name: str
    flops: float
    memory: float
    near: float
    domain: int
    far: float


SYSTEMS = (
    System("TPU v5e", 197e12, 16e9, 200e9, 256, 25e9 / 8),
    System("TPU v5p", 459e12, 95 * 2**30, 600e9, 6144, 50e9 / 8),
    System("TPU v6e", 918e12, 32e9, 400e9, 256, 100e9 / 8),
    System("H100", 989e12, 80e9, 450e9, 8, 50e9),
    System("H200", 989e12, 141e9, 450e9, 8, 50e9),
    System("GB200 NVL72", 2500e12, 186e9, 900e9, 72, 50e9),
)


def bandwidth(system: System, mesh: Mapping[str, int], axes: tuple[str, ...]) -> float:
    """Returns the bytes a second that a device sends in rings along `axes`.

    Rings that leave a domain leave it once for all of its devices that take part, which share the
    work of their ways out.
    """
    ids = np.arange(math.prod(mesh.values())).reshape(*mesh.values())
    group = ids[tuple(slice(None) if name in axes else 0 for name in mesh)]
    inside = int((group < system.domain).sum())
    return system.near if inside == group.size else min(system.near, system.far * inside)


def milliseconds(
    system: System, mesh: Mapping[str, int], flops: float, sent: Sent
) -> tuple[float, float]:
    """Returns the least time of a step's products and of its messages."""
    messages = sum(size / bandwidth(system, mesh, axes) for (_, axes), size in sent.items())
    return 1e3 * flops / system.flops, 1e3 * messages
