"""All methods by name, and which per-task gradients each of them can live on."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from mtl_vision.errors import ConfigError
from mtl_vision.optim.aggregate import aggregate
from mtl_vision.optim.contracts import Aggregator, LossWeighting, Weighting
from mtl_vision.optim.coordinates import db_mtl, excess_mtl, graddrop, moco, trimmed_mean
from mtl_vision.optim.loss_weightings import LOSS_WEIGHTINGS
from mtl_vision.optim.rows import NOBODY, Owners
from mtl_vision.optim.sam import sam, samo, task_sam
from mtl_vision.optim.weightings import WEIGHTINGS, cr_mogm

AGGREGATORS: dict[str, Callable[..., Weighting | Aggregator]] = {
    **WEIGHTINGS,
    "graddrop": graddrop,
    "trimmed_mean": trimmed_mean,
    "moco": moco,
    "db_mtl": db_mtl,
    "excess_mtl": excess_mtl,
}


class Named(Protocol):
    """An entry of a table and what a config says of it."""

    name: str
    options: Mapping[str, Any]


def no_sam(
    inner: optax.GradientTransformation, tasks: Sequence[str], owners: Owners
) -> optax.GradientTransformation:
    """Leaves `inner` as it is."""
    del tasks, owners
    return inner


SAMS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "none": no_sam,
    "sam": sam,
    "samo": samo,
    "task_sam": task_sam,
}

# Strategies that hold all rows, and those that never do; see `train.per_task`.
HELD = ("vmap", "scan", "passes")
PER_TASK = (*HELD, "two_pass", "features")


def merge(
    method: Weighting | Aggregator,
    tasks: Sequence[str] | int,
    owners: Owners = NOBODY,
    *,
    smooth: float = 0.0,
    task_weighting: str = "unit",
    output_scale: str = "native",
    max_norm: float = 0.0,
    groups: str = "",
    nonfinite: str = "error",
    watch: int = 0,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """`aggregate` with what a config may say about any method.

    Args:
      method, tasks, owners, task_weighting, output_scale, max_norm, groups, nonfinite, watch,
        seed: see `aggregate`.
      smooth: decay of the moving average of the weights (CR-MOGM, see `weightings.cr_mogm`), 0 for
        none; 0.9 in the paper.

    Raises:
      ConfigError: an unknown choice, or `smooth` for a method without weights.
    """
    if smooth:
        if isinstance(method, Aggregator):
            raise ConfigError(
                f"config.optim.aggregator.smooth={smooth} averages weights; this method has none. "
                f"Use 0.0."
            )
        method = cr_mogm(method, alpha=smooth)
    return aggregate(
        method,
        tasks,
        owners,
        task_weighting=task_weighting,
        output_scale=output_scale,
        max_norm=max_norm,
        groups=groups,
        nonfinite=nonfinite,
        watch=watch,
        seed=seed,
    )


class Methods(NamedTuple):
    """What a config says of its tasks' gradients.

    method: from `AGGREGATORS`, called.
    options: keyword arguments of `merge`.
    weighting: from `LOSS_WEIGHTINGS`, called; None for equal weights.
    sam: name in `SAMS`.
    sam_options: keyword arguments of that entry.
    balance: how tasks are balanced under a preference, see `prefer`; None without preferences.
    need: what the method lives on: ``losses`` (one joint backward pass), ``gram`` (any strategy),
      ``rows`` (per-task gradients that are held) or ``cross`` (those of two halves of the batch).
    """

    method: Weighting | Aggregator
    options: Mapping[str, Any]
    weighting: LossWeighting | None
    sam: str
    sam_options: Mapping[str, Any]
    balance: Collection[str] | None
    need: str

    @property
    def plain(self) -> bool:
        """Whether it all amounts to the gradient of the sum of the losses."""
        idle = self.weighting is None and self.sam == "none" and not self.options
        idle = idle and not self.balance
        return idle and self.need == "losses" and self.method.update is TOTAL.update


TOTAL = WEIGHTINGS["sum"]()


def methods(
    aggregator: Named,
    weighting: Named,
    sam: Named,
    *,
    watch: int = 0,
    balance: Collection[str] | None = None,
) -> Methods:
    """Makes the methods that a config names.

    Args:
      aggregator, weighting, sam: anything with a `name` and `options`, of an entry of
        `AGGREGATORS` (with options of `merge` too), `LOSS_WEIGHTINGS`, `SAMS`.
      watch: updates between two looks at the Gramian, 0 for never.
      balance: see `Methods`.

    Raises:
      ConfigError: an option out of range.
    """
    factory = AGGREGATORS[aggregator.name]
    own = inspect.signature(factory).parameters.keys()
    method = factory(**{k: v for k, v in aggregator.options.items() if k in own})
    options = {k: v for k, v in aggregator.options.items() if k not in own}
    options |= {"watch": watch} if watch else {}
    if isinstance(method, Aggregator) or options.get("groups") or "skip" in options.values():
        need = "rows"
    else:
        looks = watch or "gradients" in (balance or ())
        need = "gram" if method.needs == "losses" and looks else method.needs
    made = LOSS_WEIGHTINGS[weighting.name](**weighting.options)
    made = None if weighting.name == "equal" else made
    return Methods(method, options, made, sam.name, sam.options, balance, need)


def try_out(made: Methods, tasks: int) -> None:
    """Traces the methods once for that many tasks, without an array.

    Raises:
      ConfigError: an option that does not fit the number of tasks.
    """

    def run() -> Any:
        params = {"x": jnp.zeros(2)}
        tx = first_link(made, [str(t) for t in range(tasks)], {})
        rows = {"x": jnp.zeros((tasks, 2))}
        losses = jnp.ones(tasks)
        again = {"grad_fn": lambda p: rows, "task_grads_fn": lambda points: rows}
        again["loss_fn"] = lambda p: losses
        if made.weighting:
            made.weighting.update(losses, made.weighting.init(tasks), key=jax.random.key(0))
        return tx.update(rows, tx.init(params), params, losses=losses, **again)

    jax.eval_shape(run)


def first_link(
    made: Methods, tasks: Sequence[str], owners: Owners
) -> optax.GradientTransformationExtraArgs:
    """Returns the link that takes per-task gradients: the aggregator, in SAM if there is one."""
    inner = merge(made.method, tasks, owners, **made.options)
    options = dict(made.sam_options)
    if made.sam == "task_sam":
        # The differences and the pairs are merged with random numbers of their own.
        options["flat"] = merge(made.method, tasks, owners, seed=1, **made.options)
        options["pair"] = merge(made.method, 2, seed=2, **made.options)
    return SAMS[made.sam](inner, tasks, owners, **options)


def unfit(made: Methods, per_task: str, accumulate: int) -> str | None:
    """Says in a message what does not go together, or None.

    Args:
      made: from `methods`.
      per_task: entry of `PER_TASK`.
      accumulate: micro-batches of a step.
    """
    if made.sam in ("task_sam", "samo") and made.need == "cross":
        return f"config.optim.sam.name={made.sam!r} does not go with methods of two mini-batches."
    need = "rows" if made.sam == "task_sam" else made.need
    if per_task in HELD or need == "losses":
        return None
    listed = ", ".join(HELD)
    if need in ("rows", "cross"):
        return (
            f"config.optim.per_task={per_task!r} never holds the per-task gradients that this "
            f"method merges. Use one of {listed}."
        )
    if accumulate > 1:
        return (
            f"config.optim.per_task={per_task!r} takes one Gramian of the whole batch, so "
            f"config.optim.accumulate={accumulate} is too many. Use 1, or one of {listed}."
        )
    return None
