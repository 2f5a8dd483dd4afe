"""One scene, one example: draws, renders, labels.

A scene is drawn from ``np.random.default_rng((seed, index))`` and does not know the image's size;
only the sensor's noise is drawn per pixel, from a generator of its own.
"""

import zlib
from typing import NamedTuple

import cv2
import numpy as np

from mtl_vision.data import boundaries, records
from mtl_vision.data.synthetic import indoor, outdoor, shading, targets
from mtl_vision.data.synthetic.camera import camera, to_camera
from mtl_vision.data.synthetic.labels import IGNORE, KINDS
from mtl_vision.data.synthetic.layout import Scene
from mtl_vision.data.synthetic.raycast import Geometry, View, cast, geometry
from mtl_vision.data.synthetic.shapes import Prim
from mtl_vision.data.synthetic.surface import Surface, directions, surface
from mtl_vision.errors import DataError, lookup

DRAW = {"synth_pascal": outdoor.scene, "synth_nyud": indoor.scene}
SPLITS = ("train", "val", "test")


def seed_of(domain: str, split: str, seed: int = 0) -> int:
    """The first word of a split's generators; differs for every domain, split and seed."""
    if split not in SPLITS:
        raise DataError(f"split={split!r} of {domain} is not one of {', '.join(SPLITS)}.")
    return zlib.crc32(f"{domain}/{split}/{seed}".encode())


def draw(domain: str, seed: int, index: int) -> Scene:
    return lookup(DRAW, domain, "data.name")(np.random.default_rng((seed, index)))


def render(
    domain: str,
    split: str | int,
    index: int,
    size: tuple[int, int],
    kinds: tuple[str, ...] | None = None,
) -> dict:
    """Renders one example; labels are rounded as they are in files, see `records.pack`.

    Args:
      domain: ``synth_pascal`` or ``synth_nyud``.
      split: a split's name, or what `seed_of` returns.
      index: number of the scene in its split.
      size: (H, W) in pixels. The same index at another size is the same scene.
      kinds: the labels wanted; all of the domain's if None.

    Returns: ``id``, ``image`` uint8 [H, W, 3], and per kind: ``semseg`` uint8 (255 ignored),
      ``depth`` float32 metres (0 missing, whole millimetres), ``normals`` float32 [H, W, 3] (unit,
      camera frame x right, y down, z ahead, towards the camera; zero undefined), ``edge``, ``sal``
      uint8 {0, 1}, ``human_parts`` uint8 0..6.

    Raises:
      DataError: no such split, or a kind that the domain does not label.
    """
    wanted = KINDS[domain] if kinds is None else kinds
    return records.unpack_example(render_packed(domain, split, index, size, wanted), wanted)


def render_packed(
    domain: str,
    split: str | int,
    index: int,
    size: tuple[int, int],
    kinds: tuple[str, ...] | None = None,
) -> dict:
    """Like `render`, with the labels packed."""
    seed = seed_of(domain, split) if isinstance(split, str) else split
    scene = draw(domain, seed, index)
    wanted = KINDS[domain] if kinds is None else kinds
    unknown = [k for k in wanted if k not in KINDS[domain]]
    if unknown:
        raise DataError(
            f"{domain} has no {unknown[0]!r} labels; it has {', '.join(KINDS[domain])}."
        )
    cv2.setNumThreads(1)
    seen = look(domain, scene, size)
    example = {"id": f"{domain}-{seed:08x}-{index:06d}"}
    example["image"] = picture(seen, np.random.default_rng((seed, index, 1)))
    return example | {kind: records.pack(kind, _LABELS[kind](seen)) for kind in wanted}


class Seen(NamedTuple):
    """What the camera sees of a scene, before light and labels."""

    domain: str
    scene: Scene
    prims: list[Prim]
    geometry: Geometry
    view: View
    met: Surface
    objects: np.ndarray  # [H, W] 1 + index of the thing; 0 is the sky


def look(domain: str, scene: Scene, size: tuple[int, int]) -> Seen:
    """Casts the rays of an image of `size`."""
    prims = [p for t in scene.things for p in t.prims]
    geo = geometry(prims)
    view = camera(scene.position, scene.yaw, scene.pitch, scene.roll, scene.focal, size)
    inverse_depth, index = cast(view, geo)
    met = surface(view, geo, inverse_depth, index)
    owner = np.repeat(np.arange(1, len(scene.things) + 1), [len(t.prims) for t in scene.things])
    objects = np.append(owner, 0).astype(np.int32).take(index)  # index -1, the last, is the sky
    return Seen(domain, scene, prims, geo, view, met, objects)


def picture(seen: Seen, noise: np.random.Generator) -> np.ndarray:
    """The image [H, W, 3] uint8."""
    scene, view, met = seen.scene, seen.view, seen.met
    H, W = view.size
    casts = np.repeat([t.casts for t in scene.things], [len(t.prims) for t in scene.things])
    light = np.ones_like(met.distance)
    if casts.any():
        side = min(H, W)
        key = scene.lighting.key_direction
        arrives = shading.lit(met, seen.geometry, np.flatnonzero(casts), key, side)
        light = shading.soften(arrives.astype(np.float32), met, (H, W), max(side / 224, 0.6))
    colour = shading.shade(met, view, [p.material for p in seen.prims], scene.lighting, light)
    rgb = np.empty((3, H * W), np.float32)
    for channel, value in zip(rgb, colour, strict=True):
        channel[met.where] = value
    empty = seen.objects.ravel() == 0
    if empty.any():
        rays = tuple(d.ravel()[empty] for d in directions(view))
        rgb[:, empty] = shading.sky_colour(scene.lighting.sky, rays)
    rgb = np.ascontiguousarray(rgb.T).reshape(H, W, 3)
    return shading.develop(rgb, scene.sensor, noise)


def _of_things(seen: Seen, outside, values: list) -> np.ndarray:
    """One value per thing, and one for the sky, as a map [H, W]."""
    return np.array([outside, *values]).take(seen.objects)


def _of_prims(seen: Seen, values: list, dtype) -> np.ndarray:
    """One value per primitive as a map [H, W], 0 on the sky."""
    image = np.zeros(seen.objects.size, dtype)
    image[seen.met.where] = np.array(values, dtype).take(seen.met.prim)
    return image.reshape(seen.view.size)


def _semseg(seen: Seen) -> np.ndarray:
    things = seen.scene.things
    if seen.domain == "synth_nyud":
        labels = _of_things(seen, IGNORE, [t.label for t in things]).astype(np.uint8)
        return targets.ignore_borders(labels, labels.astype(np.int32), 2 / 448)
    labels = _of_things(seen, 0, [t.label for t in things]).astype(np.uint8)
    # Only objects have borders, not the parts of the background.
    return targets.ignore_borders(labels, np.where(labels > 0, seen.objects, 0), 3 / 448)


def _depth(seen: Seen) -> np.ndarray:
    depth = np.zeros(seen.objects.size, np.float32)
    depth[seen.met.where] = seen.met.distance
    depth = depth.reshape(seen.view.size)
    blind = _of_prims(seen, [p.material.blind for p in seen.prims], bool)
    return np.where(targets.depth_holes(depth, blind, seen.view.focal), np.float32(0), depth)


def _normals(seen: Seen) -> np.ndarray:
    normals = np.zeros((seen.objects.size, 3), np.float32)
    normals[seen.met.where] = np.stack(to_camera(seen.view, seen.met.normal), 1)
    normals = normals.reshape(*seen.view.size, 3)
    normals[~_of_things(seen, False, [t.normals for t in seen.scene.things])] = 0
    return normals


def _edge(seen: Seen) -> np.ndarray:
    # Squares, so that no three object numbers are evenly spaced and cancel in the Laplacian.
    return boundaries.boundaries(seen.objects.astype(np.int64) ** 2)


def _sal(seen: Seen) -> np.ndarray:
    things = np.array([False, *(t.salient for t in seen.scene.things)])
    return targets.salient(seen.objects, things)


def _human_parts(seen: Seen) -> np.ndarray:
    return _of_prims(seen, [p.part for p in seen.prims], np.uint8)


_LABELS = {
    "semseg": _semseg,
    "depth": _depth,
    "normals": _normals,
    "edge": _edge,
    "sal": _sal,
    "human_parts": _human_parts,
}
