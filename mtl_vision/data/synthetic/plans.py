"""Named sizes and counts of prepared SynthScenes.

A name is one of `NAMED`, or ``S`` or ``S-train-val-test`` with the resolution S and the number of
scenes per split: ``128``, ``448-4000-200-800``. S x S pixels in synth_pascal are 7/8 S x 9/8 S in
synth_nyud, the shape of the NYUD-v2 canvas.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from mtl_vision.errors import DataError


class Plan(NamedTuple):
    """Size (H, W) per domain and scenes per split of one configuration."""

    name: str
    sizes: dict[str, tuple[int, int]]
    counts: dict[str, int]


DEFAULT_COUNTS = {"train": 2000, "val": 200, "test": 500}
QUICKSTART = Plan(
    "quickstart",
    {"synth_pascal": (96, 96), "synth_nyud": (72, 96)},
    {"train": 1200, "val": 64, "test": 200},
)
NAMED = {"quickstart": QUICKSTART}


def sizes(side: int) -> dict[str, tuple[int, int]]:
    return {"synth_pascal": (side, side), "synth_nyud": (side * 7 // 8, side * 9 // 8)}


def plan(name: str) -> Plan:
    """Reads a configuration's name.

    Raises:
      DataError: it is neither named nor of the form above, or S is no multiple of 8 in 32..1024.
    """
    if name in NAMED:
        return NAMED[name]
    found = re.fullmatch(r"(\d+)(?:-(\d+)-(\d+)-(\d+))?", name)
    side = int(found[1]) if found else 0
    counts = dict(DEFAULT_COUNTS)
    if found and found[2]:
        counts = dict(zip(counts, map(int, found.groups()[1:]), strict=True))
    if not 32 <= side <= 1024 or side % 8 or not all(counts.values()):
        raise DataError(
            f"the SynthScenes config {name!r} is not known; use {', '.join(NAMED)}, a resolution "
            "such as 128 (a multiple of 8 from 32 to 1024), or 128-2000-200-500 to give the counts "
            "of train, val and test too."
        )
    return Plan(name, sizes(side), counts)


def with_counts(base: Plan, counts: Mapping[str, int | None]) -> Plan:
    """The plan with other counts, where they are given; its name says so."""
    changed = base.counts | {k: v for k, v in counts.items() if v is not None}
    if changed == base.counts:
        return base
    side = base.name.split("-")[0]
    if not side.isdigit():
        raise DataError(
            f"the counts of the config {base.name!r} are fixed; give a resolution such as 128."
        )
    return plan("-".join([side, *map(str, changed.values())]))
