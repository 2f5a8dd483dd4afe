"""What can be wrong with an archive: one error that names the file, and nothing half done."""

import io
import os
import pathlib
import signal
import sqlite3
import struct
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest

from mtl_vision.data import archive, matlab, prepare, staging, survey
from mtl_vision.data.scan import scan
from mtl_vision.errors import DataError
from tests import archives as A
from tests.data.test_real import QUIET, nyud_files, pascal_files, read

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAT = np.zeros((20, 25), np.uint8)


def pascal():
    return pascal_files(np.random.default_rng(0))[0]


def nyud(variant="NYUDv2"):
    return nyud_files(variant, np.random.default_rng(0))[0]


def fault(dataset, files, tmp_path, end="a.tar"):
    """What `prepare` says; it must leave no dataset."""
    path = A.write(files.items(), tmp_path / end) if isinstance(files, dict) else files
    with pytest.raises(DataError) as e:
        prepare.prepare(dataset, path, tmp_path / "d", partial=True, **QUIET)
    assert not list((tmp_path / "d").rglob("dataset_info.json"))
    return str(e.value)


def faults(dataset, name, data, tmp_path):
    """What `look` says of one file that is replaced."""
    files = {"pascal_context": pascal, "nyud_v2": nyud}[dataset]()
    top = next(iter(files)).split("/")[0]
    assert f"{top}/{name}" in files
    path = A.write((files | {f"{top}/{name}": data}).items(), tmp_path / "a.tar")
    wrong = survey.problems(prepare.look(dataset, path, **QUIET))
    (line,) = [w for w in wrong if name in w]
    return line


NESTED = 100_000


def nested_cells():
    """A file of cells within cells, on which `scipy.io.loadmat` crashes."""
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    cell = struct.pack("<IIIIII", 6, 8, 1, 0, 5, 8) + struct.pack("<ii", 1, 1)
    name = struct.pack("<II", 1, 8) + b"LabelMap"
    size, parts = 0, []
    for depth in range(NESTED):
        body = cell + (name if depth == NESTED - 1 else struct.pack("<II", 1, 0))
        size += len(body) + 8
        parts.append(struct.pack("<II", 14, size - 8) + body)
    return head + b"".join(reversed(parts))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("semseg/VOC12/a_1.png", A.palette(FLAT + 21), "holds 21, expected classes 0 to 20 and"),
        ("semseg/VOC12/a_1.png", A.picture(np.dstack([FLAT] * 3), "PNG"), "RGB, expected L or P"),
        ("semseg/VOC12/a_1.png", A.palette(FLAT)[:-30], "is no whole PNG or JPEG"),
        ("semseg/VOC12/a_1.png", A.picture(FLAT + np.uint16(300), "PNG"), "holds 300, expected"),
        ("human_parts/a_1.mat", A.annotation([("x", np.zeros(0), FLAT, [])]), "cannot be read (I"),
        ("JPEGImages/a_1.jpg", A.picture(np.zeros((9, 600, 3), np.uint8), "JPEG"), "at most 500"),
        ("JPEGImages/a_1.jpg", b"<html>", "is no whole PNG or JPEG"),
        ("sal_distill/a_1.png", A.picture(np.zeros((20, 20), np.uint8), "PNG"), "20x20, its image"),
        ("pascal-context/trainval/a_1.mat", A.mat(Label=FLAT), "no variable 'LabelMap', only 'La"),
        ("pascal-context/trainval/a_1.mat", A.mat(LabelMap=FLAT + 460.0), "holds 460.0, expected"),
        ("pascal-context/trainval/a_1.mat", A.mat(LabelMap=FLAT + 0.5), "holds 0.5, expected ids"),
        ("pascal-context/trainval/a_1.mat", A.mat(LabelMap="text"), "holds str, expected an array"),
        ("pascal-context/trainval/a_1.mat", A.mat(LabelMap={"a": 1}), "holds list, expected"),
        ("pascal-context/trainval/a_1.mat", nested_cells(), "class 'cell'; expected numbers"),
        ("pascal-context/trainval/a_1.mat", A.mat(LabelMap=FLAT)[:150], "is cut off"),
        ("pascal-context/trainval/a_1.mat", b"MATLAB 7.3 MAT-file".ljust(600), "with '-v7'"),
        ("pascal-context/trainval/a_1.mat", b"", "is no MATLAB 5 file"),
        ("human_parts/a_1.mat", A.mat(annotation=FLAT), "no variable 'anno', only 'annotation'"),
        ("human_parts/a_1.mat", A.mat(anno=FLAT), "no objects in 'anno'"),
        (
            "human_parts/a_1.mat",
            A.annotation([("person", 15, FLAT, [("wing", FLAT)])]),
            "a part 'wing' of a person",
        ),
    ],
)
def test_a_file_of_pascal_context_that_is_wrong_is_named(tmp_path, name, data, message):
    assert message in faults("pascal_context", name, data, tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("segmentation/1.png", A.picture(FLAT + 41, "PNG"), "holds 41, expected 0 to 40"),
        ("edge/1.png", A.picture(FLAT + 1, "PNG"), "holds 1, expected 0 and 255"),
        ("depth/1.npy", A.npy(FLAT - 1.0), "holds -1 to -1, expected metres"),
        ("depth/1.npy", A.npy(FLAT * 1.0 + 1500), "holds 1500 to 1500, expected metres"),
        ("depth/1.npy", A.npy(FLAT * np.nan), "numbers that are not finite"),
        ("depth/1.npy", A.npy(np.ones((30, 25))), "is 30x25, its image 20x25"),
        ("depth/1.npy", A.npy(np.ones((20, 25)))[:-8], "is cut off"),
        ("depth/1.npy", A.npy(np.array([[{}]], object)), "holds object of shape (1, 1)"),
        ("depth/1.npy", b"PK\x03\x04" + bytes(99), "is a damaged .npy file"),
        ("normals/1.png", A.picture(FLAT, "PNG"), "format L, expected RGB"),
    ],
)
def test_a_file_of_nyud_v2_that_is_wrong_is_named(tmp_path, name, data, message):
    assert message in faults("nyud_v2", name, data, tmp_path)


def test_a_damaged_picture_is_noticed_by_its_checksum(tmp_path):
    data = bytearray(A.palette(np.arange(500, dtype=np.uint8).reshape(20, 25) % 21))
    data[data.index(b"IDAT") + 20] ^= 1
    line = faults("pascal_context", "semseg/VOC12/a_1.png", bytes(data), tmp_path)
    assert "is no whole PNG or JPEG" in line


def test_a_corrupt_file_stops_the_whole_and_is_left_out_of_a_part(tmp_path):
    files = nyud() | {"NYUD/depth/1.npy": b"?"}
    path = A.write(files.items(), tmp_path / "a.zip")
    with pytest.raises(DataError, match="NYUD/depth/1.npy is a damaged .npy file"):
        prepare.prepare("nyud_v2", path, tmp_path / "d", **QUIET)
    prepare.prepare("nyud_v2", path, tmp_path / "d", partial=True, **QUIET)
    assert list(read(tmp_path / "d", "nyud_v2", "train")) == ["2"]


@pytest.mark.parametrize("end", ["a.tgz", "a.tar", "a.zip"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.999])
def test_a_truncated_archive_is_refused(tmp_path, end, share):
    path = A.write(nyud().items(), tmp_path / end)
    data = path.read_bytes()
    if end == "a.tar":  # it ends with up to 10 KB of zeros
        data = data.rstrip(b"\0") + bytes(1024)
        share = min(share, 1 - 1024 / len(data))
    path.write_bytes(data[: int(share * len(data))])
    assert f"{path} is cut off or damaged" in fault("nyud_v2", path, tmp_path)


def test_a_flipped_byte_of_an_archive_is_noticed(tmp_path):
    path = A.write(nyud().items(), tmp_path / "a.tgz")
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # in the checksum of all
    path.write_bytes(data)
    assert "is cut off or damaged" in fault("nyud_v2", path, tmp_path)


def links(tmp_path, kind):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("NYUD/images/1.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return path


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(tmp_path, kind):
    assert "'NYUD/images/1.png' is a link" in fault("nyud_v2", links(tmp_path, kind), tmp_path)


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("NYUD/images/1.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert "is a link" in fault("nyud_v2", tmp_path / "a.zip", tmp_path)


@pytest.mark.parametrize("name", ["../x/images/1.png", "/images/1.png", "a/../../images/1.png"])
@pytest.mark.parametrize("end", ["a.tar", "a.zip"])
def test_paths_that_lead_out_are_refused(tmp_path, name, end):
    message = fault("nyud_v2", {name: A.picture(FLAT, "PNG")}, tmp_path, end)
    assert "a path that leads out of the archive" in message and "images/1.png" in message


def test_what_is_no_archive_of_the_dataset_is_said(tmp_path):
    assert "is not nyud_v2: no folder of NYUDv2.tar.gz" in fault("nyud_v2", pascal(), tmp_path)
    both = nyud() | {n.replace("NYUD", "copy"): d for n, d in nyud().items()}
    assert "holds the dataset twice" in fault("nyud_v2", both, tmp_path)
    mixed = nyud() | {"NYUD/images/9.jpg": A.picture(np.dstack([FLAT] * 3), "JPEG")}
    assert "mixes packings: 'NYUD/images/9.jpg'" in fault("nyud_v2", mixed, tmp_path)
    page = tmp_path / "NYUDv2.tar.gz"
    page.write_bytes(b"<!DOCTYPE html><html>Quota exceeded</html>")
    assert "It is a web page; the download failed." in fault("nyud_v2", page, tmp_path)
    assert "does not exist" in fault("nyud_v2", tmp_path / "none.tgz", tmp_path)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        archive._opened(tmp_path)
    no_list = {n: d for n, d in nyud().items() if "val.txt" not in n}
    assert "no image of the split 'val' is whole" in fault("nyud_v2", no_list, tmp_path)
    odd = nyud() | {"NYUD/gt_sets/val.txt": b"../../etc/passwd\n"}
    assert "lists '../../etc/passwd', which is no id" in fault("nyud_v2", odd, tmp_path)


def test_a_bomb_is_not_inflated(monkeypatch):
    monkeypatch.setattr(matlab, "MAX_INFLATED", 100_000)
    with pytest.raises(DataError, match="grows over 100000 bytes"):
        matlab.variable(A.mat(LabelMap=np.zeros((400, 400))), "LabelMap")


def test_a_file_that_is_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mtl_vision.data.archive.MAX_BYTES", 400)
    assert "no file of these datasets is over 400" in fault("nyud_v2", nyud(), tmp_path)


def test_a_full_disk_is_said_and_the_work_is_kept(tmp_path, monkeypatch):
    path = A.write(nyud().items(), tmp_path / "a.tgz")
    connect = sqlite3.connect

    def small(*args, **kwargs):
        made = connect(*args, **kwargs)
        made.execute("pragma max_page_count = 6")
        return made

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", small)
        assert "no space is left on the disk" in fault("nyud_v2", path, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "ROOM", 1e15)
        assert "are needed. Give another --data_dir" in fault("nyud_v2", path, tmp_path / "other")
    prepare.prepare("nyud_v2", path, tmp_path / "d", partial=True, **QUIET)
    assert len(read(tmp_path / "d", "nyud_v2", "train")) == 2


def test_a_reading_goes_on_where_it_was_stopped(tmp_path):
    path = A.write(nyud().items(), tmp_path / "a.tgz")
    held = staging.Staging(tmp_path / "s.sqlite", "a")
    items = scan(path, "nyud_v2", **QUIET)
    held.add(next(items) for _ in range(5))
    held.close()
    held = staging.Staging(tmp_path / "s.sqlite", "a")
    done = held.keys()
    assert len(done) == 5 and not held.complete
    rest = [item.key for item in scan(path, "nyud_v2", done=done, **QUIET)]
    assert len(rest) == 17 - 5 and not set(rest) & set(done)
    held.close()
    assert not staging.Staging(tmp_path / "s.sqlite", "another").keys()


def test_killed_and_run_again_it_completes(tmp_path):
    """The program is killed once it has read a part; the same command completes what is left."""
    rng = np.random.default_rng(0)
    files = {}
    for n in range(250):
        image = A.picture(rng.integers(0, 256, (30, 40, 3), np.uint8), "PNG")
        files |= {f"images/{n}.png": image, f"depth/{n}.npy": A.npy(rng.random((30, 40)))}
    files |= {"gt_sets/train.txt": b"\n".join(b"%d" % n for n in range(249))}
    files |= {"gt_sets/val.txt": b"249"}
    path = A.write(files.items(), tmp_path / "n.tar")
    arguments = ["--dataset", "nyud_v2", "--archive", path, "--data_dir", tmp_path, "--partial"]
    command = [sys.executable, "scripts/prepare_data.py", *map(str, arguments)]
    options = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "text": True}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, **options)
    staged = tmp_path / "incomplete.nyud_v2.sqlite"
    while not (staged.exists() and staged.stat().st_size) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.rglob("dataset_info.json"))
    done = subprocess.run(command, capture_output=True, **options)
    assert done.returncode == 0, done.stderr
    assert "nyud_v2/partial: prepared" in done.stdout and not list(tmp_path.glob("incomplete*"))
    assert len(read(tmp_path, "nyud_v2", "train", ("depth",))) == 249
    assert not prepare.prepare("nyud_v2", path, tmp_path, partial=True, **QUIET)[1]


def test_scipy_reads_what_the_reader_reads():
    import scipy.io

    rng = np.random.default_rng(0)
    for dtype in ("u1", "i2", "u2", "i4", "f4", "f8", "?"):
        for shape in ((3, 4), (1, 1), (4, 3, 2)):
            data = A.mat(a="text", b=rng.integers(0, 2, shape).astype(dtype), c=1.0)
            expected = scipy.io.loadmat(io.BytesIO(data))["b"]
            np.testing.assert_array_equal(matlab.variable(data, "b"), expected)
            assert matlab.variable(data, "a") == "text"
