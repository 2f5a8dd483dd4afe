"""SynthScenes as tfds datasets, written as array_record files."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging as absl_logging

from mtl_vision.data import records
from mtl_vision.data.synthetic.labels import KINDS, SEMSEG
from mtl_vision.data.synthetic.plans import NAMED, Plan, plan
from mtl_vision.data.synthetic.source import SceneSource, render_all

VERSION = "1.0.0"


@dataclasses.dataclass(eq=False)
class SceneConfig(tfds.core.BuilderConfig):
    """A `Plan` as tfds wants it."""

    plan: Plan | None = None


@functools.cache  # tfds takes a configuration of a listed name only if it is the listed object
def config(name: str) -> SceneConfig:
    """The configuration of a plan's name; see `plans.plan`."""
    chosen = plan(name)
    return SceneConfig(name=chosen.name, version=VERSION, plan=chosen)


CONFIGS = [config(name) for name in (*NAMED, "128", "224", "448", "512")]


def _info(builder: Any) -> tfds.core.DatasetInfo:
    classes = ", ".join(SEMSEG[builder.name])
    return tfds.core.DatasetInfo(
        builder=builder,
        description=f"SynthScenes, domain {builder.name}. semseg classes: {classes}.",
        features=records.features(KINDS[builder.name]),
    )


def _split(builder: Any, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    name, chosen = builder.name, builder.builder_config.plan
    size, count = chosen.sizes[name], chosen.counts[split]
    source = SceneSource(name, split, count, size, KINDS[name])
    for example in render_all(source, encode=True):
        yield example["id"], example


class SynthPascal(tfds.core.GeneratorBasedBuilder):
    """The outdoor domain."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = CONFIGS

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {s: self._generate_examples(s) for s in self.builder_config.plan.counts}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        return _split(self, split)


class SynthNyud(tfds.core.GeneratorBasedBuilder):
    """The indoor domain."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = CONFIGS

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {s: self._generate_examples(s) for s in self.builder_config.plan.counts}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        return _split(self, split)


BUILDERS = {"synth_pascal": SynthPascal, "synth_nyud": SynthNyud}


def prepare(domain: str, name: str, root: str | os.PathLike) -> tuple[pathlib.Path, bool]:
    """Renders and writes all splits of a configuration, unless it is there.

    tfds writes to a folder of another name and renames it in the end, so a preparation that was
    interrupted leaves nothing that looks complete.

    Returns: the folder, and whether it was made now.
    """
    tfds.disable_progress_bar()
    absl_logging.set_verbosity(absl_logging.ERROR)  # it warns that the config is a custom one
    builder = BUILDERS[domain](
        config=config(name), data_dir=os.path.expanduser(root), file_format="array_record"
    )
    place = pathlib.Path(builder.data_dir)
    if (place / "dataset_info.json").exists():
        return place, False
    with contextlib.redirect_stdout(None), tempfile.TemporaryDirectory() as downloads:
        builder.download_and_prepare(download_dir=downloads)
    return place, True
