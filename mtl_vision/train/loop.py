"""The training loop: batches in, steps, logs, checkpoints, a final evaluation."""

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mtl_vision import build, parallel
from mtl_vision.config import Config
from mtl_vision.data.pipeline import to_device
from mtl_vision.errors import ConfigError, RunError
from mtl_vision.evaluate import Evaluator
from mtl_vision.optim.conflict import broken, cosines, figures
from mtl_vision.results import write_result
from mtl_vision.train import setup
from mtl_vision.train.log import Log, Progress
from mtl_vision.train.step import best_params
from mtl_vision.viz.conflicts import heat_map
from mtl_vision.viz.panels import prediction_sheet


def train(cfg: Config, workdir: pathlib.Path, say: setup.Say = logging.info) -> dict[str, Any]:
    """Trains from the newest whole checkpoint of `workdir`, or from the start, to the end.

    Args:
      cfg: the checked config.
      workdir: the run folder; see `train.folder.claim`.
      say: takes lines for the console.

    Returns: what ``final_metrics.json`` holds.

    Raises:
      RunError: a loss or gradient is not finite; the newest checkpoint is from before it.
      DataError: data or checkpoints are missing, damaged or of another model.
    """
    for name in cfg.datasets:
        build.source(cfg, name, "train")  # what is missing is said before a model is built
    mesh, start = setup.start(cfg)
    evaluator = Evaluator(cfg, mesh, start)
    with setup.checkpoints(cfg, workdir) as checkpoints:
        state = setup.first_state(cfg, checkpoints, start, say)
        first = int(state.step)
        log = Log(workdir, step=first, active=jax.process_index() == 0)
        try:
            state = steps(cfg, mesh, start, state, evaluator, checkpoints, log)
        finally:
            log.close()
    say("Evaluating" + (f" on {cfg.eval.split}" if cfg.eval.split else ""))
    result = evaluator(best_params(state), cfg.eval.split, final=True, draw=cfg.run.panels)
    return write_result(workdir, cfg, int(state.step), cfg.eval.split, result, "final")


def steps(cfg, mesh, start, state, evaluator, checkpoints, log) -> Any:
    """Runs from the state's step to the last; returns the last state."""
    first, last, run = int(state.step), cfg.run.steps, cfg.run
    train_step = setup.train_step(cfg, mesh, start)
    progress = Progress(steps=last, start=first, images=build.images_per_step(cfg))
    batches = to_device(build.train_batches(cfg, first), parallel.batch_sharding(mesh))
    seen: list[Any] = []
    names = build.tasks(cfg)
    try:
        for step in range(first + 1, last + 1):
            state, metrics = train_step(state, next(batches))
            seen.append(metrics)
            rhythm = (run.eval_every, run.save_every, run.conflicts_every)
            due = [every and step % every == 0 for every in rhythm]
            if step % run.log_every == 0 or any(due) or step == last:
                values, found, here = summary(seen, step, names)
                values |= look_at_tasks(found, here, step, log, picture=bool(due[2]))
                seen = []
                losses = {k.removeprefix("loss/"): v for k, v in values.items() if "loss/" in k}
                values["images_per_second"] = progress.show(step, losses)
                log.scalars(step, values)
            score = look(cfg, evaluator, state, step, log) if due[0] else None
            if due[1] or step == last or (due[0] and run.best):
                checkpoints.save(state, score=score)
    finally:
        batches.close()
    return state


def summary(
    seen: Sequence[Any], step: int, tasks: Sequence[str]
) -> tuple[dict[str, float], dict[str, np.ndarray], list[str]]:
    """Returns the means of the steps' scalars since the last look, and the last step's arrays.

    Where datasets take turns, a scalar is the mean over the steps that have it.

    Raises:
      RunError: one of the steps was not finite.
    """
    host = jax.device_get(list(seen))
    arrays = [{k: m.pop(k) for k in list(m) if np.ndim(m[k])} for m in host]
    for i, metrics in enumerate(host):
        if not metrics["finite"]:
            bad = [k for k, v in metrics.items() if k != "finite" and not np.isfinite(v)]
            bad += [f"gradient of {task}" for task in broken(arrays[i], present(metrics, tasks))]
            raise RunError(
                f"step {step - len(host) + 1 + i} is not finite ({', '.join(bad)}). The state "
                f"before it is kept in the newest checkpoint. Lower config.optim.lr, set "
                f"config.optim.clip_norm, or look at the data."
            )
    names = dict.fromkeys(name for m in host for name in m if name != "finite")
    values = {name: float(np.mean([m[name] for m in host if name in m])) for name in names}
    return values, arrays[-1], present(host[-1], tasks)


def present(metrics: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    """Returns the tasks of a step."""
    return [task for task in tasks if f"loss/{task}" in metrics]


def look_at_tasks(
    found: dict[str, np.ndarray], tasks: Sequence[str], step: int, log: Log, *, picture: bool
) -> dict[str, float]:
    """Returns scalars of the tasks' weights; with `picture` of their gradients too, and draws."""
    if not picture:
        return figures({k: v for k, v in found.items() if k != "tasks/gram"}, tasks)
    values = figures(found, tasks)
    norms = np.array([values[f"tasks/norm/{task}"] for task in tasks])
    drawn = heat_map(cosines(found["tasks/gram"]), tasks, norms, found["tasks/weight"])
    log.picture(step, "conflicts", drawn)
    return values


def look(cfg, evaluator, state, step, log) -> float | None:
    """Evaluates during training; returns what ranks the checkpoint, more being better."""
    result = evaluator(
        best_params(state), cfg.eval.monitor, limit=cfg.eval.limit, draw=cfg.run.panels
    )
    scores = {f"eval/{name}": value for name, value in result.metrics.items()}
    log.scalars(step, scores | result.gates)
    sheets = {name: prediction_sheet(images) for name, images in result.drawn.items()}
    for name, picture in (result.maps | sheets).items():
        log.picture(step, name, picture)
    if not cfg.run.best:
        return None
    if cfg.run.best not in result.metrics:
        raise ConfigError(
            f"config.run.best={cfg.run.best!r} is not among {', '.join(result.metrics)}."
        )
    task = cfg.run.best.rpartition("/")[0]
    signs = {t.name: t.sign for group in evaluator.groups.values() for t in group}
    return signs[task] * result.metrics[cfg.run.best]
