r"""Prepares datasets as array_record files; looks at what is prepared.

  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 128 --data_dir data
  python scripts/prepare_data.py --dataset synth_pascal --config 128 --data_dir data --verify
  python scripts/prepare_data.py --dataset synth_nyud --config 128 --data_dir data \
      --contact_sheet nyud.png

A dataset that is there already is left alone.
"""

import pathlib

import cv2
import numpy as np
from absl import flags

from mtl_vision import cli
from mtl_vision.data import DATASETS, verify
from mtl_vision.data.synthetic import HUMAN_PARTS, SEMSEG
from mtl_vision.data.synthetic.plans import plan, with_counts
from mtl_vision.errors import DataError, nearest

DATASET = flags.DEFINE_list("dataset", [], "Names, separated by commas; see docs/datasets.md.")
CONFIG = flags.DEFINE_string("config", "128", "Resolution, or resolution-train-val-test.")
DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the prepared datasets.")
TRAIN = flags.DEFINE_integer("train", None, "Number of training images.", lower_bound=1)
VAL = flags.DEFINE_integer("val", None, "Number of validation images.", lower_bound=1)
TEST = flags.DEFINE_integer("test", None, "Number of test images.", lower_bound=1)
VERIFY = flags.DEFINE_bool("verify", False, "Read every record and check its labels.")
SHEET = flags.DEFINE_string("contact_sheet", "", "PNG file: images and their labels in colour.")
ROWS = flags.DEFINE_integer("rows", 8, "Images on the contact sheet.", lower_bound=1)


def main() -> None:
    names = [name.strip() for name in DATASET.value]
    if not names:
        raise DataError(f"--dataset is missing; give one or more of {', '.join(DATASETS)}.")
    for name in names:
        if name not in DATASETS:
            known = ", ".join(DATASETS)
            raise DataError(f"--dataset={name!r} is not one of {known}.{nearest(name, DATASETS)}")
    counts = {"train": TRAIN.value, "val": VAL.value, "test": TEST.value}
    chosen = with_counts(plan(CONFIG.value), counts)
    for name in names:
        prepare(name, chosen.name)
        if VERIFY.value:
            check_records(name, chosen)
        if SHEET.value:
            path = pathlib.Path(SHEET.value)
            draw_sheet(name, chosen.name, path if len(names) == 1 else _renamed(path, name))


def prepare(name: str, config: str) -> None:
    """Renders and writes the dataset if it is not there."""
    from mtl_vision.data.synthetic import builders

    place, made = builders.prepare(name, config, DATA_DIR.value)
    print(f"{name}/{config}: {'prepared' if made else 'already prepared'} in {place}")


def check_records(name: str, chosen) -> None:
    """Counts, reads every record, holds labels to their ranges."""
    for split, count in chosen.counts.items():
        source = DATASETS[name].source(DATA_DIR.value, chosen.name, split, DATASETS[name].kinds)
        if len(source) != count:
            raise DataError(
                f"{name}/{chosen.name}, split {split!r}: {len(source)} records, expected {count}. "
                "Delete the folder and prepare it again."
            )
        totals, ids = {}, set()
        for i in range(count):
            example = source[i]
            verify.check_example(example, classes(name))
            totals = verify.add(totals, example)
            ids.add(example["id"])
        if len(ids) != count:
            raise DataError(f"{name}/{chosen.name}, split {split!r}: ids occur more than once.")
        print(f"{name}/{chosen.name} {split}: verified")
        print(*verify.report(totals, classes(name)), sep="\n")


def draw_sheet(name: str, config: str, path: pathlib.Path) -> None:
    """Writes the first test images with their labels, and prints what the labels hold."""
    from mtl_vision.viz import colors, panels

    kinds = DATASETS[name].kinds
    source = DATASETS[name].source(DATA_DIR.value, config, "test", kinds)
    rows, totals = [], {}
    for i in range(min(ROWS.value, len(source))):
        example = source[i]
        totals = verify.add(totals, example)
        row = [(example["id"], example["image"])]
        for kind in kinds:
            label = example[kind]
            number = len(classes(name).get(kind, ()))
            row.append((kind, colors.colorize(kind, label, known(kind, label), classes=number)))
        rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = panels.sheet(rows, side=rows[0][0][1].shape[0])
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise DataError(f"--contact_sheet={str(path)!r} cannot be written.")
    print(*verify.report(totals, classes(name)), sep="\n")
    print(f"{name}/{config}: contact sheet in {path}")


def classes(name: str) -> dict[str, tuple[str, ...]]:
    return {"semseg": SEMSEG[name], "human_parts": HUMAN_PARTS}


def known(kind: str, label: np.ndarray) -> np.ndarray:
    """Where a label holds something, bool [H, W]."""
    if kind == "normals":
        return np.any(label != 0, -1)
    return label > 0 if kind == "depth" else label != 255


def _renamed(path: pathlib.Path, name: str) -> pathlib.Path:
    return path.with_name(f"{path.stem}_{name}{path.suffix or '.png'}")


if __name__ == "__main__":
    cli.start(main)
