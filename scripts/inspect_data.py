"""The part of `prepare_data.py` that reads prepared records: checks, statistics, contact sheets."""

import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from mtl_vision.data import DATASETS, records, verify
from mtl_vision.data.synthetic import HUMAN_PARTS
from mtl_vision.data.workers import parallel
from mtl_vision.errors import DataError
from mtl_vision.tasks import KINDS
from mtl_vision.viz import colors, panels


def inspect(
    name: str, config: str, root: str, *, counts: Mapping[str, int], folder: str, rows: int
) -> None:
    """Reads every record, holds labels to their ranges, prints what they hold.

    Args:
      name: of the dataset.
      config: of the dataset.
      root: folder of the prepared data.
      counts: records expected in every split; ``{}`` for any number.
      folder: where a sheet and the statistics of every split are written; ``""`` for nowhere.
      rows: images on a sheet, evenly spaced.
    """
    DATASETS[name].check(root, config, "train", ())
    info = records.builder(records.folder(root, name, config)).info
    kinds = tuple(kind for kind in KINDS if kind in info.features)
    names = classes(name)
    for split in info.splits:
        source = records.TfdsSource((str(root), name, config), split, kinds)
        if len(source) != counts.get(split, len(source)):
            raise DataError(
                f"{name}/{config}, split {split!r}: {len(source)} records, expected "
                f"{counts[split]}. Delete the folder and prepare it again."
            )
        lines = verify.report(totals(source, names, f"{name} {split}"), names)
        print(f"{name}/{config} {split}: verified")
        print(*lines, sep="\n")
        if folder:
            place = pathlib.Path(folder) / f"{name}_{config}_{split}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_suffix(".txt").write_text("\n".join(lines) + "\n")
            save(place.with_suffix(".png"), sheet(source, kinds, names, rows))


def totals(source: Any, names: Mapping[str, Sequence[str]], label: str) -> verify.Totals:
    """Sums up all records, on all cores."""
    one, sums, ids = partial(verify.summary, source, names), {}, set()
    found = parallel(one, range(len(source)), label=str)
    for new in tqdm(found, total=len(source), desc=label, unit="image"):
        ids.add(new.pop("id"))
        sums = verify.merge(sums, new)
    if len(ids) != len(source):
        raise DataError(f"{label}: ids occur more than once.")
    return sums


def sheet(source: Any, kinds: Sequence[str], names: Mapping[str, Any], count: int) -> np.ndarray:
    """Images spread over the source, with their labels in colour."""
    rows = []
    for index in np.unique(np.linspace(0, len(source) - 1, count).round().astype(int)):
        example = source[index]
        row = [(example["id"], example["image"])]
        for kind in kinds:
            label = example[kind]
            number = len(names.get(kind, ()))
            row.append((kind, colors.colorize(kind, label, known(kind, label), classes=number)))
        rows.append(row)
    return panels.sheet(rows, side=min(240, rows[0][0][1].shape[0]))


def save(path: pathlib.Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise DataError(f"--inspect: {path} cannot be written.")
    print(f"contact sheet and statistics: {path.with_suffix('')}.png, .txt")


def classes(name: str) -> dict[str, tuple[str, ...]]:
    """The names of the classes of a dataset's maps."""
    return {"semseg": DATASETS[name].tasks("A")["semseg"].names, "human_parts": HUMAN_PARTS}


def known(kind: str, label: np.ndarray) -> np.ndarray:
    """Where a label holds something, bool [H, W]."""
    if kind == "normals":
        return np.any(label != 0, -1)
    return label > 0 if kind == "depth" else label != 255
