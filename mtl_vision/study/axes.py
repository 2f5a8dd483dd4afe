"""From axes of values to named sets of overrides."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from mtl_vision.errors import ConfigError


class Setting(NamedTuple):
    """One point of a study: its folder's name, and its overrides ``field=value``.

    at: the value on every axis, by the axis' name; what the effect of an axis is grouped by.
    """

    name: str
    overrides: tuple[str, ...]
    at: dict[str, str]


def grid(axes: Sequence[str]) -> list[Setting]:
    """Returns all combinations of the axes, the last varying fastest.

    Args:
      axes: ``field=value,value,...`` each. Where values hold commas, ``;`` separates them. Several
        fields that vary together are joined by ``+``: ``adapter.name=lora+optim.lr=1e-3,``
        ``adapter.name=mtlora+optim.lr=5e-4``; each choice then names all its fields.

    Raises:
      ConfigError: an axis is not of that form, or one field is on two axes.
    """
    parsed = [_axis(text) for text in axes]
    fields = [f for choices in parsed for f in {f for c in choices for f, _ in c}]
    if twice := [f for f in dict.fromkeys(fields) if fields.count(f) > 1]:
        raise ConfigError(f"--axis: {twice[0]} is on two axes; give each field one.")
    short = shorten(fields)
    settings = []
    for point in itertools.product(*parsed):
        pairs = [pair for choice in point for pair in choice]
        at = {
            "+".join(short[f] for f, _ in choice): "+".join(v for _, v in choice)
            for choice in point
        }
        name = ",".join(f"{short[f]}={v}" for f, v in pairs)
        settings.append(Setting(safe(name), tuple(f"{f}={v}" for f, v in pairs), at))
    return _distinct(settings)


def listed(variants: Sequence[str]) -> list[Setting]:
    """Returns the settings of a list: ``name: field=value field=value`` each, or only a name.

    Raises:
      ConfigError: a variant is not of that form.
    """
    settings = []
    for text in variants:
        name, _, rest = text.partition(":")
        overrides = tuple(rest.split())
        if not name.strip() or any("=" not in o for o in overrides):
            raise ConfigError(
                f"--variant={text!r}: expected 'name: field=value field=value', such as "
                f"'big: adapter.rank=64 optim.lr=1e-3'."
            )
        settings.append(Setting(safe(name.strip()), overrides, {"variant": name.strip()}))
    return _distinct(settings)


def _axis(text: str) -> list[tuple[tuple[str, str], ...]]:
    separator = ";" if ";" in text else ","
    first, _, _ = text.partition("=")
    choices = []
    for part in text.split(separator):
        if "=" in part and "+" in part:
            pairs = [pair.partition("=") for pair in part.split("+")]
        elif part.startswith(f"{first}="):
            pairs = [part.partition("=")]
        else:
            pairs = [(first, "=", part)]
        choices.append(tuple((field.strip(), value.strip()) for field, _, value in pairs))
    flat = [pair for choice in choices for pair in choice]
    if "=" not in text or any(not f or not v or " " in f for f, v in flat):
        raise ConfigError(
            f"--axis={text!r}: expected field=value,value, such as adapter.rank=16,32."
        )
    if len({tuple(f for f, _ in choice) for choice in choices}) > 1:
        raise ConfigError(f"--axis={text!r}: its choices set different fields.")
    return choices


def shorten(fields: Sequence[str]) -> dict[str, str]:
    """Returns for each dotted field the shortest end that no other field has."""
    found = {}
    for field in fields:
        parts = field.split(".")
        ends = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
        others = [f for f in fields if f != field]
        found[field] = next(
            e for e in ends if not any(f == e or f.endswith(f".{e}") for f in others)
        )
    return found


def safe(name: str) -> str:
    """Returns a folder's name without what shells and file systems trip over."""
    kept = "".join(c if c.isalnum() or c in "=,._+-" else "_" for c in name)
    return kept.lstrip(".") or "_"


def _distinct(settings: list[Setting]) -> list[Setting]:
    names = [s.name for s in settings]
    if twice := [n for n in names if names.count(n) > 1]:
        raise ConfigError(f"two settings of the study are both named {twice[0]!r}.")
    return settings
