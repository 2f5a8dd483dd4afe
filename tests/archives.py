"""PASCAL-Context and NYUD-v2 in the layouts people have, made of SynthScenes images.

  write(nyud({"train": 3, "val": 2}, (32, 40), variant="NYUDv2"), "NYUDv2.tar.gz")

Members come image by image; `write` takes them in any order.
"""

import io
import pathlib
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from mtl_vision.data import records
from mtl_vision.data.synthetic import KINDS
from mtl_vision.data.synthetic.source import SceneSource, render_all

Members = Iterator[tuple[str, bytes]]

# Ids of the 20 VOC classes among the 459 of LabelMap, class 1 first.
CONTEXT_IDS = (2, 23, 25, 31, 34, 45, 59, 65, 72, 98)
CONTEXT_IDS += (397, 113, 207, 258, 284, 308, 347, 368, 416, 427)
INSIDE, OUTSIDE, UNKNOWN = 440, 360, 0  # ids of surfaces with normals, without, of void pixels
# Names of the parts that SynthScenes labels, left half and right half.
PARTS = {
    1: ("head", "hair"),
    2: ("torso", "neck"),
    3: ("luarm", "ruarm"),
    4: ("llarm", "rhand"),
    5: ("luleg", "ruleg"),
    6: ("llleg", "rfoot"),
}
NYUD_VARIANTS = {  # file types of images, segmentation, depth, normals, edge
    "NYUDv2": ("png", "png", "npy", "png", "png"),
    "NYUD_MT": ("jpg", "png", "npy", "npy", "npy"),
    "NYUD_MT_mat": ("jpg", "mat", "mat", "jpg", "png"),
}


def pascal(
    counts: Mapping[str, int], size: tuple[int, int], *, root: str = "PASCAL_MT", **render: Any
) -> Members:
    """Yields (name, bytes) of every file of a PASCAL-Context archive.

    Args:
      counts: images by split, ``train`` and ``val``.
      size: (H, W).
      root: top folder, ``PASCAL_MT`` or ``PASCALContext``; ``""`` for none.
      **render: of `render_all`: ``processes=0`` stays in this process.
    """
    prefix = f"{root}/" if root else ""
    for split, count in counts.items():
        source = SceneSource("synth_pascal", split, count, size, KINDS["synth_pascal"])
        ids = []
        for n, packed in enumerate(render_all(source, quiet=True, **render)):
            ids.append(f"{2008 + list(counts).index(split)}_{n + 1:06d}")
            example = records.unpack_example(packed, source.kinds)
            for name, data in _pascal_files(example, ids[-1], np.random.default_rng(n)):
                yield prefix + name, data
        yield f"{prefix}ImageSets/Context/{split}.txt", _lines(ids)


def _pascal_files(example: Mapping[str, Any], id_: str, rng: np.random.Generator) -> Members:
    semseg, sal = example["semseg"], example["sal"]
    known = example["normals"].any(-1)
    labels = np.where(known, INSIDE, OUTSIDE).astype(np.uint16)
    for value, context in enumerate(CONTEXT_IDS, 1):
        labels[semseg == value] = context
    labels[semseg == 255] = UNKNOWN
    number = int(id_.split("_")[1])
    yield f"JPEGImages/{id_}.jpg", picture(example["image"], "JPEG")
    yield f"pascal-context/trainval/{id_}.mat", mat(LabelMap=labels)
    if number % 3:
        yield f"semseg/VOC12/{id_}.png", palette(semseg)
    if number % 3 != 1:  # where both are, the second must not be read
        other = semseg if number % 3 == 0 else np.zeros_like(semseg)
        yield f"semseg/pascal-context/{id_}.png", palette(other)
    yield f"human_parts/{id_}.mat", parts(example["human_parts"], semseg)
    normals = np.where(known[..., None], example["normals"], np.float32([0, 0, -1]))
    yield f"normals_distill/{id_}.png", picture(code(normals), "PNG")
    noise = rng.integers(0, 128, sal.shape, dtype=np.uint8)
    yield f"sal_distill/{id_}.png", picture(noise + 128 * sal, "PNG")


def nyud(
    counts: Mapping[str, int],
    size: tuple[int, int],
    *,
    variant: str = "NYUDv2",
    root: str | None = None,
    **render: Any,
) -> Members:
    """Yields (name, bytes) of every file of a NYUD-v2 archive of a variant; see `pascal`."""
    prefix = f"{root or variant.removesuffix('_mat')}/"
    first = 1
    for split, count in counts.items():
        source = SceneSource("synth_nyud", split, count, size, KINDS["synth_nyud"])
        ids = []
        for n, packed in enumerate(render_all(source, quiet=True, **render), first):
            ids.append(f"{n:04d}")
            example = records.unpack_example(packed, source.kinds)
            for name, data in _nyud_files(example, ids[-1], NYUD_VARIANTS[variant]):
                yield prefix + name, data
        first += count
        yield f"{prefix}gt_sets/{split}.txt", _lines(ids)


def _nyud_files(example: Mapping[str, Any], id_: str, kinds: tuple[str, ...]) -> Members:
    image, segmentation, depth, normals, edge = kinds
    labels = example["semseg"]
    labels = np.where(labels == 255, 0, labels + 1).astype(np.uint8)
    yield f"images/{id_}.{image}", coded(example["image"], image)
    yield f"segmentation/{id_}.{segmentation}", coded(labels, segmentation, "segmentation")
    metres = example["depth"] * np.float32(1.0009765)  # no whole millimetres
    yield f"depth/{id_}.{depth}", coded(metres, depth, "depth")
    vectors = example["normals"] if normals == "npy" else code(example["normals"])
    yield f"normals/{id_}.{normals}", coded(vectors, normals)
    lines = example["edge"] * np.float32(1) if edge == "npy" else example["edge"] * np.uint8(255)
    yield f"edge/{id_}.{edge}", coded(lines, edge)


def write(members: Iterable[tuple[str, bytes]], path: str | pathlib.Path) -> pathlib.Path:
    """Writes files as the name says: ``.tgz``, ``.tar.gz``, ``.tar``, ``.zip``, or a folder."""
    path = pathlib.Path(path)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members:
                archive.writestr(name, data)
    elif path.suffix in (".tgz", ".gz", ".tar"):
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    else:
        for name, data in members:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


def coded(array: np.ndarray, kind: str, variable: str = "") -> bytes:
    """An array as a ``png``, ``jpg``, ``npy`` or ``mat`` file."""
    if kind == "mat":
        return mat(**{variable: array})
    return npy(array) if kind == "npy" else picture(array, {"png": "PNG", "jpg": "JPEG"}[kind])


def code(normals: np.ndarray) -> np.ndarray:
    """Unit vectors as colours, the inverse of ``2 v / 255 - 1``."""
    return np.round((normals + 1) * 127.5).astype(np.uint8)


def picture(array: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return buffer.getvalue()


def palette(labels: np.ndarray) -> bytes:
    """Class indices as a PNG with a palette, as VOC has them."""
    image, buffer = Image.fromarray(labels).convert("P"), io.BytesIO()
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def mat(**variables: Any) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=True, oned_as="row")
    return buffer.getvalue()


def parts(labels: np.ndarray, semseg: np.ndarray) -> bytes:
    """A PASCAL-Part file: a person with the parts of a SynthScenes label, and a cat without."""
    left = np.arange(labels.shape[1]) < labels.shape[1] // 2
    person = [
        (name, (labels == value) & side)
        for value, names in PARTS.items()
        for name, side in zip(names, (left, ~left), strict=True)
    ]
    objects = [("cat", 8, semseg == 8, [])]
    if labels.any():
        objects.append(("person", 15, semseg == 15, [p for p in person if p[1].any()]))
    return annotation(objects)


def annotation(objects: Iterable[tuple[str, int, np.ndarray, list]]) -> bytes:
    """A PASCAL-Part file of objects (class, its number, mask, [(part, mask)])."""
    rows = []
    for name, number, mask, part_list in objects:
        fields = [("part_name", object), ("mask", object)]
        inner = np.array([(n, m.astype(np.uint8)) for n, m in part_list], fields)
        rows.append((name, number, mask.astype(np.uint8), inner if part_list else np.zeros((0, 0))))
    fields = [("class", object), ("class_ind", object), ("mask", object), ("parts", object)]
    found = np.empty(len(rows), fields)
    for n, row in enumerate(rows):
        found[n] = row
    anno = np.empty(1, [("imname", object), ("objects", object)])
    anno[0] = ("image", found)
    return mat(anno=anno)


def _lines(ids: list[str]) -> bytes:
    return ("\n".join(ids) + "\n").encode()
