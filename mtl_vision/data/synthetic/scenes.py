"""One scene, one example: draws, renders, labels.

A scene is drawn from ``np.random.default_rng((seed, index))`` and does not know the image's size;
only the sensor's noise is drawn per pixel, from a generator of its own.
"""

import zlib

import cv2
import numpy as np

from mtl_vision.data import boundaries, records
from mtl_vision.data.synthetic import indoor, outdoor, shading, targets
from mtl_vision.data.synthetic.camera import camera, to_camera
from mtl_vision.data.synthetic.labels import IGNORE, KINDS
from mtl_vision.data.synthetic.layout import Scene
from mtl_vision.data.synthetic.raycast import Geometry, View, cast, geometry
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
    prims = [p for t in scene.things for p in t.prims]
    geo = geometry(prims)
    view = camera(scene.position, scene.yaw, scene.pitch, scene.roll, scene.focal, size)
    inverse_depth, index_map = cast(view, geo)
    met = surface(view, geo, inverse_depth, index_map)
    owner = np.repeat(np.arange(1, len(scene.things) + 1), [len(t.prims) for t in scene.things])
    objects = np.append(owner, 0).astype(np.int32).take(index_map)  # index -1 is the sky, 0
    noise = np.random.default_rng((seed, index, 1))
    example = {"id": f"{domain}-{seed:08x}-{index:06d}"}
    example["image"] = picture(scene, view, geo, met, noise)
    for kind in wanted:
        label = _LABELS[kind](domain, scene, view, met, objects, prims)
        example[kind] = records.pack(kind, label)
    return example


def picture(scene: Scene, view: View, geo: Geometry, met: Surface, noise) -> np.ndarray:
    """The image [H, W, 3] uint8."""
    H, W = view.size
    materials = [p.material for t in scene.things for p in t.prims]
    casts = np.flatnonzero(
        np.repeat([t.casts for t in scene.things], [len(t.prims) for t in scene.things])
    )
    light = np.ones_like(met.distance)
    if len(casts):
        side = min(H, W)
        arrives = shading.lit(met, geo, casts, scene.lighting.key_direction, side)
        light = shading.soften(arrives.astype(np.float32), met, (H, W), max(side / 224, 0.6))
    colour = shading.shade(met, view, materials, scene.lighting, light)
    rgb = np.empty((3, H * W), np.float32)
    for channel, value in zip(rgb, colour, strict=True):
        channel[met.where] = value
    empty = np.ones(H * W, bool)
    empty[met.where] = False
    if empty.any():
        rays = tuple(d.ravel()[empty] for d in directions(view))
        rgb[:, empty] = shading.sky_colour(scene.lighting.sky, rays)
    rgb = np.ascontiguousarray(rgb.T).reshape(H, W, 3)
    return shading.develop(rgb, scene.sensor, noise)


def _semseg(domain, scene, view, met, objects, prims) -> np.ndarray:
    outside = 0 if domain == "synth_pascal" else IGNORE
    labels = np.array([outside, *(t.label for t in scene.things)], np.uint8).take(objects)
    if domain == "synth_pascal":  # only objects have borders, not the parts of the background
        named = np.array([False, *(t.label > 0 for t in scene.things)]).take(objects)
        return targets.ignore_borders(labels, np.where(named, objects, 0), 3 / 448)
    return targets.ignore_borders(labels, labels.astype(np.int32), 2 / 448)


def _depth(domain, scene, view, met, objects, prims) -> np.ndarray:
    depth = np.zeros(objects.size, np.float32)
    depth[met.where] = met.distance
    blind = np.zeros(objects.size, bool)
    blind[met.where] = np.array([p.material.blind for p in prims]).take(met.prim)
    depth, blind = depth.reshape(view.size), blind.reshape(view.size)
    return np.where(targets.depth_holes(depth, blind, view.focal), np.float32(0), depth)


def _normals(domain, scene, view, met, objects, prims) -> np.ndarray:
    labelled = np.array([False, *(t.normals for t in scene.things)]).take(objects.ravel())
    normals = np.zeros((objects.size, 3), np.float32)
    normals[met.where] = np.stack(to_camera(view, met.normal), 1)
    normals[~labelled] = 0
    return normals.reshape(*view.size, 3)


def _edge(domain, scene, view, met, objects, prims) -> np.ndarray:
    # Squares, so that no three object numbers are evenly spaced and cancel in the Laplacian.
    return boundaries.boundaries(objects.astype(np.int64) ** 2)


def _sal(domain, scene, view, met, objects, prims) -> np.ndarray:
    things = np.array([False, *(t.salient for t in scene.things)])
    return targets.salient(objects, things)


def _human_parts(domain, scene, view, met, objects, prims) -> np.ndarray:
    parts = np.zeros(objects.size, np.uint8)
    parts[met.where] = np.array([p.part for p in prims], np.uint8).take(met.prim)
    return parts.reshape(view.size)


_LABELS = {
    "semseg": _semseg,
    "depth": _depth,
    "normals": _normals,
    "edge": _edge,
    "sal": _sal,
    "human_parts": _human_parts,
}
