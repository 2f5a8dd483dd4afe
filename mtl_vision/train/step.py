"""One training step and one evaluation step, as pure functions."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mtl_vision import losses, optim, parallel, tasks
from mtl_vision.models import mtl
from mtl_vision.tasks import Task
from mtl_vision.train.state import TrainState

Tree = Any
Batch = Mapping[str, Mapping[str, Any]]
Tasks = Mapping[str, Sequence[Task]]
Values = dict[str, jax.Array]
# params -> ({task: weighted loss}, aux)
Losses = Callable[[Tree], tuple[Values, Any]]
# (losses, params) -> (gradients, aux); see `sum_gradient`
Gradients = Callable[[Losses, Tree], tuple[Tree, Any]]


def sum_gradient(weighted: Losses, params: Tree) -> tuple[Tree, Any]:
    """The gradient of the sum of all task losses.

    A strategy with per-task gradients has this form too: its leaves may carry an axis of tasks,
    which the first link of the optax chain takes away.
    """

    def total(params: Tree) -> tuple[jax.Array, Any]:
        values, aux = weighted(params)
        return sum(values.values()), aux

    return jax.grad(total, has_aux=True)(params)


def paired_losses(
    model_of: Callable[[Tree], Any], stats: Tree, batch: Batch, key: jax.Array, groups: Tasks
) -> tuple[Values, Tree]:
    """Runs every dataset's rows through the model, and only that dataset's tasks.

    Args:
      model_of: statistics -> model.
      stats: running statistics. They pass through the datasets in the order of `groups`.
      batch: ``{dataset: {image, labels, masks}}``.
      key: split over the datasets.
      groups: tasks by dataset.

    Returns: unweighted losses by task, and the new statistics.
    """
    values = {}
    for (dataset, group), k in zip(groups.items(), jax.random.split(key, len(groups)), strict=True):
        part = batch[dataset]
        model = model_of(stats)
        preds = model(part["image"], dataset=dataset, key=k)
        stats = mtl.statistics(model)
        for task in group:
            label, mask = part["labels"][task.kind], part["masks"][task.kind]
            values[task.name] = losses.mean(*task.loss(preds[task.kind], label, mask))
    return values, stats


def accumulated(
    function: Callable[..., tuple[Tree, tuple[Values, Tree]]],
    params: Tree,
    stats: Tree,
    batch: Batch,
    key: jax.Array,
    parts: int,
) -> tuple[Tree, tuple[Values, Tree]]:
    """Averages gradients and losses over micro-batches that run one after another.

    Args:
      function: ``(params, stats, batch, key) -> (gradients, (losses, stats))``.
      params: parameters.
      stats: statistics; they pass through the micro-batches.
      batch: arrays ``[B, ...]``. Micro-batch j takes rows j, j + parts, ..., so each device
        keeps its rows.
      key: split over the micro-batches.
      parts: number of micro-batches; it divides B.

    Returns: as `function`. Losses that divide by the number of valid pixels are means over
      micro-batches of their own means.
    """
    if parts == 1:
        return function(params, stats, batch, key)
    batch = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    keys = jax.random.split(key, parts)
    first = jax.tree.map(lambda x: x[0], (batch, keys))
    grads, (values, _) = jax.eval_shape(function, params, stats, *first)

    def add(carry: tuple[Tree, Tree], part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        sums, stats = carry
        grads, (values, stats) = function(params, stats, *part)
        return (jax.tree.map(jnp.add, sums, (grads, values)), stats), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, values))
    (sums, stats), _ = jax.lax.scan(add, (zeros, stats), (batch, keys))
    grads, values = jax.tree.map(lambda x: x / parts, sums)
    return grads, (values, stats)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    graphdef: Any,
    groups: Tasks,
    tx: optax.GradientTransformation,
    gradients: Gradients = sum_gradient,
    average: Callable[[Tree, Tree, jax.Array], Tree] | None = None,
    accumulate: int = 1,
) -> tuple[TrainState, Values]:
    """One update from one sub-batch of every dataset. Pure; see `jit_train_step`.

    Where the loss, a gradient or the update is not finite, nothing of the state changes, not even
    the step, and the metric `finite` is False.

    Args:
      state: before the step.
      batch: ``{dataset: {"image": [B, H, W, 3], "labels": {kind}, "masks": {kind}}}``.
      graphdef: the model's structure.
      groups: tasks by dataset, with the loss weights to use.
      tx: the optax chain. Links get the extra arguments `losses` (weighted, by task) and
        `grad_fn` (parameters -> gradients on this batch, with the same randomness).
      gradients: how losses become gradients.
      average: ``(ema, params, updates done) -> ema``, see `optim.averaging`.
      accumulate: micro-batches; see `accumulated`.

    Returns: the next state, and scalars: ``loss/<task>`` unweighted, ``loss/total`` weighted,
      ``norm/gradient`` before clipping, ``norm/update``, ``lr``, ``finite``.
    """
    weights = {task.name: task.weight for group in groups.values() for task in group}
    key = jax.random.fold_in(state.key, state.step)

    def micro(params: Tree, stats: Tree, batch: Batch, key: jax.Array) -> tuple[Tree, Any]:
        def weighted(params: Tree) -> tuple[Values, Any]:
            model_of = partial(mtl.merge, graphdef, params, state.frozen)
            values, new = paired_losses(model_of, stats, batch, key, groups)
            return {name: weights[name] * v for name, v in values.items()}, (values, new)

        return gradients(weighted, params)

    def whole(params: Tree) -> tuple[Tree, tuple[Values, Tree]]:
        return accumulated(micro, params, state.stats, batch, key, accumulate)

    grads, (values, stats) = whole(state.trainable)
    updates, opt = optax.with_extra_args_support(tx).update(
        grads,
        state.opt,
        state.trainable,
        losses={name: weights[name] * v for name, v in values.items()},
        grad_fn=lambda params: whole(params)[0],
    )
    total = sum(weights[name] * v for name, v in values.items())
    metrics = {f"loss/{name}": v for name, v in values.items()}
    metrics |= {"loss/total": total, "lr": optim.learning_rate(opt)}
    metrics |= {"norm/gradient": optim.norm(grads), "norm/update": optim.norm(updates)}
    checked = jnp.stack([total, metrics["norm/gradient"], metrics["norm/update"]])
    metrics["finite"] = jnp.isfinite(checked).all()
    params = optax.apply_updates(state.trainable, updates)
    ema = average(state.ema, params, state.step + 1) if average else state.ema
    new = TrainState(state.step + 1, params, state.frozen, stats, opt, ema, state.key)
    return _keep(metrics["finite"], new, state), metrics


def _keep(finite: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """Returns `new` where finite, else `old`, without a branch that the host would wait for."""
    return jax.tree.map(lambda n, o: n if n is o else jnp.where(finite, n, o), new, old)


def jit_train_step(
    mesh: Mesh, shardings: TrainState, **step: Any
) -> Callable[[TrainState, Batch], tuple[TrainState, Values]]:
    """Compiles `train_step` for a mesh. The state given to it is used up.

    Args:
      mesh: see `parallel.make_mesh`.
      shardings: of the state, from `create_state`.
      step: the keyword arguments of `train_step`.
    """
    return jax.jit(
        partial(train_step, **step),
        in_shardings=(shardings, parallel.batch_sharding(mesh)),
        out_shardings=(shardings, NamedSharding(mesh, P())),
        donate_argnums=0,
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
    predict: bool = False,
) -> tuple[dict[str, dict[str, jax.Array]], dict[str, jax.Array]]:
    """Metric sums of one batch of one dataset, without dropout and with running statistics.

    Args:
      params: the trained parameters, or their moving average; see `best_params`.
      frozen: the frozen ones.
      stats: running statistics.
      batch: ``{image, labels, masks, valid}`` of the dataset.
      graphdef: the model's structure.
      dataset: its name.
      group: its tasks.
      predict: whether to return predictions too.

    Returns: ``{kind: metric sums}``, and ``{kind: prediction [B, H, W, ...]}`` as `compact`
      gives it, or ``{}``.
    """
    preds = mtl.merge(graphdef, params, frozen, stats)(batch["image"], dataset=dataset)
    labels, masks = batch["labels"], batch["masks"]
    sums = {
        t.kind: t.metric.sums(preds[t.kind], labels[t.kind], masks[t.kind], batch["valid"])
        for t in group
    }
    pictures = {t.kind: compact(t, preds[t.kind]) for t in group} if predict else {}
    return sums, pictures


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
    rows = parallel.batch_sharding(mesh)
    return jax.jit(
        partial(eval_step, **step),
        in_shardings=(shardings.trainable, shardings.frozen, shardings.stats, rows),
        out_shardings=(NamedSharding(mesh, P()), rows),
    )


def best_params(state: TrainState) -> tuple[Tree, Tree, Tree]:
    """Returns (parameters, frozen, stats) to evaluate; the moving average where there is one."""
    return (state.ema or state.trainable), state.frozen, state.stats
