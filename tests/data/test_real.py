"""PASCAL-Context and NYUD-v2 from archives: every value that comes out is what went in."""

import json
import random

import numpy as np
import pytest

from mtl_vision.data import DATASETS, REAL, coding, pascal_context, survey
from mtl_vision.data.boundaries import boundaries
from mtl_vision.data.prepare import look, prepare
from mtl_vision.errors import DataError
from tests import archives as A

QUIET = {"processes": 0, "quiet": True}
H, W = 20, 25  # 500 pixels hold every id of LabelMap
BODY = {
    "hair": 1, "head": 1, "lear": 1, "rear": 1, "lebrow": 1, "rebrow": 1, "leye": 1, "reye": 1,
    "mouth": 1, "nose": 1, "neck": 2, "torso": 2, "luarm": 3, "ruarm": 3, "llarm": 4, "rlarm": 4,
    "lhand": 4, "rhand": 4, "luleg": 5, "ruleg": 5, "llleg": 6, "rlleg": 6, "lfoot": 6, "rfoot": 6,
}  # fmt: skip


def read(root, name, split, kinds=None, config="partial"):
    kinds = DATASETS[name].kinds if kinds is None else kinds
    return {e["id"]: e for e in DATASETS[name].source(str(root), config, split, kinds)}


def spread(values, rng):
    """A map with all values, in random order."""
    return rng.permutation(np.resize(values, H * W)).reshape(H, W)


def pascal_image(id_, rng, *, voc=True, person=True):
    """Files with every value there can be, and what must come of them."""
    semseg = spread([*range(21), 255], rng).astype(np.uint8)
    ids = spread(range(460), rng).astype(np.uint16)
    codes = spread(range(256), rng)[..., None] + np.arange(3) & 255
    sal = spread(range(256), rng).astype(np.uint8)
    cells = spread(range(25), rng)
    masks = [(name, cells == n) for n, name in enumerate(BODY)]
    late = [("hair", cells == 23), ("nose", np.zeros((H, W), bool))]  # a later part wins
    objects = [("dog", 12, cells == 0, [("head", cells >= 0)]), ("person", 15, cells < 3, [])]
    objects += [("person", 15, cells < 24, masks), ("person", 15, cells == 23, late)]
    body = np.append([*BODY.values()], 0)
    body[23] = BODY["hair"]
    files = {
        f"JPEGImages/{id_}.jpg": A.picture(rng.integers(0, 256, (H, W, 3), np.uint8), "JPEG"),
        f"pascal-context/trainval/{id_}.mat": A.mat(LabelMap=ids, other=1),
        f"semseg/{'VOC12' if voc else 'pascal-context'}/{id_}.png": A.palette(semseg),
        f"human_parts/{id_}.mat": A.annotation(objects if person else objects[:1]),
        f"normals_distill/{id_}.png": A.picture(codes.astype(np.uint8), "PNG"),
        f"sal_distill/{id_}.png": A.picture(sal, "PNG"),
    }
    if voc:
        files[f"semseg/pascal-context/{id_}.png"] = A.palette(np.zeros((H, W), np.uint8))
    normals = 2 * codes.astype(np.float32) / 255 - 1
    normals[~np.isin(ids, pascal_context.NORMALS_IDS)] = 0
    return files, {
        "semseg": semseg,
        "normals": normals,
        "edge": boundaries(ids),
        "sal": (sal / 255 > 0.5).astype(np.uint8),
        "human_parts": body[cells].astype(np.uint8) if person else np.zeros((H, W), np.uint8),
    }


def pascal_files(rng):
    files, expected = {}, {}
    for id_, options in (("a_1", {}), ("a_2", {"voc": False}), ("b_1", {"person": False})):
        more, expected[id_] = pascal_image(id_, rng, **options)
        files |= more
    files["ImageSets/Context/train.txt"] = b"a_2\r\na_1\r\n"
    files["ImageSets/Context/val.txt"] = b"b_1"
    files["ImageSets/Parts/train.txt"] = b"{}"  # a cache of the loaders, not needed
    return {f"PASCAL_MT/{name}": data for name, data in files.items()}, expected


def nyud_files(variant, rng):
    image, segmentation, depth, normals, edge = A.NYUD_VARIANTS[variant]
    files, expected = {}, {}
    for id_ in ("1", "2", "3"):
        semseg = spread(range(41), rng).astype(np.uint8)
        metres = rng.uniform(0.5, 10, (H, W)).astype(np.float64 if depth == "mat" else np.float32)
        metres[rng.random((H, W)) < 0.1] = 0
        if id_ == "2":
            metres = np.round(metres, 3)
        codes = rng.integers(0, 256, (H, W, 3), np.uint8)
        vectors = rng.uniform(-1, 1, (H, W, 3)).astype(np.float32)
        vectors[0] = 0
        line = rng.random((H, W)) < 0.2
        rgb = rng.integers(0, 256, (H, W, 3), np.uint8)
        files |= {
            f"images/{id_}.{image}": A.coded(rgb, image),
            f"segmentation/{id_}.{segmentation}": A.coded(semseg, segmentation, "segmentation"),
            f"depth/{id_}.{depth}": A.coded(metres, depth, "depth"),
            f"normals/{id_}.{normals}": A.coded(vectors if normals == "npy" else codes, normals),
            f"edge/{id_}.{edge}": A.coded(
                line.astype(float) if edge == "npy" else line * np.uint8(255), edge
            ),
        }
        exact = {"png": 2 * codes.astype(np.float32) / 255 - 1, "npy": vectors}
        expected[id_] = {
            "image": rgb if image == "png" else None,
            "semseg": np.where(semseg == 0, 255, semseg - 1.0).astype(np.uint8),
            "depth": metres.astype(np.float32),
            "normals": exact.get(normals),  # a JPEG does not give back its codes
            "edge": line.astype(np.uint8),
        }
    files |= {"gt_sets/train.txt": b"1\n2\n", "gt_sets/val.txt": b"3\n"}
    return {f"NYUD/{name}": data for name, data in files.items()}, expected


def shuffled(files, seed=0):
    members = list(files.items())
    random.Random(seed).shuffle(members)
    return members


@pytest.mark.parametrize("end", ["PASCAL_MT.tgz", "PASCALContext.tar", "p.zip", "folder"])
def test_pascal_context_comes_out_as_it_went_in(tmp_path, end):
    files, expected = pascal_files(np.random.default_rng(0))
    archive = A.write(shuffled(files), tmp_path / end)
    assert prepare("pascal_context", archive, tmp_path / "d", partial=True, **QUIET)[1]
    found = {s: read(tmp_path / "d", "pascal_context", s) for s in ("train", "val")}
    assert [list(ids) for ids in found.values()] == [["a_2", "a_1"], ["b_1"]]
    for id_, example in (found["train"] | found["val"]).items():
        for kind, label in expected[id_].items():
            np.testing.assert_array_equal(example[kind], label, err_msg=f"{id_} {kind}")
    # Of human_parts alone, images without people are left out.
    assert list(read(tmp_path / "d", "pascal_context", "train", ("human_parts",))) == ["a_2", "a_1"]
    assert not read(tmp_path / "d", "pascal_context", "val", ("human_parts",))


@pytest.mark.parametrize("variant", A.NYUD_VARIANTS)
def test_nyud_v2_comes_out_as_it_went_in(tmp_path, variant):
    files, expected = nyud_files(variant, np.random.default_rng(1))
    archive = A.write(shuffled(files), tmp_path / "NYUD_MT.tgz")
    assert survey.variant(look("nyud_v2", archive, **QUIET)) == variant
    prepare("nyud_v2", archive, tmp_path / "d", partial=True, **QUIET)
    for id_, example in (
        read(tmp_path / "d", "nyud_v2", "train") | read(tmp_path / "d", "nyud_v2", "val")
    ).items():
        for kind, label in expected[id_].items():
            if kind == "normals" and variant == "NYUD_MT":
                assert not example[kind][0].any()
                np.testing.assert_allclose(example[kind], label, rtol=0, atol=1.6e-5)
            elif label is not None:
                np.testing.assert_array_equal(example[kind], label, err_msg=f"{id_} {kind}")
                assert example[kind].dtype == label.dtype


def test_the_facts_of_the_spec():
    assert len(pascal_context.NORMALS_IDS) == 170 and pascal_context.PART_IDS == BODY
    assert {n: d.split for n, d in REAL.items()} == dict.fromkeys(REAL, "val")
    for name, dataset in REAL.items():
        tasks = dataset.tasks("B")
        assert tuple(tasks) == dataset.kinds
        assert tasks["semseg"].channels == {"pascal_context": 21, "nyud_v2": 40}[name]
        assert tasks["edge"].max_dist == {"pascal_context": 0.0075, "nyud_v2": 0.011}[name]


def test_depth_and_normals_lose_nothing():
    rng = np.random.default_rng(0)
    for metres in (rng.uniform(0, 90, (7, 5)).astype(np.float32), np.full((7, 5), 1.234)):
        data = coding.encode_depth(metres)
        assert coding.shape("depth", data) == (7, 5)
        np.testing.assert_array_equal(coding.decode("depth", data), metres.astype(np.float32))
    codes = rng.integers(0, 256, (7, 5, 3), np.uint8)
    exact = 2 * codes.astype(np.float32) / 255 - 1
    exact[2] = 0
    for vectors, atol in ((exact, 0), (rng.uniform(-1, 1, (7, 5, 3)), 1.6e-5)):
        back = coding.decode("normals", coding.encode_normals(vectors))
        np.testing.assert_allclose(back, vectors, rtol=0, atol=atol)
    assert not coding.decode("normals", coding.encode_normals(exact))[2].any()


def test_labels_at_another_scale_are_resized(tmp_path):
    files, expected = nyud_files("NYUDv2", np.random.default_rng(2))
    small = np.arange(H * W // 25, dtype=np.uint8).reshape(H // 5, W // 5) + 1
    files["NYUD/segmentation/1.png"] = A.picture(small, "PNG")
    archive = A.write(files.items(), tmp_path / "n.tar")
    assert "1 labels are of another size" in "\n".join(
        survey.report(look("nyud_v2", archive, **QUIET))
    )
    prepare("nyud_v2", archive, tmp_path / "d", partial=True, **QUIET)
    label = read(tmp_path / "d", "nyud_v2", "train")["1"]["semseg"]
    np.testing.assert_array_equal(label, np.kron(small - 1, np.ones((5, 5), np.uint8)))


def test_a_second_call_does_nothing_and_another_archive_is_noticed(tmp_path):
    files, _ = nyud_files("NYUDv2", np.random.default_rng(0))
    archive = A.write(files.items(), tmp_path / "NYUDv2.tar.gz")
    place, made = prepare("nyud_v2", archive, tmp_path, partial=True, **QUIET)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert made and not list(tmp_path.glob("incomplete*"))
    assert json.loads((place / "metadata.json").read_text())["packing"] == "NYUDv2"
    assert prepare("nyud_v2", archive, tmp_path, partial=True, **QUIET) == (place, False)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    other = A.write(files.items(), tmp_path / "NYUD_MT.tgz")
    with pytest.raises(DataError, match="was prepared from NYUDv2.tar.gz, .*Delete that folder"):
        prepare("nyud_v2", other, tmp_path, partial=True, **QUIET)


def test_missing_labels_are_left_out_only_if_asked_for(tmp_path):
    files, _ = pascal_files(np.random.default_rng(0))
    files = {n: d for n, d in files.items() if "distill" not in n and "human_parts/a_2" not in n}
    archive = A.write(files.items(), tmp_path / "p.tgz")
    with pytest.raises(DataError) as e:
        prepare("pascal_context", archive, tmp_path, **QUIET)
    for text in (
        "train: 2 ids, expected 4998",
        "train: sal is missing altogether (sal_distill)",
        "train: normals is missing altogether (normals_distill, pascal-context/trainval)",
        "train: human_parts is missing for 1 images: a_2",
        "--partial to prepare the images that have all of semseg, edge, human_parts: 1 train, 1",
    ):
        assert text in str(e.value)
    prepare("pascal_context", archive, tmp_path, partial=True, **QUIET)
    check = DATASETS["pascal_context"].check
    check(str(tmp_path), "partial", "train", ("semseg", "edge"))
    with pytest.raises(DataError, match="no 'sal' labels.*--archive FILE .*--partial"):
        check(str(tmp_path), "partial", "train", ("sal",))
    with pytest.raises(DataError, match="pascal_context/full is not prepared"):
        check(str(tmp_path), "full", "train", ())
    with pytest.raises(DataError, match="no config '448'; use full or partial"):
        check(str(tmp_path), "448", "train", ())
