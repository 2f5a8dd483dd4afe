"""Views: a pinhole camera in the world, and parallel light that sees the shadow casters."""

import numpy as np

from mtl_vision.data.synthetic.raycast import View


def camera(position, yaw: float, pitch: float, roll: float, focal: float, size) -> View:
    """A camera at `position`, turned right by `yaw`, up by `pitch`; y up, z ahead at yaw 0.

    Args:
      focal: focal length in units of the image's shorter side.
      size: (H, W).
    """
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    ahead = np.array([sy * cp, sp, cy * cp])
    right = np.array([cy, 0.0, -sy])
    down = np.array([sy * sp, -cp, cy * sp])
    c, s = np.cos(roll), np.sin(roll)
    spread = np.zeros((4, 3))
    spread[:3] = np.stack([c * right + s * down, c * down - s * right, ahead], 1)
    return View(np.append(position, 1.0), spread, focal * min(size), tuple(size))


def look_at(position, target) -> tuple[float, float]:
    """Yaw and pitch that bring `target` to the middle of the image."""
    d = np.asarray(target, float) - position
    return float(np.arctan2(d[0], d[2])), float(np.arctan2(d[1], np.hypot(d[0], d[2])))


def to_camera(view: View, vector):
    """World vectors (x, y, z apart) in the camera frame: x right, y down, z ahead."""
    g = view.spread[:3].astype(np.float32)
    return tuple(vector[0] * g[0, i] + vector[1] * g[1, i] + vector[2] * g[2, i] for i in range(3))


def light_view(towards: np.ndarray, centre: np.ndarray, radius: float, side: int) -> View:
    """Parallel light from direction `towards`, covering a ball of the world with side^2 pixels."""
    side_axis = np.cross(towards, [0.0, 0.0, 1.0] if abs(towards[2]) < 0.9 else [1.0, 0.0, 0.0])
    side_axis /= np.linalg.norm(side_axis)
    spread = np.zeros((4, 3))
    spread[:3] = np.stack([side_axis, np.cross(towards, side_axis), centre], 1)
    spread[3, 2] = 1
    return View(np.append(towards, 0.0), spread, side / (2 * radius), (side, side))
