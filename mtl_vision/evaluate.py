"""One state, one split: the metrics of every task, and what they look like."""

import contextlib
import pathlib
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from mtl_vision import build, hosts, metrics, parallel, predictions, tasks
from mtl_vision.config import Config
from mtl_vision.metrics import boundary
from mtl_vision.models import mtl, watch
from mtl_vision.results import Result, write_result
from mtl_vision.tasks import Task
from mtl_vision.train import setup, weights
from mtl_vision.train.state import Start
from mtl_vision.train.step import best_params, compact, jit_eval_step
from mtl_vision.viz import panels
from mtl_vision.viz.gates import gate_map


class Evaluator:
    """Evaluates states of one run; each dataset's step compiles once."""

    def __init__(
        self,
        cfg: Config,
        mesh: jax.sharding.Mesh,
        start: Start,
        *,
        save: pathlib.Path | None = None,
    ):
        """Takes what `build` made of `cfg`; compiles nothing yet.

        With `save` the predictions of every image are written there; see `predictions`.
        """
        self.cfg, self.mesh, self.groups = cfg, mesh, build.groups(cfg)
        self.save = save
        state = start.state
        model = mtl.merge(start.graphdef, state.trainable, state.frozen, state.stats)
        self.entries = watch.entries(model)
        self.steps = {
            name: jit_eval_step(
                mesh,
                start.shardings,
                graphdef=start.graphdef,
                dataset=name,
                group=group,
                predict=tasks.post if save else compact,
            )
            for name, group in self.groups.items()
        }
        self.constants = {name: jit_constant(mesh, group) for name, group in self.groups.items()}

    def __call__(
        self,
        params: tuple,
        split: str,
        *,
        limit: int = 0,
        final: bool = False,
        draw: int = 0,
        tick: Callable[[], None] = lambda: None,
    ) -> Result:
        """Evaluates all datasets; several processes get the same figures.

        Args:
          params: from `train.step.best_params`.
          split: ``""`` takes the split that each dataset's papers report.
          limit: images per dataset, 0 for all.
          final: adds odsF and the best constant predictions.
          draw: images per dataset to draw; the first process draws them.
          tick: called after every batch.
        """
        result = Result({}, {}, {}, {}, {}, {})
        draw = draw if hosts.first() else 0
        for name in self.groups:
            self._dataset(name, params, result, split, limit, final, draw, tick)
        return result

    def _dataset(self, name, params, result, split, limit, final, draw, tick):
        group, save = self.groups[name], self.save
        totals, flat = ({task.kind: {} for task in group} for _ in range(2))
        drawn, images, taken = [], 0, {}
        with contextlib.ExitStack() as stack:
            edges = [
                stack.enter_context(Edges(task, self.cfg.eval.workers))
                for task in group
                if final and task.kind == "edge"
            ]
            files = save and stack.enter_context(self._writer(name))
            batches = self._batches(name, params, split, limit, final)
            for host, info, sums, gates, constants, preds in batches:
                if files:
                    files.add(info, preds)
                    preds = {kind: small(kind, value) for kind, value in preds.items()}
                totals = {kind: metrics.add(t, sums[kind]) for kind, t in totals.items()}
                if final:
                    flat = {kind: metrics.add(t, constants[kind]) for kind, t in flat.items()}
                taken = {part: metrics.add(taken.get(part, {}), s) for part, s in gates.items()}
                for matcher in edges:
                    matcher.add(host, preds["edge"])
                drawn += pictures(host, preds, group, draw - images)
                images += int(host["valid"].sum())
                tick()
            for task in group:
                put(result.metrics, task.name, task.metric.finish(totals[task.kind]))
                if final and task.constant:
                    put(result.constant, task.name, task.constant.finish(flat[task.kind]))
            for matcher in edges:
                matcher.finish(result)
        images = int(hosts.together(np.array([images])).sum())
        result.images[name] = images
        if drawn:
            result.drawn[name] = drawn
        for part, totals in taken.items():
            for what, total in totals.items():
                put_gates(result, f"{what}/{part}/{name}", total / images, group)
                if draw:
                    draw_gates(result, f"{what}/{part}/{name}", self.entries.get(part))

    def _writer(self, name):
        kinds, first = [task.kind for task in self.groups[name]], hosts.first()
        return predictions.Writer(self.save, name, kinds, protocol=self.cfg.protocol, fresh=first)

    def _batches(self, name, params, split, limit, final) -> Iterator[tuple]:
        """Yields (host batch, ids and sizes, sums, gates, constants' sums, predictions).

        One batch behind the device.
        """
        waiting = None
        for host, info in build.eval_batches(self.cfg, name, split, limit):
            batch = parallel.to_global(host, self.mesh)
            sums, preds, gates = self.steps[name](*params, batch)
            constants = self.constants[name](batch) if final else {}
            now = host, info, sums, gates, constants, preds
            if waiting:
                yield fetched(*waiting)
            waiting = now
        if waiting:
            yield fetched(*waiting)


def fetched(host: Any, info: Any, *sums_and_preds: Any) -> tuple:
    """Returns the arguments with numpy arrays for all sums and this host's predictions."""
    *sums, preds = sums_and_preds
    return host, info, *jax.device_get(sums), jax.tree.map(parallel.local_rows, preds)


class Edges:
    """Matches predicted with true edges in other processes while the device goes on.

    Beside every prediction stands the constant one, edges everywhere.
    """

    def __init__(self, task: Task, workers: int):
        """Matches for `task` in `workers` processes, 0 for none."""
        self.task = task
        self.pairs: queue.Queue = queue.Queue(maxsize=64)
        self.pool = ThreadPoolExecutor(1)
        self.counts = self.pool.submit(
            boundary.evaluate, iter(self.pairs.get, None), workers=workers, max_dist=task.max_dist
        )

    def add(self, host: Any, probability: np.ndarray) -> None:
        """Adds the valid rows of a batch; `probability` is uint8 ``[B, H, W]``."""
        for b in np.flatnonzero(host["valid"]):
            truth, mask = host["labels"]["edge"][b], host["masks"]["edge"][b]
            for shown in (probability[b], None):
                self._put((shown, truth, mask))

    def _put(self, pair: Any) -> None:
        while not self.counts.done():
            try:
                return self.pairs.put(pair, timeout=0.1)
            except queue.Full:
                continue

    def finish(self, result: Result) -> None:
        """Waits for all, and adds the scores over the images of all processes."""
        self._put(None)
        counts = self.counts.result()
        for scores, own in ((result.metrics, counts[0::2]), (result.constant, counts[1::2])):
            put(scores, self.task.name, boundary.ods(hosts.together(own)))

    def __enter__(self) -> "Edges":
        return self

    def __exit__(self, *error: object) -> None:
        self._put(None)
        self.pool.shutdown()


def pictures(host: Any, preds: Any, group: Sequence[Task], count: int) -> list:
    """Returns the pictures of the first `count` images of a batch, as far as it has them."""
    found = []
    classes = {task.kind: task.channels for task in group}
    for b in range(min(max(count, 0), int(host["valid"].sum()))):
        shown = {task.kind: readable(task.kind, preds[task.kind][b]) for task in group}
        labels, masks = ({k: x[b] for k, x in host[part].items()} for part in ("labels", "masks"))
        found.append(panels.pictures(host["image"][b], shown, labels, masks, classes))
    return found


def small(kind: str, value: np.ndarray) -> np.ndarray:
    """Returns what `tasks.post` gave as `train.step.compact` would have."""
    return (255 * value).astype(np.uint8) if kind in ("edge", "sal") else value


def readable(kind: str, value: np.ndarray) -> np.ndarray:
    """Undoes what `train.step.compact` did to save bytes."""
    return value / np.float32(255) if kind in ("edge", "sal") else value


def put(table: dict[str, float], name: str, values: Mapping[str, float]) -> None:
    """Adds ``{key: value}`` of one task under ``name/key``."""
    table.update({f"{name}/{key}": float(value) for key, value in values.items()})


def put_gates(result: Result, where: str, means: np.ndarray, group: Sequence[Task]) -> None:
    """Adds gates ``[T, L, n]`` of a dataset's tasks, or ``[1, L, n]`` of all of them together."""
    kinds = [task.kind for task in group]
    owners = kinds if len(means) == len(kinds) else ["all tasks"]
    result.gates.update({f"{where}/{k}": x for k, x in zip(owners, means, strict=True)})


def draw_gates(result: Result, where: str, entries: Sequence[str] | None) -> None:
    """Draws what `put_gates` added; `entries` are the n names, None for experts."""
    means = {k.rpartition("/")[2]: x for k, x in result.gates.items() if k.startswith(f"{where}/")}
    picture = gate_map(np.stack(list(means.values())), list(means), entries)
    result.maps[where.replace("/", "_")] = picture


def jit_constant(mesh: jax.sharding.Mesh, group: Sequence[Task]) -> Callable[..., Any]:
    """Compiles the sums behind the best constant predictions of a dataset's tasks."""

    def sums(batch):
        labels, masks = batch["labels"], batch["masks"]
        return {
            t.kind: t.constant.sums(labels[t.kind], masks[t.kind], batch["valid"])
            if t.constant
            else {}
            for t in group
        }

    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(sums, out_shardings=replicated)


def evaluate_run(
    cfg: Config,
    workdir: pathlib.Path,
    *,
    step: int | None = None,
    split: str | None = None,
    save: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run on the devices there are.

    Args:
      cfg: the run's config.
      workdir: its folder.
      step: of the checkpoint, None for the newest whole one.
      split: None for that of the config.
      save: folder for the predictions of every image, see `predictions`; None keeps none.

    Returns: what ``final_metrics.json`` holds, which is written for the newest checkpoint and the
      config's split, else ``step<step>_<split>_metrics.json``.

    Raises:
      DataError: there is no such checkpoint, or it is damaged or of another model.
    """
    mesh, start = setup.start(cfg)
    state = setup.saved_state(workdir, start.state, step)
    split_ = cfg.eval.split if split is None else split
    result = Evaluator(cfg, mesh, start, save=save)(
        best_params(state), split_, final=True, draw=cfg.run.panels
    )
    name = "final" if step is None and split is None else f"step{int(state.step)}_{split_}"
    return write_result(workdir, cfg, int(state.step), split_, result, name)


def evaluate_file(
    cfg: Config,
    path: pathlib.Path,
    workdir: pathlib.Path,
    *,
    split: str | None = None,
    save: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Evaluates the weights in a file; see `train.weights.load`.

    Args:
      cfg: of the model they belong to.
      path: the file.
      workdir: where ``final_metrics.json`` goes.
      split: None for that of the config.
      save: as in `evaluate_run`.

    Raises:
      DataError: the file cannot be read or does not fit the model.
    """
    mesh, start = setup.start(cfg)
    state = setup.initial_state(cfg, start, say=lambda line: None)
    state = weights.load(path, state, build.tasks(cfg))
    split_ = cfg.eval.split if split is None else split
    result = Evaluator(cfg, mesh, start, save=save)(
        best_params(state), split_, final=True, draw=cfg.run.panels
    )
    workdir.mkdir(parents=True, exist_ok=True)
    return write_result(workdir, cfg, int(state.step), split_, result, "final")
