"""Photos through the models of all datasets, a batch at a time."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_vision import build, parallel, tasks
from mtl_vision.config import Config
from mtl_vision.data import photos
from mtl_vision.errors import DataError
from mtl_vision.models import mtl
from mtl_vision.predict.canvas import Canvas, canvas, uncovered
from mtl_vision.tasks import Task
from mtl_vision.train.state import Start, TrainState
from mtl_vision.train.step import best_params
from mtl_vision.viz.contact import small

Step = Callable[[jax.Array], dict[str, jax.Array]]


class Photo(NamedTuple):
    """A photo that was read: its file, (H, W), a small picture of it, and what models take."""

    path: pathlib.Path
    size: tuple[int, int]
    picture: np.ndarray
    canvases: dict[str, Canvas]


class Prediction(NamedTuple):
    """What the models say of a photo: ``{dataset/kind: [h, w, ...]}``, for `canvas.at_size`."""

    photo: Photo
    maps: dict[str, np.ndarray]


def predict_step(
    params: Any,
    frozen: Any,
    stats: Any,
    image: jax.Array,
    *,
    graphdef: Any,
    dataset: str,
    group: Sequence[Task],
) -> dict[str, jax.Array]:
    """Returns by kind what `tasks.post` gives, and of classes the scores, ``[B, H, W, ...]``."""
    out = mtl.merge(graphdef, params, frozen, stats)(image, dataset=dataset)
    return {t.kind: out[t.kind] if t.names else tasks.post(t, out[t.kind]) for t in group}


def steps(
    mesh: jax.sharding.Mesh, start: Start, state: TrainState, groups: build.Groups
) -> dict[str, Step]:
    """Returns ``{dataset: image [B, H, W, 3] -> predictions}``, compiled at the first call."""
    rows, where = parallel.batch_sharding(mesh), start.shardings
    made = {}
    for name, group in groups.items():
        step = jax.jit(
            functools.partial(predict_step, graphdef=start.graphdef, dataset=name, group=group),
            in_shardings=(where.trainable, where.frozen, where.stats, rows),
            out_shardings=rows,
            compiler_options=parallel.compiler_options(mesh),
        )
        made[name] = functools.partial(step, *best_params(state))
    return made


class Reader(NamedTuple):
    """How photos become what the models take.

    protocol: of the config.
    sizes: (H, W) of the model by dataset.
    batch: photos that go through a model together.
    threads: photos decoded at once.
    """

    protocol: str
    sizes: Mapping[str, tuple[int, int]]
    batch: int
    threads: int = 1

    def read(self, path: pathlib.Path) -> Photo | DataError:
        """Returns the photo, or why it cannot be read."""
        try:
            photo = photos.read(path)
        except DataError as e:
            return e
        made = {name: canvas(photo, self.protocol, size) for name, size in self.sizes.items()}
        return Photo(path, photo.shape[:2], small(photo), made)

    def batches(
        self, paths: Sequence[pathlib.Path], failed: dict[pathlib.Path, str]
    ) -> Iterator[list[Photo]]:
        """Yields the photos; notes in `failed` what is wrong with the others."""
        with ThreadPoolExecutor(self.threads) as pool:
            for i in range(0, len(paths), self.batch):
                part = paths[i : i + self.batch]
                found = dict(zip(part, pool.map(self.read, part), strict=True))
                failed.update({p: str(e) for p, e in found.items() if isinstance(e, DataError)})
                if good := [p for p in found.values() if isinstance(p, Photo)]:
                    yield good


def reader(cfg: Config, mesh: jax.sharding.Mesh, names: Sequence[str], count: int) -> Reader:
    """Returns the reader of `count` photos for the datasets `names`.

    The batch is that of the evaluation, or the least that the devices divide and holds all photos.
    """
    unit = parallel.ways(mesh, parallel.BATCH[0])
    batch = min(cfg.eval.batch, -(-count // unit) * unit)
    sizes = {name: cfg.datasets[name].size for name in names}
    return Reader(cfg.protocol, sizes, batch, max(cfg.input.workers, 1))


def predictions(
    made: Mapping[str, Step],
    groups: build.Groups,
    source: Reader,
    paths: Sequence[pathlib.Path],
    failed: dict[pathlib.Path, str],
) -> Iterator[Prediction]:
    """Yields what the models say of every photo that can be read, in order.

    Args:
      made: of `steps`.
      groups: tasks by dataset.
      source: of the photos.
      paths: their files.
      failed: gets what is wrong with the others.
    """
    for batch in source.batches(paths, failed):
        found = {name: _run(step, batch, name, source.batch) for name, step in made.items()}
        for b, photo in enumerate(batch):
            maps = {
                task.name: uncovered(found[name][task.kind][b], photo.canvases[name].shape)
                for name, group in groups.items()
                for task in group
            }
            yield Prediction(photo, maps)


def _run(step: Step, batch: Sequence[Photo], name: str, rows: int) -> dict[str, np.ndarray]:
    images = [photo.canvases[name].image for photo in batch]
    images += [np.zeros_like(images[0])] * (rows - len(images))
    return jax.device_get(step(np.stack(images)))
