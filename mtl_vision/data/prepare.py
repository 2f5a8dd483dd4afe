"""From the archive of a real dataset to records: look at it, read it once, write.

Reading the archive into a staging file takes most of the time and survives an interruption; writing
the records is short. tfds writes to a folder of another name and renames it in the end, so nothing
that is half done looks complete.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import Any

from mtl_vision.data import archive, staging, survey
from mtl_vision.data.layout import LIST
from mtl_vision.data.real import CONFIGS
from mtl_vision.data.scan import LAYOUTS, scan
from mtl_vision.data.staging import Staging
from mtl_vision.data.survey import Survey
from mtl_vision.errors import DataError

ROOM = 2.5  # free disk space to begin with, times the archive


def look(dataset: str, path: pathlib.Path, **options: Any) -> Survey:
    """Reads and checks a whole archive and keeps nothing; `options` are those of `scan`."""
    found = Survey(LAYOUTS[dataset], path)
    for item in scan(path, dataset, **options):
        found.add(item)
    return found


def prepare(
    dataset: str,
    path: pathlib.Path,
    root: str | os.PathLike,
    *,
    partial: bool = False,
    processes: int | None = None,
    quiet: bool = False,
) -> tuple[pathlib.Path, bool]:
    """Prepares a dataset from its archive, unless it is there.

    Args:
      dataset: ``pascal_context`` or ``nyud_v2``.
      path: archive or folder, see `archive.files`.
      root: folder of the prepared data.
      partial: take what is there, as the configuration ``partial``, though images or labels are
        missing; else the whole dataset is asked for, and the configuration is ``full``.
      processes: workers, see `workers.parallel`.
      quiet: no progress bars.

    Returns: the folder, and whether it was made now.

    Raises:
      DataError: the archive is not whole, the disk is full, or another archive was prepared there.
    """
    from mtl_vision.data import builders

    root, config = pathlib.Path(root).expanduser(), CONFIGS[partial]
    place, size = root / dataset / config / builders.VERSION, archive.size(path)
    source = f"{path.name}, {size} bytes"
    if (place / "dataset_info.json").exists():
        _same_source(place, source)
        return place, False
    root.mkdir(parents=True, exist_ok=True)
    staged = root / f"incomplete.{dataset}.sqlite"
    with _locked(staged), _disk(root):
        if not staged.exists():
            _room(root, size)
        held = Staging(staged, f"{source}, {archive.modified(path)}")
        found = _read(held, dataset, path, processes=processes, quiet=quiet)
        ids, kinds = _chosen(found, partial)
        about = {"source": source, "packing": survey.variant(found)}
        chosen = builders.StagedConfig(
            name=config,
            version=builders.VERSION,
            staged=str(staged),
            ids=ids,
            kinds=kinds,
            metadata=about | {"people": survey.people(found, ids)},
            processes=processes,
            quiet=quiet,
        )
        _write(builders.BUILDERS[dataset], chosen, root)
        held.remove()
    return place, True


def _read(held: Staging, dataset: str, path: pathlib.Path, **options: Any) -> Survey:
    """Reads the files that were not read yet; returns the survey of all."""
    found = Survey(LAYOUTS[dataset], path)
    if not held.complete:
        for item in held.add(scan(path, dataset, done=held.keys().keys(), **options)):
            found.add(item)
        if not found.faults:
            held.finish()
    for key, about in held.keys().items():
        listed = staging.read(held.path, key[1])[LIST].data.decode() if key[0] == LIST else ""
        found.put(key, *about, listed)
    return found


def _chosen(found: Survey, partial: bool) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """The ids and labels to write."""
    wrong, kinds = survey.problems(found), survey.kinds(found)
    ids = survey.whole(found, kinds)
    counts = ", ".join(f"{len(i)} {split}" for split, i in ids.items())
    if not partial and wrong:
        raise DataError(
            f"{found.path} is not the whole {found.layout.dataset}:{survey.listed(wrong)}\n"
            f"Get it again. Or add --partial to prepare the images that have all of "
            f"{', '.join(kinds) or 'no labels'}: {counts or 'none'}."
        )
    if empty := [split for split in found.layout.counts if not ids.get(split)]:
        raise DataError(
            f"{found.path}: no image of the split {empty[0]!r} is whole:{survey.listed(wrong)}"
        )
    return ids, kinds


def _write(builder: Any, chosen: Any, root: pathlib.Path) -> None:
    import tensorflow_datasets as tfds
    from absl import logging as absl_logging

    tfds.disable_progress_bar()
    absl_logging.set_verbosity(absl_logging.ERROR)  # it warns that the config is a custom one
    made = builder(config=chosen, data_dir=str(root), file_format="array_record")
    for left in pathlib.Path(made.data_dir).parent.glob("incomplete.*"):
        shutil.rmtree(left)  # of a run that was killed
    with contextlib.redirect_stdout(None), tempfile.TemporaryDirectory() as downloads:
        made.download_and_prepare(download_dir=downloads)


def _same_source(place: pathlib.Path, source: str) -> None:
    file = place / "metadata.json"
    before = json.loads(file.read_text()).get("source") if file.exists() else None
    if before != source:
        raise DataError(
            f"{place} was prepared from {before}, not from {source}. Delete that folder to prepare "
            "it anew, or give another --data_dir."
        )


@contextlib.contextmanager
def _locked(staged: pathlib.Path) -> Iterator[None]:
    """Keeps a second run away from the staging file."""
    place = staged.with_suffix(".lock")
    with open(place, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{staged.parent}: another run is preparing the same data.") from error
        try:
            yield
        finally:
            place.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk(root: pathlib.Path) -> Iterator[None]:
    """Says so where the disk is full."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "full" in str(error):
            raise DataError(
                f"{root}: no space is left on the disk. Free some, or give another --data_dir, and "
                "run the same command again; it goes on where it stopped."
            ) from error
        raise DataError(f"{root}: {error}.") from error


def _room(root: pathlib.Path, size: int) -> None:
    free, needed = shutil.disk_usage(root).free, int(ROOM * size)
    if free < needed:
        raise DataError(
            f"{root}: {free / 1e9:.1f} GB are free, about {needed / 1e9:.1f} GB are needed. Give "
            "another --data_dir."
        )
