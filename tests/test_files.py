"""Files of weights that are damaged or made to harm: one error each, and nothing is loaded."""

import importlib.util
import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from mtl_vision import files
from mtl_vision.errors import DataError

TORCH = importlib.util.find_spec("torch")
ARRAYS = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.ones(4, np.int64)}


class Payload:
    """What runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def npz(members, **options):
    """The bytes of a zip archive."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return data.getvalue()


def npy(array=None, *, claims=None):
    """The bytes of a ``.npy`` member, or of its header alone, with the shape or type it claims."""
    data = io.BytesIO()
    if claims is None:
        np.save(data, array, allow_pickle=True)
    else:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2,)} | claims
        np.lib.format.write_array_header_1_0(data, header)
    return data.getvalue()


def safetensors(header, data=b"\0" * 24):
    """The bytes of a file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start, stop, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def whole(suffix):
    data = io.BytesIO()
    np.savez(data, **ARRAYS)
    return {".npz": data.getvalue(), ".safetensors": save(ARRAYS)}[suffix]


TERA = (1 << 42,)
NPZ = {
    "empty": b"",
    "no zip": b"PK\x03\x04 cut",
    "no arrays": npz([]),
    "cut": whole(".npz")[:-40],
    "cut inside": whole(".npz")[:150],
    "another byte": whole(".npz").replace(b"\0\0\x80?", b"\0\0\x81?", 1),
    "strings": npz([("a.npy", npy(np.array(["x"])))]),
    "complex": npz([("a.npy", npy(np.ones(2, complex)))]),
    "records": npz([("a.npy", npy(np.zeros(2, "f4,f4")))]),
    "shorter than claimed": npz([("a.npy", npy(claims={"shape": (3,)}) + b"\0" * 8)]),
    "longer than claimed": npz([("a.npy", npy(claims={}) + b"\0" * 80)]),
    "negative": npz([("a.npy", npy(claims={"shape": (-1, -2)}) + b"\0" * 8)]),
    "terabytes": npz([("a.npy", npy(claims={"shape": TERA}))]),
    "no array": npz([("a.npy", npy(np.ones(2))), ("run.py", b"import os")]),
    "no magic": npz([("a.npy", b"\0" * 99)]),
    "code for a header": npz([("a.npy", b"\x93NUMPY\x01\0\x0b\0exit(1) or ")]),
    "leads out": npz([("../a.npy", npy(np.ones(2)))]),
    "leads to the root": npz([("/etc/a.npy", npy(np.ones(2)))]),
    "leads out on Windows": npz([("..\\a.npy", npy(np.ones(2)))]),
    "deep header": npz([("a.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", 9000) + b"(" * 9000)]),
}
SAFETENSORS = {
    "empty": b"",
    "no header": b"{}",
    "cut": whole(".safetensors")[:-1],
    "longer": whole(".safetensors") + b"\0",
    "a huge header": struct.pack("<Q", 1 << 60) + b"{}",
    "a header past the end": struct.pack("<Q", 99) + b"{}",
    "no JSON": safetensors(b"{'a': 1}"),
    "no table": safetensors([1, 2]),
    "no arrays": safetensors({}, b""),
    "overlapping": safetensors({"a": entry(0, 16, [4]), "b": entry(8, 24, [4])}),
    "with a hole": safetensors({"a": entry(0, 8, [2]), "b": entry(16, 24, [2])}),
    "past the end": safetensors({"a": entry(0, 1 << 40, [1 << 38])}),
    "backwards": safetensors({"a": entry(24, 0, [6])}),
    "negative": safetensors({"a": entry(-24, 0, [6])}),
    "another size": safetensors({"a": entry(0, 24, [7])}),
    "overflowing": safetensors({"a": entry(0, 24, [1 << 62, 1 << 62])}),
    "strings": safetensors({"a": entry(0, 24, [6], "STR")}),
}


BAD = {".npz": NPZ, ".safetensors": SAFETENSORS}
CASES = [(suffix, name) for suffix, cases in BAD.items() for name in cases]


def refuse(file, text):
    """Reads a file, which must be one line of error and take no room for what it claims."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=text) as e:
            files.read(file)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(e.value) and str(file.parent) in str(e.value)


@pytest.mark.parametrize("suffix, name", CASES)
def test_bad_files_are_one_error_and_take_no_memory(tmp_path, suffix, name):
    file = tmp_path / f"x{suffix}"
    file.write_bytes(BAD[suffix][name])
    refuse(file, f"is not a sound {suffix} file: .")


def test_a_zip_archive_that_claims_terabytes(tmp_path):
    file = tmp_path / "x.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", npy(claims={"shape": TERA}))
        archive.filelist[0].file_size = (4 << 42) + 128
    refuse(file, "claims to unpack to 17,592,186,044,544")


def test_a_zip_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BYTES", 1 << 20)
    file = tmp_path / "x.npz"
    np.savez_compressed(file, a=np.zeros(1 << 20, np.float32))
    refuse(file, "claims to unpack to 4,194,432")
    monkeypatch.setattr(files, "BYTES", 1 << 23)
    assert files.read(file)[0]["a"].shape == (1 << 20,)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path):
    file = tmp_path / "x.npz"
    file.write_bytes(npz([("a.npy", npy(np.ones(2))), ("a.npy", npy(np.zeros(2)))]))
    refuse(file, "two members of it have the same name")


def test_an_encrypted_archive(tmp_path):
    file = tmp_path / "x.npz"
    data = bytearray(npz([("a.npy", npy(np.ones(2)))]))
    data[6] |= 1  # the flag in the header, and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(data)
    refuse(file, "encrypted")


def torch_archive(size, stride, numbers=2):
    """The bytes that `torch.save({"a": x})` gives for a float32 view of some numbers."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value

    def whole(value):  # a tuple of one number
        return b"\x8a\x08" + struct.pack("<q", value) + b"\x85"

    storage = text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu")
    storage = b"(" + storage + b"K" + bytes([numbers]) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    view = b"(" + storage + b"K\0" + whole(size) + whole(stride) + b"\x89" + hooks + b"tR"
    content = b"\x80\x02}" + text(b"a") + b"ctorch._utils\n_rebuild_tensor_v2\n" + view + b"s."
    data = struct.pack("<2f", 1, 2)
    return npz([("x/data.pkl", content), ("x/data/0", data), ("x/version", b"3\n")])


@pytest.mark.parametrize(
    "size, stride, numbers, text",
    [(2, 1, 2, ""), (1 << 40, 0, 2, "claims the shape"), (99, 1, 2, "."), (2, 1, 99, ".")],
)
def test_torch_files_hold_what_they_claim(tmp_path, size, stride, numbers, text):
    file = tmp_path / "x.pth"
    file.write_bytes(torch_archive(size, stride, numbers))
    if TORCH and not text:
        np.testing.assert_array_equal(files.read(file)[0]["a"], np.float32([1, 2]), strict=True)
        return
    with pytest.raises(DataError, match=f"not a sound .*{text}" if TORCH else "install torch"):
        files.read(file)


TORCH_FILES = {
    "a pickle": pickle.dumps,
    "a protocol 0 pickle": lambda x: pickle.dumps(x, 0),
    "a torch archive": lambda x: npz([("x/data.pkl", pickle.dumps(x, 2)), ("x/version", b"3\n")]),
    "a torch archive that leads out": lambda x: npz([("../data.pkl", pickle.dumps(x, 2))]),
    "no torch file": lambda x: b"\0" * 99,
    "nothing": lambda x: b"",
    "text": lambda x: b"import os",
    "a list": lambda x: pickle.dumps([1, 2], 2),
}


@pytest.mark.parametrize("suffix", [".npz", ".pth", ".pt", ".bin", ".tar"])
@pytest.mark.parametrize("kind", TORCH_FILES)
def test_no_payload_is_run(tmp_path, suffix, kind):
    file, mark = tmp_path / f"x{suffix}", tmp_path / "harm"
    content = TORCH_FILES[kind]({"model": {"w": Payload(mark)}, "w": Payload(mark)})
    file.write_bytes(content)
    with pytest.raises(DataError, match="is not a sound" if TORCH or suffix == ".npz" else "torch"):
        files.read(file)
    assert not mark.exists()


def test_pickled_arrays_are_not_loaded(tmp_path):
    file, mark = tmp_path / "x.npz", tmp_path / "harm"
    file.write_bytes(npz([("a.npy", npy(np.array([Payload(mark)])))]))
    refuse(file, r"a holds Python objects \(pickle\), which could run code")
    assert not mark.exists()


def test_numbers_of_any_kind_are_read(tmp_path):
    file = tmp_path / "x.npz"
    half = np.array([1.5, -2], jnp.bfloat16)
    given = ARRAYS | {"f": np.asfortranarray(ARRAYS["a/b"]), "half": half, "one": np.float64(3)}
    given["big"] = ARRAYS["a/b"].astype(">f4")
    for write in (np.savez, np.savez_compressed):
        write(file, **given)
        found, _ = files.read(file)
        assert found.keys() == given.keys()
        assert found["big"].dtype.isnative
        for name, array in given.items():
            np.testing.assert_array_equal(found[name], array, strict=name not in ("one", "big"))
    assert found["half"].dtype == half.dtype
    save_file({"half": half}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(files.read(tmp_path / "x.safetensors")[0]["half"], half)


@pytest.mark.parametrize(
    "name, text", [("x.txt", "is none of .npz"), ("gone.npz", "does not exist")]
)
def test_other_names(tmp_path, name, text):
    with pytest.raises(DataError, match=text):
        files.read(tmp_path / name)


def split(folder, places):
    """Writes the arrays in two files and an index that says `places`."""
    for array, name in (("a/b", "1.safetensors"), ("n", "2.safetensors")):
        save_file({array: ARRAYS[array]}, folder / name)
    file = folder / "model.json"
    file.write_text(places if isinstance(places, str) else json.dumps({"weight_map": places}))
    return file


GOOD = {"a/b": "1.safetensors", "n": "2.safetensors"}


def test_an_index_joins_the_files_beside_it(tmp_path):
    found, _ = files.read(split(tmp_path, GOOD))
    assert found.keys() == ARRAYS.keys()
    np.testing.assert_array_equal(found["a/b"], ARRAYS["a/b"])


@pytest.mark.parametrize(
    "places",
    [
        GOOD | {"n": "../2.safetensors"},
        GOOD | {"n": "/etc/passwd"},
        GOOD | {"n": "..\\2.safetensors"},
        GOOD | {"n": "c:2.safetensors"},
        GOOD | {"n": ".."},
        GOOD | {"n": "model.json"},
        GOOD | {"n": "3.safetensors"},
        GOOD | {"n": 2},
        GOOD | {"n": "1.safetensors"},
        GOOD | {"more": "2.safetensors"},
        {"a/b": "1.safetensors", "m": "2.safetensors"},
        ["1.safetensors"],
        {},
        "{",
        "[]",
        "[" * 10**5,
    ],
)
def test_an_index_that_leads_elsewhere_or_is_wrong(tmp_path, places):
    folder = tmp_path / "in"
    folder.mkdir()
    save_file({"n": ARRAYS["n"]}, tmp_path / "2.safetensors")
    refuse(split(folder, places), "is not a sound .json file: .|does not exist")
