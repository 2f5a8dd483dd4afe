"""One training step and one evaluation step, as pure functions."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mtl_vision import losses, optim, parallel, rules, tasks
from mtl_vision.models import mtl, watch
from mtl_vision.tasks import Task
from mtl_vision.train.gradients import (
    LOSSES,
    PENALTIES,
    PENALTY,
    PLAIN,
    Gradients,
    Part,
    penalty,
)
from mtl_vision.train.preferences import drawn, placed, preferred
from mtl_vision.train.state import TrainState

Tree = Any
Batch = Mapping[str, Mapping[str, Any]]
Tasks = Mapping[str, Sequence[Task]]


def parts_of(
    params: Tree, batch: Batch, key: jax.Array, *, graphdef: Any, frozen: Tree, groups: Tasks
) -> list[Part]:
    """Cuts a batch by dataset; every dataset runs its own tasks only.

    Args:
      params: the trained parameters.
      batch: ``{dataset: {image, labels, masks}}``.
      key: split over the datasets.
      graphdef: the model's structure.
      frozen: the other parameters.
      groups: tasks by dataset, with the loss weights to use.

    Returns: one `Part` per dataset in the order of `groups`; statistics pass from one to the next.
    """

    def part(dataset: str, group: Sequence[Task], key: jax.Array) -> Part:
        rows, keys = batch[dataset], jax.random.split(key)

        def encode(trunk: Tree, stats: Tree) -> tuple[Tree, Tree]:
            stats = without_penalties(stats)  # another dataset may have left its own
            model = mtl.merge(graphdef, replaced(params, "backbone", trunk), frozen, stats)
            features = model.encode(rows["image"], dataset=dataset, key=keys[0])
            return features, mtl.statistics(model)

        def decode(head: Tree, features: Tree, stats: Tree) -> tuple[jax.Array, Any]:
            model = mtl.merge(graphdef, replaced(params, "decoder", head), frozen, stats)
            size = rows["image"].shape[1:3]
            preds = model.decode(features, size, dataset=dataset, key=keys[1])
            between = getattr(model.decoder, "intermediate_weight", 1.0)
            values = {t.name: task_loss(t, preds[t.kind], rows, between) for t in group}
            weighted = jnp.stack([t.weight * values[t.name] for t in group])
            stats = mtl.statistics(model)
            return weighted, (values | penalty_of(dataset, stats), stats)

        return Part(tuple(t.name for t in group), encode, decode)

    keys = jax.random.split(key, len(groups))
    return [part(name, group, k) for (name, group), k in zip(groups.items(), keys, strict=True)]


def task_loss(
    task: Task, pred: jax.Array | tuple[jax.Array, ...], rows: Mapping[str, Any], between: float
) -> jax.Array:
    """Returns the unweighted loss of a task, with its intermediate predictions.

    Args:
      task: one of the dataset's.
      pred: ``[B, H, W, K]``, or a tuple of the final and all intermediate predictions.
      rows: ``{labels, masks}`` of the dataset.
      between: weight of an intermediate prediction against the final one.
    """

    def one(pred: jax.Array) -> jax.Array:
        return losses.mean(*task.loss(pred, rows["labels"][task.kind], rows["masks"][task.kind]))

    final, *others = pred if isinstance(pred, tuple) else (pred,)
    return one(final) + between * sum(one(other) for other in others) if others else one(final)


def _is_penalty(path: str) -> bool:
    return path.rpartition("/")[2] == "penalty"


def _penalties(stats: Tree) -> list[jax.Array]:
    return [x for path, x in rules.flatten(stats).items() if _is_penalty(path)]


def penalty_of(name: str, stats: Tree) -> dict[str, jax.Array]:
    """Returns the losses of no task that a forward pass left, summed, if it left any."""
    found = _penalties(stats)
    return {name + PENALTY: sum(jnp.sum(x) for x in found)} if found else {}


def without_penalties(stats: Tree) -> Tree:
    """Returns the statistics with zeros for the losses of no task."""
    return rules.map_with_path(lambda p, x: jnp.zeros_like(x) if _is_penalty(p) else x, stats)


def replaced(params: Tree, name: str, value: Tree) -> Tree:
    """Returns `params` with another entry of that name, if it has one."""
    return params | {name: value} if name in params else params


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    graphdef: Any,
    groups: Tasks,
    tx: optax.GradientTransformation,
    gradients: Gradients = PLAIN,
    again: Gradients | None = None,
    each: Gradients | None = None,
    average: Callable[[Tree, Tree, jax.Array], Tree] | None = None,
    accumulate: int = 1,
    prefer: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    cut: Callable[..., list[Part]] = parts_of,
    turn: optim.Turn | None = None,
    gather: Callable[[Tree], Tree] = lambda trees: trees,
    otherwise: Callable[[TrainState], TrainState] = lambda state: state,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from one sub-batch of every dataset. Pure; see `jit_train_step`.

    Where the loss, a gradient or the update is not finite, the next state is `otherwise` of the
    old one, by default the same, even its step; and the metric `finite` is False.

    Args:
      state: before the step.
      batch: ``{dataset: {"image": [B, H, W, 3], "labels": {kind}, "masks": {kind}}}``.
      graphdef: the model's structure.
      groups: tasks by dataset, with the loss weights to use.
      tx: the optax chain. Links get the extra arguments `losses` (``[T]``, weighted), and on this
        batch with the same randomness, from other parameters: `grad_fn` (to what `again` gives),
        `task_grads_fn` (see `optim.sam.task_sam`) where there is `each`, `loss_fn` (to ``[T]``
        losses), and `penalty`, the gradient of what belongs to no task, or None where `gradients`
        contain it.
      gradients: how losses become what the first link takes; see `train.gradients`.
      again: the same for `grad_fn`; `gradients` by default.
      each: the same for `task_grads_fn`; it takes points in the place of parameters.
      average: ``(ema, params, updates done) -> ema``, see `optim.averaging`.
      accumulate: micro-batches; see `gradients.accumulated`.
      prefer: ``(key, step) -> preference [T]``, which the model reads in this step and the losses
        are weighted by; see `train.preferences`. Where `gradients` are not plain, it is `tx` that
        weighs, by the extra argument `preference`; see `optim.prefer`.
      cut: how a batch becomes parts; `parts_of`, or `canvas.parts_of`.
      turn: whose it is, where a step sees one dataset of several.
      gather: ``(trained, frozen) -> (trained, frozen)``, as the passes read them; see
        `parallel.gathered`.
      otherwise: what the state becomes where the update is not finite; see `skipped`.

    Returns: the next state, and scalars: ``loss/<task>`` unweighted, ``loss/total`` weighted,
      ``norm/gradient`` merged and before clipping, ``norm/update``, ``lr``, ``finite``; and what
      `optim.conflict` says of the tasks, if anything.
    """
    key = jax.random.fold_in(state.key, state.step)
    before, asked, preference = state.stats, groups, None
    if prefer:
        preference = prefer(drawn(key), state.step)
        asked, before = preferred(groups, preference), placed(before, preference)
    # Without links for the tasks, the preference is in the losses.
    summed = asked if gradients is PLAIN else groups

    def run(strategy: Callable[..., Any], params: Tree) -> Any:
        return taken(strategy, *gather((params, state.frozen)))

    def taken(strategy: Callable[..., Any], at: Any, frozen: Tree) -> Any:
        made = partial(cut, graphdef=graphdef, frozen=frozen, groups=summed)
        return strategy(made, at, before, batch, key, accumulate)

    def task_grads_fn(points: Callable[..., Tree]) -> Tree:
        _, frozen = gather((state.trainable, state.frozen))
        return taken(each, lambda t: gather((points(t), state.frozen))[0], frozen)[0]

    def loss_fn(params: Tree) -> jax.Array:
        return weighted_losses(groups, run(LOSSES, params)[1][0])

    updates, (values, stats) = run(gradients, state.trainable)
    weighted = weighted_losses(groups, values)
    apart = gradients is not PLAIN and _penalties(state.stats)
    updates, opt = optax.with_extra_args_support(tx).update(
        updates,
        state.opt,
        state.trainable,
        losses=weighted,
        preference=preference,
        penalty=run(PENALTIES, state.trainable)[0] if apart else None,
        loss_fn=loss_fn,
        grad_fn=lambda params: run(again or gradients, params)[0],
        task_grads_fn=task_grads_fn if each else None,
    )
    metrics = {f"loss/{name}": v for name, v in values.items()}
    total = weighted_losses(asked, values).sum() + penalty(values)
    metrics |= {"loss/total": total, "lr": optim.learning_rate(opt)}
    metrics |= {"norm/gradient": optim.gradient_norm(opt), "norm/update": optim.norm(updates)}
    checked = jnp.stack([metrics[k] for k in ("loss/total", "norm/gradient", "norm/update")])
    metrics["finite"] = jnp.isfinite(checked).all()
    params = optax.apply_updates(state.trainable, updates)
    stats = placed(stats) if prefer else stats
    ema = average(state.ema, params, state.step + 1) if average else state.ema
    new = TrainState(state.step + 1, params, state.frozen, stats, opt, ema, state.key)
    return _keep(metrics["finite"], new, otherwise(state)), metrics | optim.conflict(opt, turn)


def skipped(state: TrainState) -> TrainState:
    """Returns the state with its step counted and nothing else done."""
    return dataclasses.replace(state, step=state.step + 1)


def weighted_losses(groups: Tasks, values: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the losses ``[T]`` times the tasks' weights."""
    return jnp.stack([t.weight * values[t.name] for group in groups.values() for t in group])


def _keep(finite: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """Returns `new` where finite, else `old`, without a branch that the host would wait for."""
    return jax.tree.map(lambda n, o: n if n is o else jnp.where(finite, n, o), new, old)


def jit_train_step(
    mesh: Mesh, shardings: TrainState, **step: Any
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Compiles `train_step` for a mesh. The state given to it is used up.

    Args:
      mesh: see `parallel.make_mesh`.
      shardings: of the state, from `create_state`.
      step: the keyword arguments of `train_step`.
    """
    if mesh.shape["fsdp"] > 1:
        step["gather"] = partial(parallel.gathered, places=(shardings.trainable, shardings.frozen))
    return jax.jit(
        partial(train_step, **step),
        in_shardings=(shardings, parallel.batch_sharding(mesh)),
        out_shardings=(shardings, NamedSharding(mesh, P())),
        donate_argnums=0,
        compiler_options=parallel.compiler_options(mesh),
    )


def eval_step(
    params: Tree,
    frozen: Tree,
    stats: Tree,
    batch: Mapping[str, Any],
    *,
    graphdef: Any,
    dataset: str,
    group: Sequence[Task],
    predict: Callable[[Task, jax.Array], jax.Array] | None = None,
) -> tuple[dict[str, dict[str, jax.Array]], dict[str, jax.Array], dict[str, Any]]:
    """Metric sums of one batch of one dataset, without dropout and with running statistics.

    Args:
      params: the trained parameters, or their moving average; see `best_params`.
      frozen: the frozen ones.
      stats: running statistics.
      batch: ``{image, labels, masks, valid}`` of the dataset.
      graphdef: the model's structure.
      dataset: its name.
      group: its tasks.
      predict: makes what is returned of a task's prediction, `tasks.post` or `compact`; None
        returns none.

    Returns: ``{kind: metric sums}``, ``{kind: prediction [B, H, W, ...]}`` or ``{}``, and what
      `watch.sums` says of the gates.
    """
    model = mtl.merge(graphdef, params, frozen, stats)
    notes = watch.watch(model)
    preds = model(batch["image"], dataset=dataset)
    labels, masks = batch["labels"], batch["masks"]
    sums = {
        t.kind: t.metric.sums(preds[t.kind], labels[t.kind], masks[t.kind], batch["valid"])
        for t in group
    }
    pictures = {t.kind: predict(t, preds[t.kind]) for t in group} if predict else {}
    return sums, pictures, watch.sums(notes, batch["valid"])


def compact(task: Task, pred: jax.Array) -> jax.Array:
    """Returns what `tasks.post` does in few bytes.

    Classes are uint8, and so are probabilities, times 255 and rounded towards zero as in the files
    that SEISM reads.
    Depth (metres) and normals are float16.
    """
    shown = tasks.post(task, pred)
    if task.kind in ("edge", "sal"):
        return (255 * shown).astype(jnp.uint8)
    return shown.astype(jnp.float16) if task.kind in ("depth", "normals") else shown


def jit_eval_step(mesh: Mesh, shardings: TrainState, **step: Any) -> Callable[..., Any]:
    """Compiles `eval_step` for a mesh; call it with ``*best_params(state)`` and a batch.

    Args:
      mesh: see `parallel.make_mesh`.
      shardings: of the state, from `create_state`.
      step: the keyword arguments of `eval_step`.
    """
    rows, replicated = parallel.batch_sharding(mesh), NamedSharding(mesh, P())
    return jax.jit(
        partial(eval_step, **step),
        in_shardings=(shardings.trainable, shardings.frozen, shardings.stats, rows),
        out_shardings=(replicated, rows, replicated),
        compiler_options=parallel.compiler_options(mesh),
    )


def best_params(state: TrainState) -> tuple[Tree, Tree, Tree]:
    """Returns (parameters, frozen, stats) to evaluate; the moving average where there is one."""
    return (state.ema or state.trainable), state.frozen, state.stats
