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

from mtl_vision import parallel, placements, rules
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
    table: rules.Rules[placements.Specs] = (),
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
    plan = planned_state(build, trainable=trainable, tx=tx, mesh=mesh, table=table, ema=ema)
    where = plan.shardings
    trains = {path: True for path in rules.flatten(where.trainable)}
    trains |= {path: False for path in rules.flatten(where.frozen)}
    places = [where.trainable, where.frozen, where.stats]

    def arrays() -> list[Any]:
        return list(mtl.split(build(), trains)[1:])

    if jitted:
        values = jax.jit(arrays, out_shardings=places)()
    else:
        # A copy: the state is donated, and `build` may have handed out arrays it keeps.
        values = parallel.put(arrays(), places)
    trained, frozen, stats = values
    state = TrainState(
        step=parallel.put(jnp.zeros((), jnp.int32), where.step),
        trainable=trained,
        frozen=frozen,
        stats=stats,
        opt=jax.jit(tx.init, out_shardings=where.opt)(trained),
        ema=jax.tree.map(jnp.copy, trained) if ema else (),
        key=parallel.place(key, where.key),
    )
    return Start(plan.graphdef, state, where)


def planned_state(
    build: Callable[[], nnx.Module],
    *,
    trainable: rules.Rules[bool],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    table: rules.Rules[placements.Specs] = (),
    ema: bool = False,
) -> Start:
    """Returns what `create_state` would, with shapes in the place of arrays; arguments as there."""
    model = mtl.abstract(build)
    params = mtl.parameters(model)
    trains = rules.resolve(trainable, params, "trainable")
    graphdef, trained, frozen, stats = mtl.split(model, trains)
    placed = parallel.shardings(mesh, table, params)
    below = [rules.map_with_path(lambda path, _: placed[path], t) for t in (trained, frozen)]
    owners = {path: (x.shape, placed[path].spec) for path, x in rules.flatten(trained).items()}
    opt, everywhere = jax.eval_shape(tx.init, trained), NamedSharding(mesh, P())
    where = TrainState(
        step=everywhere,
        trainable=below[0],
        frozen=below[1],
        stats=parallel.replicated(mesh, stats),
        opt=parallel.derived(mesh, owners, opt),
        ema=below[0] if ema else (),
        key=everywhere,
    )
    shapes = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        trainable=trained,
        frozen=frozen,
        stats=stats,
        opt=opt,
        ema=trained if ema else (),
        key=jax.eval_shape(lambda: jax.random.key(0)),
    )
    shapes = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where
    )
    return Start(graphdef, shapes, where)


def abstract(state: TrainState) -> TrainState:
    """Returns the state's shapes, dtypes and shardings, without its arrays."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
