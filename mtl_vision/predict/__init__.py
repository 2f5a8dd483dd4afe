"""Any run, or weights in a file, on one's own photos."""

import pathlib
from collections.abc import Callable, Sequence

from mtl_vision import build
from mtl_vision.config import Config
from mtl_vision.data import photos
from mtl_vision.errors import DataError, lookup
from mtl_vision.predict.album import Album
from mtl_vision.predict.run import predictions, reader, steps
from mtl_vision.train import setup, weights
from mtl_vision.train.state import Start, TrainState


def predict(
    cfg: Config,
    source: pathlib.Path,
    places: Sequence[str],
    out: pathlib.Path,
    *,
    dataset: str | None = None,
    step: int | None = None,
    say: Callable[[str], None],
) -> None:
    """Writes an album of what a model says of photos.

    Args:
      cfg: of the model.
      source: run folder, or file of weights; see `train.weights.load`.
      places: folders, files and patterns of photos.
      out: folder to write; see `album.Album`.
      dataset: whose tasks; None for all.
      step: of the run's checkpoint, None for the newest whole one.
      say: told what was done.

    Raises:
      ConfigError: an unknown dataset.
      DataError: no photos, a folder with files of others, weights that cannot be loaded; and, after
        all others are done, photos that cannot be read, each named.
    """
    paths, passed = photos.find(places)
    groups = build.groups(cfg)
    if dataset is not None:
        groups = {dataset: lookup(groups, dataset, "data")}
    album = Album(out, groups, paths)
    if passed:
        say(f"Passed over {len(passed)} files that are no photos, such as {passed[0].name}")
    mesh, start = setup.start(cfg)
    state = loaded(cfg, source, start, step)
    made = steps(mesh, start, state, groups)
    failed: dict[pathlib.Path, str] = {}
    for found in predictions(
        made, groups, reader(cfg, mesh, list(groups), len(paths)), paths, failed
    ):
        album.add(found)
        say(f"{found.photo.path}")
    done = len(paths) - len(failed)
    title = f"{source.name}, step {int(state.step)}: {done} photos"
    about = {"weights": str(source), "step": int(state.step), "protocol": cfg.protocol}
    album.finish(title, failed, about)
    say(f"{out}: {done} photos, {len(album.tasks)} tasks")
    if failed:
        raise DataError(
            f"{len(failed)} of {len(paths)} photos could not be read: {' '.join(failed.values())}"
        )


def loaded(cfg: Config, source: pathlib.Path, start: Start, step: int | None) -> TrainState:
    """Returns the state of a run's checkpoint, or with the weights of a file."""
    if source.is_dir():
        return setup.saved_state(source, start.state, step)
    state = setup.initial_state(cfg, start, say=lambda line: None)
    return weights.load(source, state, build.tasks(cfg))
