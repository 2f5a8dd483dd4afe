"""What was read of an archive so far, in one SQLite file: it survives a kill at any moment.

A row is a file of the archive as it is kept. A file that was worked off is never looked at again,
so a reading that was interrupted goes on at the speed of unpacking.
"""

import contextlib
import pathlib
import sqlite3
from collections.abc import Iterable

from mtl_vision.data.layout import Converted
from mtl_vision.data.scan import Item, Key

COMMIT = 32 << 20  # bytes
SCHEMA = """
create table if not exists source (key text, complete integer default 0);
create table if not exists file (
  part text, id text, name text, height integer, width integer, note text, data blob,
  primary key (part, id));
create index if not exists by_id on file (id);
"""


class Staging:
    """The file at `path`; one process writes, others may read."""

    def __init__(self, path: pathlib.Path, source: str):
        """Opens it; what it holds of another source than `source` is thrown away."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.db = _open(path)
        if (row := self.db.execute("select key from source").fetchone()) != (source,):
            if row:
                self.remove()
                self.db = _open(path)
            self.db.execute("insert into source (key) values (?)", (source,))
        self.db.commit()

    def keys(self) -> dict[Key, tuple[str, tuple[int, int] | None, str]]:
        """(part, id) -> name in the archive, shape, note."""
        rows = self.db.execute("select part, id, name, height, width, note from file")
        return {(p, i): (n, (h, w) if h else None, note) for p, i, n, h, w, note in rows}

    def add(self, items: Iterable[Item]) -> list[Item]:
        """Keeps all that are whole; returns the others."""
        faulty, pending = [], 0
        try:
            for item in items:
                if item.kept is None:
                    faulty.append(item)
                    continue
                data, shape, note = item.kept
                row = (*item.key, item.name, *(shape or (None, None)), note, data)
                self.db.execute("insert or replace into file values (?,?,?,?,?,?,?)", row)
                pending += len(data)
                if pending > COMMIT:
                    self.db.commit()
                    pending = 0
        finally:
            self.db.commit()
        return faulty

    @property
    def complete(self) -> bool:
        """Whether the whole archive was read and every file of it was whole."""
        return bool(self.db.execute("select complete from source").fetchone()[0])

    def finish(self) -> None:
        """Makes it complete."""
        self.db.execute("update source set complete = 1")
        self.db.commit()

    def close(self) -> None:
        self.db.close()

    def remove(self) -> None:
        """Deletes it."""
        self.close()
        for end in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)


def read(path: pathlib.Path, id_: str) -> dict[str, Converted]:
    """The parts of one image, from any process."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        rows = db.execute("select part, data, height, width, note from file where id = ?", (id_,))
        return {p: Converted(data, (h, w) if h else None, note) for p, data, h, w, note in rows}


def _open(path: pathlib.Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    db.executescript("pragma journal_mode=wal; pragma synchronous=normal;" + SCHEMA)
    return db
