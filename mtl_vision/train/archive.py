"""Folders of arrays that say what they hold, and whose damage shows.

orbax writes into a temporary folder and renames it at the end, so a folder is whole or absent. It
loads a flipped byte without a word, so the checksums of all leaves lie beside the arrays.
"""

import contextlib
import json
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from mtl_vision import parallel
from mtl_vision.errors import DataError
from mtl_vision.train import integrity
from mtl_vision.train.integrity import Leaf, Table


class Damage(DataError):
    """A checkpoint that cannot be read, or whose content is not what was saved."""


class Saved(NamedTuple):
    """What a folder of arrays says about itself.

    Attributes:
      items: ``{item: table of its leaves}``.
      score: the metric that ranks checkpoints, or None.
      frozen: digest of the frozen parameters that the checkpoint belongs to.
    """

    items: dict[str, Table]
    score: float | None
    frozen: int


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    """Turns what orbax raises on broken files, which is many things, into Damage."""
    try:
        yield
    except Damage:
        raise
    except Exception as e:
        reason = (str(e).splitlines() or [""])[0][:200]
        raise Damage(f"{path} cannot be read ({type(e).__name__}: {reason})") from e


def sealed(saved: Saved) -> dict[str, Any]:
    """Returns what `describe` will read, as JSON with a CRC of itself."""
    content = json.loads(json.dumps(saved._asdict()))
    return content | {"crc": zlib.crc32(json.dumps(content, sort_keys=True).encode())}


def describe(path: pathlib.Path) -> Saved:
    """Reads what a folder of arrays says about itself.

    Raises:
      Damage: it cannot be read, or is not as it was written.
    """
    with _reading(path):
        content = dict(ocp.checkpointables_metadata(path.absolute()).custom_metadata)
        crc = content.pop("crc")
        if zlib.crc32(json.dumps(content, sort_keys=True).encode()) != crc:
            raise Damage(f"the description of {path} is not what was saved")
        items = {
            item: {p: Leaf(tuple(shape), *rest) for p, (shape, *rest) in leaves.items()}
            for item, leaves in content["items"].items()
        }
        return Saved(items, content["score"], content["frozen"])


def _read_together(
    path: pathlib.Path, item: str, wanted: Mapping[str, Any]
) -> tuple[dict[str, jax.Array], Damage | None]:
    """Reads leaves; if one host cannot, all get Damage, lest they wait for each other later."""
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    found, broken = {}, None
    try:
        with _reading(path), context:
            found = ocp.load_checkpointables(path.absolute(), {item: integrity.shapes(wanted)})[
                item
            ]
    except Damage as e:
        broken = e
    if not multihost_utils.process_allgather(np.array(broken is None)).all():
        broken = broken or Damage(f"{path} cannot be read by another host")
    return found, broken


def read(
    path: pathlib.Path, item: str, wanted: Mapping[str, Any], saved: Table
) -> dict[str, jax.Array]:
    """Reads leaves of an item and checks them.

    Args:
      path: a folder of arrays.
      item: one of its items.
      wanted: ``{path of a leaf: array or shape with the sharding to read it to}``; it may ask for
        some leaves only.
      saved: the item's table.

    Raises:
      Damage: they cannot be read, or a checksum differs.
    """
    if not wanted:
        return {}
    found, broken = _read_together(path, item, wanted)
    if broken:
        raise broken
    bad = integrity.damaged(integrity.table(found), saved)
    if bad:
        raise Damage(f"{len(bad)} arrays of {path} are not what was saved, first {bad[0]}")
    # orbax gives keys a sharding of its own spelling.
    places = {p: wanted[p].sharding for p in found}
    return {
        p: x if x.sharding == places[p] else parallel.place(x, places[p]) for p, x in found.items()
    }


def check_same(path: pathlib.Path, saved: Table, wanted: Mapping[str, Any]) -> None:
    """Compares names, shapes and dtypes of leaves with the table of an item.

    Raises:
      DataError: they differ; it lists where.
    """
    lines = integrity.differences(saved, integrity.table(integrity.shapes(wanted)))
    if lines:
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise DataError(
            f"checkpoint {path} is of another model: {'; '.join(lines[:5])}{more}. Use the config "
            f"it was made with, or config.init_from to take over what fits."
        )
