"""The training loop: batches in, steps, logs, checkpoints, a final evaluation."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_vision import build, hosts, optim, parallel
from mtl_vision.config import Config
from mtl_vision.data.pipeline import to_device
from mtl_vision.errors import ConfigError, DataError, Requeue
from mtl_vision.evaluate import Evaluator
from mtl_vision.optim.conflict import broken, cosines, figures
from mtl_vision.results import write_result
from mtl_vision.train import checkpoint, plan, setup, survive
from mtl_vision.train.log import Log, Progress
from mtl_vision.train.state import abstract
from mtl_vision.train.step import best_params
from mtl_vision.train.survive import NotFinite, Signals
from mtl_vision.viz.conflicts import heat_map
from mtl_vision.viz.panels import prediction_sheet
from mtl_vision.watchdog import Watchdog


class Guard(NamedTuple):
    """What watches over a run: is it asked to stop, does it stand still."""

    signals: Signals
    watchdog: Watchdog

    def tick(self) -> None:
        """To be called where the state is saved; raises Requeue if the run is asked to stop."""
        self.watchdog.beat()
        if self.signals.asked():
            raise Requeue("Asked to stop. The state is saved: start the same command again.")


def train(cfg: Config, workdir: pathlib.Path, say: setup.Say = logging.info) -> dict[str, Any]:
    """Trains from the newest whole checkpoint of `workdir`, or from the start, to the end.

    Args:
      cfg: the checked config.
      workdir: the run folder; see `train.folder.claim`.
      say: takes lines for the console.

    Returns: what ``final_metrics.json`` holds.

    Raises:
      RunError: steps are not finite, and the config does not say to go on; the newest checkpoint is
        from before them.
      DataError: data or checkpoints are missing, damaged or of another model, or the run folder
        cannot be written.
      Requeue: the run got SIGTERM or SIGUSR1, and has saved.
    """
    for name in cfg.datasets:
        build.source(cfg, name, "train")  # what is missing is said before a model is built
    mesh, start = setup.start(cfg)
    if mesh.size > 1:
        say(plan.placement(start))
    evaluator = Evaluator(cfg, mesh, start)
    still = "no step has ended"
    leave = (lambda: hosts.leave(hosts.REQUEUE)) if jax.process_count() > 1 else None
    with Signals() as signals, Watchdog(cfg.run.stall, still, leave) as watchdog, writing(workdir):
        guard = Guard(signals, watchdog)
        with setup.checkpoints(cfg, workdir) as checkpoints:
            state = setup.first_state(cfg, checkpoints, start, say)
            state = to_the_end(cfg, workdir, start, state, evaluator, checkpoints, guard, say)
        say("Evaluating" + (f" on {cfg.eval.split}" if cfg.eval.split else ""))
        result = evaluator(
            best_params(state), cfg.eval.split, final=True, draw=cfg.run.panels, tick=guard.tick
        )
        return write_result(workdir, cfg, int(state.step), cfg.eval.split, result, "final")


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Iterator[None]:
    """Says what to do where the run folder cannot be written."""
    try:
        yield
    except OSError as e:
        if hosts.lost(e):
            raise
        raise DataError(
            f"{e.filename or workdir} cannot be used: {e.strerror or e}. Mend that and start the "
            f"same command again to go on from the newest checkpoint."
        ) from e


def to_the_end(cfg, workdir, start, state, evaluator, checkpoints, guard, say) -> Any:
    """Runs all steps, going back to a checkpoint where the config says so; returns the state."""
    back = cfg.run.not_finite == "roll_back"
    like = abstract(state)
    if back and not checkpoint.steps(checkpoints.folder):
        checkpoints.save(state)
    train_step = setup.train_step(cfg, start.shardings.step.mesh, start)
    while True:
        first = int(state.step)
        batch = survive.next_batch(workdir, first)
        log = Log(workdir, step=first, active=hosts.first())
        try:
            return steps(cfg, train_step, state, batch, evaluator, checkpoints, log, guard)
        except NotFinite as e:
            if not back:
                raise
            checkpoints.wait()
            state = checkpoints.restore(like)
            survive.note_rollback(workdir, int(state.step), batch - first + e.step, e)
            say(f"{e} Going back to step {int(state.step)}.")
        finally:
            log.close()


def steps(cfg, train_step, state, batch, evaluator, checkpoints, log, guard) -> Any:
    """Runs from the state's step, with batch number `batch`, to the last; returns the state."""
    first, last, run = int(state.step), cfg.run.steps, cfg.run
    images = build.images_per_step(cfg)
    progress = Progress(steps=last, start=first, images=images, active=log.active)
    rows = parallel.batch_sharding(state.step.sharding.mesh)
    batches = to_device(build.train_batches(cfg, batch), rows)
    seen, skipped, names = [], 0, build.tasks(cfg)
    try:
        for step in range(first + 1, last + 1):
            state, metrics = train_step(state, next(batches))
            seen.append(metrics)
            checkpoints.check()
            rhythm = (run.eval_every, run.save_every, run.conflicts_every)
            due = [every and step % every == 0 for every in rhythm]
            if step % run.log_every == 0 or any(due) or step == last:
                values, found, finite = summary(seen, step, names, skip=run.not_finite == "skip")
                here = present(seen[-1], names)
                values |= look_at_tasks(found, here, step, log, picture=bool(due[2]))
                seen, skipped = [], survive.in_a_row(finite, skipped)
                if run.not_finite == "skip":
                    values["skipped"] = step - int(optim.updates_done(state.opt))
                losses = {k.removeprefix("loss/"): v for k, v in values.items() if "loss/" in k}
                values["images_per_second"] = progress.show(step, losses)
                log.scalars(step, values)
            score = look(cfg, evaluator, state, step, log, guard.watchdog) if due[0] else None
            if due[1] or step == last or (due[0] and run.best):
                checkpoints.save(state, score=score)
            guard.watchdog.beat()
            if guard.signals.asked():
                if seen:  # a step that is not finite must not be behind what is saved
                    summary(seen, step, names, skip=run.not_finite == "skip")
                checkpoints.save(state)
                checkpoints.wait()
                raise Requeue(f"Asked to stop. Step {step} is saved: start the same command again.")
    finally:
        batches.close()
    return state


def summary(
    seen: Sequence[Any], step: int, tasks: Sequence[str], *, skip: bool
) -> tuple[dict[str, float], dict[str, np.ndarray], list[bool]]:
    """Looks at the steps since the last look.

    Returns: the means of their scalars, each over the finite steps that have it, for datasets may
      take turns; the arrays of the last step, if that is finite; and which steps are finite.

    Raises:
      NotFinite: one of them is not, and they are not to be skipped.
    """
    host = jax.device_get(list(seen))
    arrays = [{k: m.pop(k) for k in list(m) if np.ndim(m[k])} for m in host]
    finite = [bool(metrics["finite"]) for metrics in host]
    if not (skip or all(finite)):
        i = finite.index(False)
        bad = [k for k, v in host[i].items() if k != "finite" and not np.isfinite(v)]
        bad += [f"gradient of {task}" for task in broken(arrays[i], present(host[i], tasks))]
        at = step - len(host) + 1 + i
        raise NotFinite(
            at,
            f"step {at} is not finite ({', '.join(bad)}). The state before it is kept in the "
            f"newest checkpoint. Lower config.optim.lr, set config.optim.clip_norm, or look at "
            f"the data.",
        )
    kept = [metrics for metrics, one in zip(host, finite, strict=True) if one]
    names = dict.fromkeys(name for m in kept for name in m if name != "finite")
    means = {name: float(np.mean([m[name] for m in kept if name in m])) for name in names}
    return means, arrays[-1] if finite[-1] else {}, finite


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


def look(cfg, evaluator, state, step, log, watchdog) -> float | None:
    """Evaluates during training; returns what ranks the checkpoint, more being better."""
    result = evaluator(
        best_params(state),
        cfg.eval.monitor,
        limit=cfg.eval.limit,
        draw=cfg.run.panels,
        tick=watchdog.beat,
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
