"""PASCAL-Context and NYUD-v2 as tfds datasets, written as array_record files from a staging file.

The records are in the order of the published lists.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import tensorflow_datasets as tfds

from mtl_vision.data import records, staging
from mtl_vision.data.scan import LAYOUTS
from mtl_vision.data.workers import parallel
from mtl_vision.errors import DataError

VERSION = "1.0.0"
INSTRUCTIONS = "Give the archive to scripts/prepare_data.py; see docs/datasets.md."


@dataclasses.dataclass(eq=False)
class StagedConfig(tfds.core.BuilderConfig):
    """What to write: the staging file, the ids of every split, the labels, what to note down."""

    staged: str = ""
    ids: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    kinds: Sequence[str] = ()
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    processes: int | None = None
    quiet: bool = False


def _info(builder: Any) -> tfds.core.DatasetInfo:
    chosen = builder.builder_config
    return tfds.core.DatasetInfo(
        builder=builder,
        description=f"{builder.name} with {', '.join(chosen.kinds)}; see docs/datasets.md.",
        features=records.features(chosen.kinds, coded=True),
        metadata=tfds.core.MetadataDict(chosen.metadata),
        disable_shuffling=True,
    )


def _split(builder: Any, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    from tqdm import tqdm

    chosen = builder.builder_config
    one = partial(join, builder.name, pathlib.Path(chosen.staged), tuple(chosen.kinds))
    found = parallel(one, chosen.ids[split], label=str, processes=chosen.processes)
    label, count = f"writing {builder.name} {split}", len(chosen.ids[split])
    bar = tqdm(found, desc=label, total=count, unit="image", disable=chosen.quiet)
    yield from enumerate(bar)


def join(
    dataset: str, staged: pathlib.Path, kinds: Sequence[str], id_: str
) -> dict[str, str | bytes]:
    """The record of one image, from the staging file."""
    try:
        return {"id": id_} | LAYOUTS[dataset].join(staging.read(staged, id_), kinds)
    except DataError as error:
        raise DataError(f"{dataset}: image {id_}: {error}.") from error


class PascalContext(tfds.core.GeneratorBasedBuilder):
    """See `pascal_context`."""

    VERSION = tfds.core.Version(VERSION)
    MANUAL_DOWNLOAD_INSTRUCTIONS = INSTRUCTIONS

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {s: self._generate_examples(s) for s in self.builder_config.ids}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        return _split(self, split)


class NyudV2(tfds.core.GeneratorBasedBuilder):
    """See `nyud_v2`."""

    VERSION = tfds.core.Version(VERSION)
    MANUAL_DOWNLOAD_INSTRUCTIONS = INSTRUCTIONS

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {s: self._generate_examples(s) for s in self.builder_config.ids}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        return _split(self, split)


BUILDERS = {"pascal_context": PascalContext, "nyud_v2": NyudV2}
