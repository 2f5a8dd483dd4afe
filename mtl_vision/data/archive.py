"""The files of an archive or folder, one after another, in one pass and never all at once.

A ``.tgz`` can only be read from front to back, so that is how everything is read here. Nothing is
ever unpacked: names serve to recognise files, never as paths.
"""

import bz2
import gzip
import lzma
import os
import pathlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from mtl_vision.errors import DataError

MAX_BYTES = 64 << 20  # of one file; the largest of these datasets has 3 MB
DEPTH = 4  # folders above a file
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
DAMAGED = (EOFError, OSError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)

Files = Iterator[tuple[str, bytes]]


def files(
    path: pathlib.Path, wanted: Callable[[str], bool], advance: Callable[[int], Any]
) -> Files:
    """Yields (name, content) of the wanted files.

    Args:
      path: a folder, or a tar (plain, gzip, bzip2, xz) or zip archive, told apart by content.
      wanted: says by the name whether a file is read.
      advance: called with the number of bytes of `size` that were worked off since the last call.

    Raises:
      DataError: the archive is none, is cut off or damaged, or holds what no dataset holds: links,
        paths that lead out of it, files of over 64 MB.
    """
    if path.is_dir():
        yield from _folder(path, wanted, advance)
        return
    with _opened(path) as raw:
        start = raw.read(512)
        raw.seek(0)
        tracked = _Tracked(raw, advance)
        if start[:2] == b"PK":
            yield from _zip(path, wanted, advance)
        elif found := [f for magic, f in OPENERS.items() if start.startswith(magic)]:
            with found[0](tracked) as plain:
                yield from _tar(path, plain, wanted)
        elif start[257:262] == b"ustar":
            yield from _tar(path, tracked, wanted)
        else:
            page = " It is a web page; the download failed." if start.lstrip()[:1] == b"<" else ""
            raise DataError(
                f"{path} is neither a folder nor a .tgz, .tar or .zip archive.{page} "
                "Download it again, or unpack it and give the folder."
            )


def _opened(path: pathlib.Path) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def size(path: pathlib.Path) -> int:
    """Bytes that reading `path` takes.

    Raises:
      DataError: there is no such file or folder.
    """
    if not path.exists():
        raise DataError(f"--archive={str(path)!r} does not exist.")
    if path.is_dir():
        return sum(os.path.getsize(file) for _, file in _walk(path, DEPTH))
    return path.stat().st_size


def modified(path: pathlib.Path) -> int:
    """When `path`, or any file of the folder, was last changed, in nanoseconds."""
    files = (file for _, file in _walk(path, DEPTH)) if path.is_dir() else (path,)
    return max((os.stat(file).st_mtime_ns for file in files), default=0)


class _Tracked:
    """A file that says how far it was read."""

    def __init__(self, file: IO[bytes], advance: Callable[[int], Any]):
        self.file, self.advance = file, advance

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.advance(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _tar(path: pathlib.Path, plain: Any, wanted: Callable[[str], bool]) -> Files:
    last, ending = "", _Ending(plain)
    try:
        with tarfile.open(fileobj=ending, mode="r|", bufsize=1 << 20) as tar:
            for member in tar:
                tar.members = []  # it would keep them all
                last = member.name
                if member.isdir():
                    continue
                _check(path, member.name, "" if member.isfile() else _what(member), member.size)
                if wanted(member.name):
                    yield member.name, tar.extractfile(member).read()
        while ending.read(1 << 20):  # to where the checksum is
            pass
    except DAMAGED as error:
        raise DataError(_cut(path, last, error)) from error
    if any(ending.last):
        raise DataError(_cut(path, last, "it has no end mark"))


class _Ending:
    """A stream that remembers its last block; a whole tar ends with zeros."""

    def __init__(self, stream: Any):
        self.stream, self.last = stream, b"\1"

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.last = (self.last + data)[-512:] if len(data) < 512 else data[-512:]
        return data


def _what(member: tarfile.TarInfo) -> str:
    return "a link" if member.issym() or member.islnk() else "no plain file"


def _zip(path: pathlib.Path, wanted: Callable[[str], bool], advance: Callable[[int], Any]) -> Files:
    last = ""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                last = info.filename
                if info.is_dir():
                    continue
                kind = stat.S_IFMT(info.external_attr >> 16)
                what = {stat.S_IFLNK: "a link", 0: "", stat.S_IFREG: ""}.get(kind, "no plain file")
                what = "encrypted" if info.flag_bits & 1 else what
                _check(path, last, what, info.file_size)
                advance(info.compress_size)
                if wanted(last):
                    with archive.open(info) as file:
                        yield last, file.read()
    except (*DAMAGED, NotImplementedError) as error:
        raise DataError(_cut(path, last, error)) from error


def _folder(path: pathlib.Path, wanted: Callable[[str], bool], advance: Callable[[int], Any]):
    for name, file in _walk(path, DEPTH):
        length = os.path.getsize(file)
        advance(length)
        if wanted(name):
            _check(path, name, "", length)
            try:
                yield name, pathlib.Path(file).read_bytes()
            except OSError as error:
                raise DataError(f"{file} cannot be read: {error.strerror}.") from error


def _walk(path: pathlib.Path, depth: int, above: str = "") -> Iterator[tuple[str, str]]:
    """Yields (name, path) of the plain files of a folder, those of links too: they are the user's
    own."""
    for entry in sorted(os.scandir(path), key=lambda e: e.name):
        if entry.is_file():
            yield above + entry.name, entry.path
        elif entry.is_dir() and depth:
            yield from _walk(pathlib.Path(entry.path), depth - 1, f"{above}{entry.name}/")


def _check(path: pathlib.Path, name: str, fault: str, length: int) -> None:
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or ":" in parts[0]:
        fault = "a path that leads out of the archive"
    elif length > MAX_BYTES:
        fault = f"{length} bytes long; no file of these datasets is over {MAX_BYTES}"
    if fault:
        raise DataError(
            f"{path}: {name!r} is {fault}. This is not the published archive; get it again, or "
            "unpack it yourself and give the folder."
        )


def _cut(path: pathlib.Path, last: str, why: Any) -> str:
    where = f"after {last!r}" if last else "at its start"
    return f"{path} is cut off or damaged {where} ({why}). Download it again."
