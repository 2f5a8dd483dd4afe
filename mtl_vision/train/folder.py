"""The run folder: whose it is, and what makes a second run in it the same run."""

import contextlib
import fcntl
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from mtl_vision import hosts
from mtl_vision.errors import DataError, RunError
from mtl_vision.train.log import environment, write_json

# What may differ when a run goes on: none of it changes a number of the run.
FREE = ("data.root", "data.workers", "data.processes", "mesh", "eval.workers", "run.dry")
FREE = (*FREE, "run.log_every", "run.keep", "run.panels", "run.not_finite", "run.stall")


def flat(values: Any) -> dict[str, Any]:
    """Returns ``{dotted field: value}``, tuples written as JSON has them."""
    if not isinstance(values, Mapping):
        return {"": json.loads(json.dumps(values))}
    found = {}
    for name, value in values.items():
        for rest, leaf in flat(value).items():
            found[f"{name}.{rest}" if rest else name] = leaf
    return found


def is_free(field: str) -> bool:
    """Says whether a run may go on with another value of `field`."""
    return field.endswith(".root") or any(field == f or field.startswith(f + ".") for f in FREE)


def claim(workdir: pathlib.Path, values: Mapping[str, Any], root: pathlib.Path) -> None:
    """Makes `workdir` the folder of the run with this config, or checks that it is.

    All processes of the run see the same folder.

    Args:
      workdir: made if absent.
      values: the config as plain nested values.
      root: folder of the code, for its commit.

    Raises:
      RunError: the folder holds a run of another config; nothing of it is changed.
      DataError: the folder cannot be made or written.
    """
    file = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not file.exists() and hosts.first():
            write_json(file, {"config": values, "environment": environment(root)})
    except OSError as e:
        raise DataError(f"the run folder {workdir} cannot be used: {e.strerror}.") from e
    hosts.barrier("run folder")
    check_same(file, values)


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other commands from training in `workdir` meanwhile.

    The lock ends with the process, however that ends. Where the file system has none, nothing is
    checked.

    Raises:
      RunError: another process trains there; nothing of it is changed.
      DataError: the folder cannot be written.
    """
    if not hosts.first():
        yield
        return
    try:
        file = (workdir / ".lock").open("a")
    except OSError as e:
        raise DataError(f"the run folder {workdir} cannot be used: {e.strerror}.") from e
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as e:
            raise RunError(
                f"{workdir} is in use: another process trains there. Wait for its end or stop it, "
                "or give another --workdir."
            ) from e
        except OSError:  # a file system without locks
            pass
        yield


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the config of the run in `workdir`.

    Raises:
      DataError: there is none, or it cannot be read.
    """
    file = workdir / "config.json"
    try:
        return json.loads(file.read_text())["config"]
    except FileNotFoundError as e:
        raise DataError(f"{workdir} is no run folder: it has no config.json.") from e
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as e:
        raise DataError(f"{file} cannot be read: {e}. Restore it, or use a new folder.") from e


def check_same(file: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Raises RunError if the run of `file` has another config."""
    old, new = flat(read(file.parent)), flat(values)
    changed = [
        f"{field}: {old.get(field, '(absent)')!r} there, {new.get(field, '(absent)')!r} now"
        for field in sorted(old.keys() | new.keys())
        if not is_free(field) and old.get(field) != new.get(field)
    ]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise RunError(
            f"{file.parent} belongs to another config ({'; '.join(changed[:3])}{more}). Give "
            f"another --workdir, or the config the folder was started with."
        )
