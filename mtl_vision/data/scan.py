"""One pass over an archive: every file recognised, decoded and checked on all cores."""

import pathlib
from collections.abc import Collection, Iterator
from functools import partial
from typing import NamedTuple

from mtl_vision.data import archive, nyud_v2, pascal_context
from mtl_vision.data.layout import Converted, Layout, Match, match
from mtl_vision.data.workers import parallel
from mtl_vision.errors import DataError

LAYOUTS = {m.LAYOUT.dataset: m.LAYOUT for m in (pascal_context, nyud_v2)}

Key = tuple[str, str]  # (part, id)


class Item(NamedTuple):
    """One file: its part and id, its name in the archive, and what is kept of it or what is wrong
    with it."""

    key: Key
    name: str
    kept: Converted | None
    fault: str = ""


def scan(
    path: pathlib.Path,
    dataset: str,
    *,
    done: Collection[Key] = (),
    processes: int | None = None,
    quiet: bool = False,
) -> Iterator[Item]:
    """Yields an item for every file of the dataset that is not `done`.

    Raises:
      DataError: the archive is cut off, is another dataset, mixes two packings, holds a file twice,
        or what `archive.files` refuses.
    """
    from tqdm import tqdm

    names = Names(path, LAYOUTS[dataset], done)
    total, label = archive.size(path), f"reading {path.name}"
    with tqdm(total=total, desc=label, unit="B", unit_scale=True, disable=quiet) as bar:
        files = archive.files(path, names.wanted, bar.update)
        tasks = ((names.last, name, data) for name, data in files)
        yield from parallel(
            partial(convert, dataset), tasks, label=lambda task: task[1], processes=processes
        )
    names.finish()


def convert(dataset: str, task: tuple[Match, str, bytes]) -> Item:
    """Decodes and checks one file."""
    found, name, data = task
    part = LAYOUTS[dataset].parts[found.index]
    key = part.name, found.id
    try:
        return Item(key, name, part.convert(data))
    except DataError as error:
        return Item(key, name, None, str(error))
    except Exception as error:  # whatever a file can do wrong, it is the file's fault
        return Item(key, name, None, f"cannot be read ({type(error).__name__}: {error})")


class Names:
    """What the names in an archive say about it."""

    def __init__(self, path: pathlib.Path, layout: Layout, done: Collection[Key]):
        self.path, self.layout, self.done = path, layout, done
        self.seen: dict[Key, str] = {}
        self.others: list[str] = []
        self.above: str | None = None
        self.variants = dict(layout.variants)
        self.last: Match | None = None

    def wanted(self, name: str) -> bool:
        """Says whether a file has to be read; takes note of it."""
        found = match(self.layout, name)
        if found is None:
            self.others = [*self.others, name][:3]
            return False
        part = self.layout.parts[found.index].name
        key = part, found.id
        if key in self.seen and self.above == found.above:
            raise DataError(f"{self.path} holds two files for one image: {self.seen[key]}, {name}.")
        if self.above not in (None, found.above):
            raise DataError(
                f"{self.path} holds the dataset twice, {name!r} is not under {self.above!r}; give "
                "one of the two folders."
            )
        self.above, self.seen[key] = found.above, name
        self._narrow(part, name)
        self.last = found
        return key not in self.done

    def _narrow(self, part: str, name: str) -> None:
        """Holds the file types to one packing."""
        before, kind = self.variants, name.rpartition(".")[2]
        self.variants = {v: t for v, t in before.items() if t.get(part, kind) == kind}
        if before and not self.variants:
            raise DataError(
                f"{self.path} mixes packings: {name!r} does not go with the files before it, which "
                f"are of {' or '.join(before)}; give one published archive as it is."
            )

    def finish(self) -> None:
        """Refuses an archive without a single file of the dataset."""
        if not self.seen:
            has = f"it holds {', '.join(map(repr, self.others))}" if self.others else "it is empty"
            layout = self.layout
            raise DataError(
                f"{self.path} is not {layout.dataset}: no folder of {layout.archives} is in it; "
                f"{has}."
            )
