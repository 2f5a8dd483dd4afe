"""An example as planes: what every geometric step works on, and the way in and out of it.

Maps are ``{name: [planes]}``: ``image`` has three planes, ``normals`` three, ``depth`` one, and
``index`` one plane ``[H, W, n]`` that holds all class maps, so that one nearest-neighbour call
moves the four of them. The others are separate ``[H, W]`` planes because OpenCV interpolates one
channel five times as fast as a channel of three. Sentinels live only here: 255 in a class map and
0 in depth and normals mean "no label"; `pack` turns them into masks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

Maps = dict[str, list[np.ndarray]]
Transformed = dict[str, Any]

CLASS_MAPS = ("semseg", "edge", "sal", "human_parts")  # uint8 kinds, in the order of `index`
IGNORE = 255


def unpack(
    example: Mapping[str, Any], kinds: Sequence[str], normals_sign: Sequence[int] = (1, 1, 1)
) -> Maps:
    """Takes the image and the labels asked for apart into planes; nothing is written to.

    Args:
      example: image uint8 ``[H, W, 3]`` and at least the labels in `kinds`.
      kinds: labels to carry along.
      normals_sign: three factors of 1 or -1 that bring the dataset's normals into the camera
        frame of the project before anything else is done to them.
    """
    maps = {"image": list(cv2.split(example["image"]))}
    if names := class_maps(kinds):
        maps["index"] = [cv2.merge([example[name] for name in names])]
    if "depth" in kinds:
        maps["depth"] = [example["depth"]]
    if "normals" in kinds:
        planes = np.ascontiguousarray(np.moveaxis(example["normals"], -1, 0))
        maps["normals"] = [
            p if sign == 1 else -p for p, sign in zip(planes, normals_sign, strict=True)
        ]
    return maps


def pack(maps: Maps, kinds: Sequence[str]) -> tuple[dict, dict]:
    """Returns (labels, masks) by kind: sentinels become masks, masked labels become 0.

    A class map counts where it is not 255, depth where it is above 0 m, normals where they are not
    exactly (0, 0, 0). An image in which no body part is left gives no human_parts labels at all,
    background included: AddIgnoreRegions of the ASTMT and ATRC loaders.
    """
    labels, masks = {}, {}
    names = class_maps(kinds)
    classes = dict(zip(names, cv2.split(maps["index"][0]), strict=True)) if names else {}
    for kind in kinds:
        if kind == "depth":
            (depth,) = maps["depth"]
            masks[kind] = depth > 0
            labels[kind] = np.where(masks[kind], depth, np.float32(0))
        elif kind == "normals":
            x, y, z = maps["normals"]
            masks[kind] = (x != 0) | (y != 0) | (z != 0)
            labels[kind] = cv2.merge([x, y, z])
        else:
            masks[kind] = classes[kind] != IGNORE
            labels[kind] = classes[kind] * masks[kind]
            if kind == "human_parts" and not labels[kind].any():
                masks[kind] = np.zeros_like(masks[kind])
    return labels, masks


def class_maps(kinds: Sequence[str]) -> list[str]:
    """The class maps among `kinds`, in the order in which `index` holds them."""
    return [name for name in CLASS_MAPS if name in kinds]
