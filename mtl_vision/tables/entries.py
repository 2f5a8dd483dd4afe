"""Entries: how a table names the run of one of its rows."""

import pathlib

from mtl_vision import cli
from mtl_vision.errors import ConfigError

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def load(entry: str) -> tuple[str, tuple[str, ...]]:
    """Returns the config of an entry, as `--config` takes it, and what is changed in it.

    Args:
      entry: ``<file in configs/ without .py>[:<row>][@<task kind>]``: ``mtlora_r64``,
        ``tables/mtlora:single_task@semseg``. With a kind the run has that task alone.

    Returns: the path with the row behind a colon, and overrides ``field=value``.

    Raises:
      ConfigError: there is no such file or row, or no dataset of it has the kind.
    """
    name, _, kind = entry.partition("@")
    file, _, row = name.partition(":")
    path = str(CONFIGS / f"{file}.py") + (f":{row}" if row else "")
    if not kind:
        return path, ()
    changed = []
    for dataset, section in cli.load_config(path)["data"].items():
        if isinstance(section, dict) and kind in section["tasks"]:
            changed.append(f"data.{dataset}.tasks=({kind!r},)")
    if len(changed) != 1:
        raise ConfigError(f"{entry}: {len(changed)} datasets of {name} have the task {kind!r}.")
    return path, tuple(changed)
