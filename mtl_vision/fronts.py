"""The front of a PaLoRA run: its scores at many preferences between tasks."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mtl_vision import build, rules
from mtl_vision.config import Config
from mtl_vision.errors import ConfigError
from mtl_vision.evaluate import Evaluator
from mtl_vision.models.adapters.preferences import draw, front, grid
from mtl_vision.train import setup
from mtl_vision.train.log import table, write_json
from mtl_vision.train.preferences import is_preference, placed
from mtl_vision.train.step import best_params
from mtl_vision.viz.fronts import chart


def evaluate_front(
    cfg: Config,
    workdir: pathlib.Path,
    count: int,
    *,
    step: int | None = None,
    split: str | None = None,
) -> dict[str, Any]:
    """Evaluates a run at several preferences; writes ``front.json`` and ``front.png``.

    Args:
      cfg: the run's config.
      workdir: its folder.
      count: of preferences, see `preferences`.
      step: of the checkpoint, None for the newest whole one.
      split: None for that of the config.

    Returns: ``tasks``, ``preferences`` ``[P][T]``, ``scores`` ``[P][T]`` in the units of the tasks,
      ``best`` ``[P]``, whether no other preference is better in all tasks, and ``hypervolume``,
      of the gains over the worst score of each task, each in parts of its range.

    Raises:
      ConfigError: the run's adapters have no preference.
      DataError: there is no such checkpoint.
    """
    mesh, start = setup.start(cfg)
    if not any(is_preference(path) for path in rules.flatten(start.state.stats)):
        raise ConfigError("--front: the run has no preference to choose; only palora has.")
    params, frozen, stats = best_params(setup.saved_state(workdir, start.state, step))
    tasks = [t for group in build.groups(cfg).values() for t in group]
    signs = np.array([t.sign for t in tasks])
    split = cfg.eval.split if split is None else split
    evaluator = Evaluator(cfg, mesh, start)

    def evaluate(preference: jax.Array) -> np.ndarray:
        at = jax.device_put(placed(stats, preference), start.shardings.stats)
        found = evaluator((params, frozen, at), split, final=True).metrics
        return signs * np.array([found[f"{t.name}/{t.score}"] for t in tasks])

    chosen = preferences(len(tasks), count)
    found = front(evaluate, chosen)
    names = [t.name for t in tasks]
    result = {
        "tasks": [f"{t.name}/{t.score}" for t in tasks],
        "preferences": np.asarray(chosen).tolist(),
        "scores": (signs * found["scores"]).tolist(),
        "best": found["best"].tolist(),
        "hypervolume": found["hypervolume"],
    }
    if jax.process_index() == 0:
        write_json(workdir / "front.json", result)
        Image.fromarray(chart(np.asarray(chosen), signs * found["scores"], signs, names)).save(
            workdir / "front.png"
        )
    return result


def preferences(tasks: int, count: int) -> jax.Array:
    """Returns about `count` preferences, ``[P, T]``.

    An even grid for 2 or 3 tasks. For more the corners, the centre, and draws that fill up.

    Raises:
      ConfigError: fewer than the corners and the centre, or no grid.
    """
    if tasks < 4:
        return grid(tasks, count)
    if count < tasks + 1:
        raise ConfigError(
            f"--front={count}: {tasks} tasks need {tasks + 1}, the corners and the centre."
        )
    fixed = [jnp.eye(tasks), jnp.full((1, tasks), 1 / tasks)]
    return jnp.concatenate([*fixed, draw(jax.random.key(0), tasks, count - tasks - 1)])


def report(found: dict[str, Any]) -> str:
    """Returns the table of a front: preferences, scores, and which are best."""
    short = [name.split("/")[-2] for name in found["tasks"]]
    rows = [["preference", *short, "best"]]
    for weights, scores, best in zip(
        found["preferences"], found["scores"], found["best"], strict=True
    ):
        shown = " ".join(f"{w:.2f}" for w in weights)
        rows.append([shown, *(f"{s:.3f}" for s in scores), "*" if best else ""])
    text = table(rows, right=range(1, len(short) + 1))
    return f"{text}\n\nhypervolume {found['hypervolume']:.4f} of 1"
