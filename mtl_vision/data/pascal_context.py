"""PASCAL-Context with the five labels of ASTMT: semseg, normals, edge, sal, human_parts.

Files and targets are those of the loaders of facebookresearch/astmt (fblib/dataloaders/
pascal_context.py), which all later multi-task work shares. `PASCAL_MT.tgz` and
`PASCALContext.tar.gz` are two packings of the same content.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import cv2
import numpy as np

from mtl_vision.data import coding, matlab, png, sources
from mtl_vision.data.boundaries import boundaries
from mtl_vision.data.layout import Converted, Layout, Part, fit, id_list, image, only, plane
from mtl_vision.data.synthetic.labels import PASCAL21
from mtl_vision.errors import DataError

KINDS = ("semseg", "normals", "edge", "sal", "human_parts")
CLASSES = PASCAL21
MAX_DIST = 0.0075  # of odsF
SPLIT = "val"
MAX_SIDE = 500

PERSON = 15
PARTS = {  # the grouping into six that results are reported for
    1: "hair head lear rear lebrow rebrow leye reye mouth nose".split(),
    2: "neck torso".split(),
    3: "luarm ruarm".split(),
    4: "llarm rlarm lhand rhand".split(),
    5: "luleg ruleg".split(),
    6: "llleg rlleg lfoot rfoot".split(),
}
PART_IDS = {name: value for value, names in PARTS.items() for name in names}

CONTEXT_CLASSES = 459  # of LabelMap, from 1; 0 is unlabelled
# LabelMap ids of the classes that keep their normals: those whose name is among the 894 of NYUD-v2
# too, and tvmonitor.
NORMALS_IDS = tuple(
    int(n)
    for n in (
        "3 4 6 9 10 11 13 15 17 18 22 23 29 30 33 34 36 37 38 39 41 43 46 49 50 51 53 55 56 59 61 "
        "62 65 66 68 69 72 73 78 83 84 85 87 88 95 96 101 104 105 107 111 113 115 122 124 135 141 "
        "142 143 146 150 154 157 158 159 165 172 174 181 183 184 191 193 195 197 199 202 213 215 "
        "216 219 220 223 225 228 230 232 233 238 239 242 243 246 250 251 252 255 260 261 263 269 "
        "272 273 275 281 283 284 285 286 287 288 290 291 292 293 295 304 307 309 310 314 315 319 "
        "323 329 330 331 336 342 345 349 350 351 352 355 357 368 370 371 374 379 380 383 384 397 "
        "401 403 405 407 408 411 412 413 414 417 419 421 423 427 429 430 432 440 441 442 443 444 "
        "446 454 457"
    ).split()
)
HAS_NORMALS = np.isin(np.arange(CONTEXT_CLASSES + 1), NORMALS_IDS)


def semseg(data: bytes) -> Converted:
    """Class indices 0 to 20 and 255, as they are."""
    allowed = np.zeros(256, bool)
    allowed[[*range(len(CLASSES)), 255]] = True
    label = only(sources.indices(data, MAX_SIDE), allowed, "classes 0 to 20 and 255")
    return plane(label.astype(np.uint8))


def labels(data: bytes) -> Converted:
    """LabelMap -> bit 0: an edge; bit 1: a class with normals."""
    allowed = np.ones(CONTEXT_CLASSES + 1, bool)
    ids = only(sources.array(data, "LabelMap"), allowed, "ids 0 to 459").astype(np.int64)
    return plane(boundaries(ids) | HAS_NORMALS[ids].astype(np.uint8) << 1)


def human_parts(data: bytes) -> Converted:
    """PASCAL-Part objects -> 0 to 6; the note ``people`` if a person is among them."""
    objects = _objects(data)
    found = np.zeros(_mask(objects[0], "mask").shape, np.uint8)
    people = False
    for one in objects:
        if int(np.asarray(one["class_ind"]).ravel()[0]) != PERSON:
            continue
        people |= bool(_mask(one, "mask").any())
        for part in one["parts"] if isinstance(one["parts"], list) else ():
            name, mask = part.get("part_name"), _mask(part, "mask")
            if name not in PART_IDS:
                raise DataError(f"has a part {name!r} of a person, which is none of PASCAL-Part")
            if mask.shape != found.shape:
                raise DataError(f"has a part of {mask.shape} in an image of {found.shape}")
            found[mask != 0] = PART_IDS[name]
    return plane(found, "people" if people else "")


def _objects(data: bytes) -> list[dict]:
    anno = matlab.variable(data, "anno")
    objects = anno[0].get("objects") if isinstance(anno, list) and anno else None
    if not isinstance(objects, list) or not objects:
        raise DataError("has no objects in 'anno'; this is no PASCAL-Part file")
    for field in ("class_ind", "mask", "parts"):
        if field not in objects[0]:
            has = ", ".join(objects[0])
            raise DataError(f"has objects without the field {field!r}, only {has}")
    return objects


def _mask(holder: Mapping, field: str) -> np.ndarray:
    mask = holder.get(field)
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or not 0 < max(mask.shape) <= MAX_SIDE:
        raise DataError(f"has an object whose {field!r} is no map of at most {MAX_SIDE} pixels")
    return mask


def normals(data: bytes) -> Converted:
    """The colours as they are; `join` keeps those that LabelMap allows."""
    codes = sources.colors(data, MAX_SIDE)
    return Converted(png.encode("image", codes), codes.shape[:2])


def sal(data: bytes) -> Converted:
    """1 where v / 255 > 0.5."""
    level = only(sources.indices(data, MAX_SIDE), np.ones(256, bool), "0 to 255")
    return plane((level > 127).astype(np.uint8))


def join(parts: Mapping[str, Converted], kinds: Sequence[str]) -> dict[str, bytes]:
    """The files of one record."""
    shape, found = parts["image"].shape, {"image": parts["image"].data}
    for kind in kinds:
        if kind == "semseg":
            label = parts.get("semseg") or parts["semseg_context"]
        elif kind == "edge":
            label = plane(png.decode(parts["labels"].data) & 1)
        elif kind == "normals":
            label = _normals(parts["normals"], parts["labels"])
        else:
            label = parts[kind]
        found[kind] = fit(kind, label, shape)
    return found


def _normals(colors: Converted, ids: Converted) -> Converted:
    if colors.shape != ids.shape:
        raise DataError(f"normals are {colors.shape}, LabelMap is {ids.shape}")
    codes = cv2.cvtColor(png.decode(colors.data), cv2.COLOR_BGR2RGB)
    return Converted(coding.encode_codes(codes, png.decode(ids.data) > 1), colors.shape)


LAYOUT = Layout(
    dataset="pascal_context",
    archives="PASCAL_MT.tgz or PASCALContext.tar.gz",
    counts={"train": 4998, "val": 5105},
    parts=(
        Part("list", r"ImageSets/Context/(train|val)\.txt", id_list),
        Part("image", r"JPEGImages/([^/]+)\.jpg", partial(image, max_side=MAX_SIDE)),
        Part("semseg", r"semseg/VOC12/([^/]+)\.png", semseg),
        Part("semseg_context", r"semseg/pascal-context/([^/]+)\.png", semseg),
        Part("labels", r"pascal-context/trainval/([^/]+)\.mat", labels),
        Part("human_parts", r"human_parts/([^/]+)\.mat", human_parts),
        Part("normals", r"normals_distill/([^/]+)\.png", normals),
        Part("sal", r"sal_distill/([^/]+)\.png", sal),
    ),
    needs={
        "semseg": ("semseg|semseg_context",),
        "normals": ("normals", "labels"),
        "edge": ("labels",),
        "sal": ("sal",),
        "human_parts": ("human_parts",),
    },
    join=join,
)
