r"""Prepares datasets as array_record files; looks at archives and at what is prepared.

  python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config 128 --data_dir data
  python scripts/prepare_data.py --dataset nyud_v2 --archive NYUDv2.tar.gz --verify
  python scripts/prepare_data.py --dataset nyud_v2 --archive NYUDv2.tar.gz --data_dir data
  python scripts/prepare_data.py --dataset nyud_v2 --data_dir data --inspect looks

A dataset that is there already is left alone. See docs/datasets.md.
"""

import pathlib

from absl import flags

from mtl_vision import cli
from mtl_vision.data import DATASETS, REAL, real, survey
from mtl_vision.data.prepare import look
from mtl_vision.data.prepare import prepare as prepare_archive
from mtl_vision.data.scan import LAYOUTS
from mtl_vision.data.synthetic.plans import Plan, plan, with_counts
from mtl_vision.errors import DataError, nearest

DATASET = flags.DEFINE_list("dataset", [], "Names, separated by commas; see docs/datasets.md.")
ARCHIVE = flags.DEFINE_string("archive", "", "Archive or folder of a real dataset.")
PARTIAL = flags.DEFINE_bool("partial", False, "Real datasets: take what an archive has.")
CONFIG = flags.DEFINE_string("config", "128", "Synthetic: resolution, or S-train-val-test.")
DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder of the prepared datasets.")
TRAIN = flags.DEFINE_integer("train", None, "Number of training images.", lower_bound=1)
VAL = flags.DEFINE_integer("val", None, "Number of validation images.", lower_bound=1)
TEST = flags.DEFINE_integer("test", None, "Number of test images.", lower_bound=1)
VERIFY = flags.DEFINE_bool("verify", False, "Check the archive, or every prepared record.")
INSPECT = flags.DEFINE_string("inspect", "", "Folder for contact sheets and label statistics.")
ROWS = flags.DEFINE_integer("rows", 8, "Images on a contact sheet.", lower_bound=1)


def main() -> None:
    names = [name.strip() for name in DATASET.value]
    if not names:
        raise DataError(f"--dataset is missing; give one or more of {', '.join(DATASETS)}.")
    for name in names:
        if name not in DATASETS:
            known = ", ".join(DATASETS)
            raise DataError(f"--dataset={name!r} is not one of {known}.{nearest(name, DATASETS)}")
    if ARCHIVE.value and (len(names) > 1 or names[0] not in REAL):
        raise DataError(f"--archive goes with one dataset of {', '.join(REAL)}.")
    for name in names:
        from_archive(name) if name in REAL else rendered(name)


def rendered(name: str) -> None:
    """Renders and writes a synthetic dataset if it is not there."""
    from mtl_vision.data.synthetic import builders

    counts = {"train": TRAIN.value, "val": VAL.value, "test": TEST.value}
    chosen: Plan = with_counts(plan(CONFIG.value), counts)
    place, made = builders.prepare(name, chosen.name, DATA_DIR.value)
    print(f"{name}/{chosen.name}: {'prepared' if made else 'already prepared'} in {place}")
    look_at_records(name, chosen.name, chosen.counts)


def from_archive(name: str) -> None:
    """Checks an archive, or writes a real dataset from it if it is not there."""
    path, config = pathlib.Path(ARCHIVE.value).expanduser(), real.CONFIGS[PARTIAL.value]
    if ARCHIVE.value and VERIFY.value:
        verify_archive(name, path)
        return
    if ARCHIVE.value:
        place, made = prepare_archive(name, path, DATA_DIR.value, partial=PARTIAL.value)
        print(f"{name}/{config}: {'prepared' if made else 'already prepared'} in {place}")
    elif not VERIFY.value and not INSPECT.value:
        files = LAYOUTS[name].archives
        raise DataError(
            f"--archive is missing: {files}, or the folder of it; see docs/datasets.md."
        )
    look_at_records(name, config, LAYOUTS[name].counts if config == "full" else {})


def verify_archive(name: str, path: pathlib.Path) -> None:
    """Prints what an archive holds; fails if that is not the whole dataset."""
    found = look(name, path)
    print(*survey.report(found), sep="\n")
    if wrong := survey.problems(found):
        raise DataError(f"{path} is not the whole {name}:{survey.listed(wrong)}")
    print(f"{path}: whole")


def look_at_records(name: str, config: str, counts: dict[str, int]) -> None:
    """Reads every record if --verify or --inspect ask for it."""
    if not VERIFY.value and not INSPECT.value:
        return
    from scripts.inspect_data import inspect  # not needed by worker processes, and slow

    inspect(name, config, DATA_DIR.value, counts=counts, folder=INSPECT.value, rows=ROWS.value)


if __name__ == "__main__":
    cli.start(main)
