"""Arrays in files that anybody may have made: nothing in them is run, little of them is believed.

A file's claims are compared with its size before room is made for them, so that a file is read
whole or not at all, and costs memory in proportion to its size.
"""

import contextlib
import json
import math
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from mtl_vision.errors import DataError

Arrays = dict[str, np.ndarray]
Content = tuple[Arrays, dict[str, str]]

# A zip archive may unpack to so many times its size, or to so many bytes. Weights compress badly.
TIMES, BYTES = 20, 1 << 30


def read(path: pathlib.Path) -> Content:
    """Reads the arrays of a file by name, and its metadata.

    Args:
      path: ``.npz`` without pickles; ``.safetensors``; a torch file (``.pth``, ``.pth.tar``,
        ``.pt``, ``.bin``), which needs torch and is read with ``weights_only``, and of whose
        entries ``model``, ``teacher`` or ``state_dict`` is taken if there; the index of such files
        in one folder, ``.json``, as Hugging Face splits large models; or a folder with such a file
        per rank, ``0.pth``, ``1.pth``, ..., whose arrays of one name are joined on the first axis.

    Returns: numbers of any dtype, bfloat16 among them, and metadata, which only safetensors have.

    Raises:
      DataError: no such file, another ending, damaged, not of that format, holding something
        other than arrays of numbers, claiming more than it holds, or torch is missing.
    """
    readers = READERS | {".json": _index}
    if path.is_dir():
        return _ranks(path), {}
    if path.suffix not in readers:
        raise DataError(f"{path} is none of {', '.join(readers)}.")
    if not path.is_file():
        raise DataError(f"{path} does not exist.")
    try:
        arrays, metadata = readers[path.suffix](path)
        if not arrays:
            raise ValueError("it holds no arrays")
        return arrays, metadata
    except DataError:
        raise
    except ImportError as e:
        raise DataError(
            f"{path} is a torch file; install torch to read it (pip install torch), or convert it "
            f"to .safetensors."
        ) from e
    except Exception as e:
        reason = (str(e).splitlines() or [""])[0][:200].rstrip(".")
        reason = reason or type(e).__name__
        raise DataError(f"{path} is not a sound {path.suffix} file: {reason}.") from e


def _ranks(path: pathlib.Path) -> Arrays:
    files = {int(f.stem): f for f in path.iterdir() if f.stem.isdigit() and f.suffix in READERS}
    if not files or sorted(files) != list(range(len(files))):
        raise DataError(f"{path} is a folder without one file per rank: 0.pth, 1.pth, and so on.")
    found: dict[str, list[np.ndarray]] = {}
    for rank in sorted(files):
        for name, array in read(files[rank])[0].items():
            found.setdefault(name, []).append(array)
    try:
        return {
            name: np.concatenate(parts) if parts[1:] else parts[0] for name, parts in found.items()
        }
    except ValueError as e:
        raise DataError(f"{path}: arrays of its files do not join: {e}.") from e


def _npz(path: pathlib.Path) -> Content:
    with zipfile.ZipFile(path) as archive:
        members = _members(archive, path.stat().st_size)
        stray = [m.filename for m in members if not m.filename.endswith(".npy")]
        if stray:
            raise ValueError(f"{stray[0]!r} in it is no array")
        return {m.filename.removesuffix(".npy"): _npy(archive, m) for m in members}, {}


def _members(archive: zipfile.ZipFile, size: int) -> Sequence[zipfile.ZipInfo]:
    """Returns what a zip archive of `size` bytes holds, if it is as one of weights should be."""
    members = archive.infolist()
    names = [m.filename for m in members]
    for name in names:
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"the name {name!r} in it leads out of it")
    if len(set(names)) < len(names):
        raise ValueError("two members of it have the same name")
    claimed = sum(m.file_size for m in members)
    if claimed > max(TIMES * size, BYTES):
        raise ValueError(f"it has {size:,} bytes and claims to unpack to {claimed:,}")
    return members


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as file:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        dtype, size = _number(name, dtype), math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or file.tell() + size != member.file_size:
            raise ValueError(f"{name} claims the shape {shape}, which is not what is there")
        data = file.read(size)
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _number(name: str, dtype: np.dtype) -> np.dtype:
    """Returns the dtype of an array of numbers; bfloat16 is two bytes of no type in ``.npy``."""
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects (pickle), which could run code")
    if dtype == np.dtype("V2"):
        return np.dtype(jnp.bfloat16)
    if dtype.kind not in "biuf":
        raise ValueError(f"{name} is of type {dtype}, not of numbers")
    return dtype


def _safetensors(path: pathlib.Path) -> Content:
    import safetensors

    with safetensors.safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}


def _torch(path: pathlib.Path) -> Content:
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _members(archive, path.stat().st_size)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise ValueError(
            "it is damaged, or holds more than arrays and plain values, which could run code"
        ) from e
    for name in ("model", "teacher", "state_dict"):
        inner = found.get(name) if isinstance(found, Mapping) else None
        found = inner if isinstance(inner, Mapping) else found
    if not isinstance(found, Mapping):
        raise ValueError(f"it holds a {type(found).__name__}, not arrays by name")
    tensors = {str(k): v.detach() for k, v in found.items() if isinstance(v, torch.Tensor)}
    return {name: _tensor(name, x) for name, x in tensors.items()}, {}


def _tensor(name: str, x: Any) -> np.ndarray:
    import torch

    if x.layout != torch.strided or x.is_quantized or x.is_complex():
        raise ValueError(f"{name} is of type {x.type()}, not of plain numbers")
    if x.numel() * x.element_size() > x.untyped_storage().nbytes():
        raise ValueError(f"{name} claims the shape {tuple(x.shape)}, which is not what is there")
    if x.dtype == torch.bfloat16:
        return x.contiguous().view(torch.int16).numpy().view(jnp.bfloat16)
    return x.numpy()


READERS: dict[str, Callable[[pathlib.Path], Content]] = {
    ".npz": _npz,
    ".safetensors": _safetensors,
    **dict.fromkeys((".pth", ".tar", ".pt", ".bin"), _torch),
}


def _index(path: pathlib.Path) -> Content:
    """Reads the files beside an index, ``{"weight_map": {array: file}}``."""
    places = json.loads(path.read_bytes())
    places = places.get("weight_map") if isinstance(places, Mapping) else None
    if not isinstance(places, Mapping) or not all(isinstance(f, str) for f in places.values()):
        raise ValueError("it has no weight_map of file names")
    arrays: Arrays = {}
    for name in sorted(set(places.values())):
        suffix = pathlib.PurePosixPath(name).suffix
        if any(c in name for c in "/\\:") or suffix not in READERS:
            raise ValueError(f"{name!r} is not the name of a file of weights beside it")
        part, _ = read(path.with_name(name))
        wanted = {array for array, place in places.items() if place == name}
        if differ := sorted(part.keys() ^ wanted):
            raise ValueError(f"{name} and the index do not agree about {differ[0]}")
        arrays |= part
    return arrays, {}


def write(path: pathlib.Path, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """Writes arrays by name: whole, or not at all.

    Args:
      path: ``.safetensors``, or ``.npz``, which has no metadata.
      arrays: numbers.
      metadata: of strings.

    Raises:
      DataError: another ending.
    """
    if path.suffix not in (".npz", ".safetensors"):
        raise DataError(f"{path} does not end in .safetensors or .npz.")
    with whole(path) as file:
        if path.suffix == ".npz":
            np.savez(file, **arrays)
            return
        from safetensors.numpy import save_file

        rows = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
        save_file(rows, file, metadata=dict(metadata))


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a file to write, which becomes `path` at the end, or goes if something fails."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
