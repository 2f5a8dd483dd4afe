"""The state of a run as one pytree, and how it starts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mtl_vision import parallel, rules
from mtl_vision.models import mtl


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that changes during a run, and the frozen parameters.

    Attributes:
      step: int32, updates done.
      trainable: nested dict of the parameters that train.
      frozen: nested dict of the parameters that do not.
      stats: nested dict of the other variables, such as running statistics.
      opt: state of the optax chain.
      ema: moving average of `trainable`, or ``()``.
      key: typed random key of the run; a step folds its number in.
    """

    step: Any
    trainable: Any
    frozen: Any
    stats: Any
    opt: Any
    ema: Any
    key: Any


class Start(NamedTuple):
    """A model taken apart: its structure, its first state, and where the state lives."""

    graphdef: Any
    state: TrainState
    shardings: TrainState


def create_state(
    build: Callable[[], nnx.Module],
    *,
    trainable: rules.Rules[bool],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    key: jax.Array,
    table: rules.Rules[parallel.Specs] = (),
    ema: bool = False,
    jitted: bool = False,
) -> Start:
    """Builds a model and the state of its training on a mesh.

    Args:
      build: makes the model; its randomness and loaded weights are its own affair.
      trainable: (path regex, whether it trains) rules.
      tx: the optax chain.
      mesh: see `parallel.make_mesh`.
      key: typed key of the run.
      table: (path regex, spec or specs) rules; see `parallel.shardings`.
      ema: whether to keep a moving average, which starts as the parameters.
      jitted: compile `build`, so that no device ever holds a whole parameter. Slower for small
        models, and `build` must not read files.

    Raises:
      ConfigError: a parameter or rule without its counterpart; see `rules.resolve`.
    """
    model = mtl.abstract(build)
    params = mtl.parameters(model)
    trains = rules.resolve(trainable, params, "trainable")
    graphdef, *shapes = mtl.split(model, trains)
    where = _places(mesh, parallel.shardings(mesh, table, params), shapes)

    def arrays() -> list[Any]:
        return list(mtl.split(build(), trains)[1:])

    if jitted:
        values = jax.jit(arrays, out_shardings=where)()
    else:
        # A copy: the state is donated, and `build` may have handed out arrays it keeps.
        values = jax.device_put(arrays(), where, may_alias=False)
    kept = (tx, mesh, key, ema)
    return Start(graphdef, *_with_optimizer(values, where, *kept))


def _places(mesh: Mesh, placed: dict[str, NamedSharding], shapes: list[Any]) -> list[Any]:
    trained, frozen, stats = shapes
    by_path = [rules.map_with_path(lambda path, _: placed[path], t) for t in (trained, frozen)]
    return [*by_path, parallel.replicated(mesh, stats)]


def _with_optimizer(
    values: list[Any], where: list[Any], tx: Any, mesh: Mesh, key: jax.Array, ema: bool
) -> tuple[TrainState, TrainState]:
    trained, frozen, stats = values
    specs = rules.flatten(where[0])
    owners = {p: (x.shape, specs[p].spec) for p, x in rules.flatten(trained).items()}
    opt_where = parallel.derived(mesh, owners, jax.eval_shape(tx.init, trained))
    everywhere = NamedSharding(mesh, P())
    state = TrainState(
        step=jax.device_put(jnp.zeros((), jnp.int32), everywhere),
        trainable=trained,
        frozen=frozen,
        stats=stats,
        opt=jax.jit(tx.init, out_shardings=opt_where)(trained),
        ema=jax.tree.map(jnp.copy, trained) if ema else (),
        key=parallel.place(key, everywhere),
    )
    average_where = where[0] if ema else ()
    return state, TrainState(everywhere, *where, opt_where, average_where, everywhere)


def abstract(state: TrainState) -> TrainState:
    """Returns the state's shapes, dtypes and shardings, without its arrays."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
