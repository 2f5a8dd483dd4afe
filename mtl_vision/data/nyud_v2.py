"""NYUD-v2 with four labels: semseg (40 classes), depth, normals, edge.

Three packings are in use, told apart by the types of their files: `NYUDv2.tar.gz` (ATRC, InvPT),
`NYUD_MT.tgz` (Vandenhende) and an older `NYUD_MT.tgz` of MATLAB files (ASTMT). Targets are those of
InvPT's loader; class 0 of ASTMT's 41, the background, is ignored as in the other two.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mtl_vision.data import coding, sources
from mtl_vision.data.layout import Converted, Layout, Part, fit, id_list, image, only, plane
from mtl_vision.data.synthetic.labels import NYUD40
from mtl_vision.errors import DataError

KINDS = ("semseg", "depth", "normals", "edge")
CLASSES = NYUD40
MAX_DIST = 0.011  # of odsF
SPLIT = "val"

STORED = np.ones(len(CLASSES) + 1, bool)  # 0 is unlabelled, 1 to 40 are the classes


def semseg(data: bytes) -> Converted:
    """A PNG of 0 to 40 -> 255, 0 to 39."""
    return _classes(sources.indices(data))


def semseg_mat(data: bytes) -> Converted:
    """The variable ``segmentation``, as `semseg`."""
    return _classes(sources.array(data, "segmentation"))


def _classes(stored: np.ndarray) -> Converted:
    stored = only(stored, STORED, "0 to 40").astype(np.uint8)
    return plane(stored - np.uint8(1))  # 0 becomes 255


def depth(data: bytes) -> Converted:
    """Metres, 0 where missing."""
    return _depth(sources.array(data))


def depth_mat(data: bytes) -> Converted:
    """The variable ``depth``, as `depth`."""
    return _depth(sources.array(data, "depth"))


def _depth(metres: np.ndarray) -> Converted:
    if metres.ndim != 2:
        raise DataError(f"holds an array of shape {metres.shape}, expected (H, W)")
    if metres.min() < 0 or metres.max() > 100:
        raise DataError(f"holds {metres.min():g} to {metres.max():g}, expected metres")
    return Converted(coding.encode_depth(metres), metres.shape)


def normals(data: bytes) -> Converted:
    """Colours -> 2 v / 255 - 1, defined everywhere."""
    codes = sources.colors(data)
    everywhere = np.ones(codes.shape[:2], bool)
    return Converted(coding.encode_codes(codes, everywhere), codes.shape[:2])


def normals_npy(data: bytes) -> Converted:
    """Numbers in [-1, 1], (0, 0, 0) where undefined."""
    vectors = sources.array(data)
    if vectors.ndim != 3 or vectors.shape[2] != 3:
        raise DataError(f"holds an array of shape {vectors.shape}, expected (H, W, 3)")
    if np.abs(vectors).max() > 1.001:
        raise DataError(f"holds {np.abs(vectors).max():g}, expected numbers from -1 to 1")
    return Converted(coding.encode_normals(np.clip(vectors, -1, 1)), vectors.shape[:2])


def edge(data: bytes) -> Converted:
    """A PNG of 0 and 255 -> 0 and 1."""
    allowed = np.zeros(256, bool)
    allowed[[0, 255]] = True
    return plane((only(sources.indices(data), allowed, "0 and 255") > 0).astype(np.uint8))


def edge_npy(data: bytes) -> Converted:
    """0 and 1."""
    return plane(only(sources.array(data), np.ones(2, bool), "0 and 1").astype(np.uint8))


def join(parts: Mapping[str, Converted], kinds: Sequence[str]) -> dict[str, bytes]:
    """The files of one record."""
    image = parts["image"]
    return {"image": image.data} | {k: fit(k, parts[k], image.shape) for k in kinds}


LAYOUT = Layout(
    dataset="nyud_v2",
    archives="NYUDv2.tar.gz or NYUD_MT.tgz",
    counts={"train": 795, "val": 654},
    parts=(
        Part("list", r"gt_sets/(train|val)\.txt", id_list),
        Part("image", r"images/([^/]+)\.(?:png|jpg)", image),
        Part("semseg", r"segmentation/([^/]+)\.png", semseg),
        Part("semseg", r"segmentation/([^/]+)\.mat", semseg_mat),
        Part("depth", r"depth/([^/]+)\.npy", depth),
        Part("depth", r"depth/([^/]+)\.mat", depth_mat),
        Part("normals", r"normals/([^/]+)\.(?:png|jpg)", normals),
        Part("normals", r"normals/([^/]+)\.npy", normals_npy),
        Part("edge", r"edge/([^/]+)\.png", edge),
        Part("edge", r"edge/([^/]+)\.npy", edge_npy),
    ),
    needs={kind: (kind,) for kind in KINDS},
    join=join,
    variants={
        "NYUDv2": dict(image="png", semseg="png", depth="npy", normals="png", edge="png"),
        "NYUD_MT": dict(image="jpg", semseg="png", depth="npy", normals="npy", edge="npy"),
        "NYUD_MT_mat": dict(image="jpg", semseg="mat", depth="mat", normals="jpg", edge="png"),
    },
)
