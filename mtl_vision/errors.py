"""Errors a user can cause, and the look-up that explains a wrong name."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Something the user can mend; scripts print it as one line and exit 1."""


class ConfigError(UserError):
    """A config field, or a combination of fields, that cannot be."""


class DataError(UserError):
    """A file, record, checkpoint or folder that is missing, damaged or of another kind."""


class RunError(UserError):
    """A run that cannot go on: a loss that is not finite, a run folder of another config."""


class Requeue(Exception):
    """A run that was asked to stop, has saved, and wants to be started again."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the choice closest to `name`, or nothing."""
    near = difflib.get_close_matches(name, list(choices), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def lookup(table: Mapping[str, T], name: str, field: str) -> T:
    """Returns ``table[name]``; the error lists the choices and the nearest one.

    Args:
      table: the entries by name.
      name: what the config says.
      field: dotted path of the config field, without the leading ``config.``, or an option of a
        script with its dashes.

    Raises:
      ConfigError: `name` is not in `table`.
    """
    if name in table:
        return table[name]
    choices = ", ".join(sorted(table)) or "(none)"
    field = field if field.startswith("--") else f"config.{field}"
    raise ConfigError(f"{field}={name!r} is not one of {choices}.{nearest(name, table)}")
