"""The compiled parts of a run, made from what `build` gives."""

import dataclasses
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mtl_vision import build, files, optim, parallel, rules
from mtl_vision.config import Config
from mtl_vision.data.mixture import MixedCanvas
from mtl_vision.errors import ConfigError, DataError
from mtl_vision.models import mtl
from mtl_vision.models.adapters.ditask import factorize
from mtl_vision.optim.methods import HELD
from mtl_vision.train import canvas, checkpoint
from mtl_vision.train.checkpoint import Checkpoints
from mtl_vision.train.gradients import PLAIN, Gradients, additive, joint
from mtl_vision.train.per_task import at_points, independent_halves, per_task, two_pass
from mtl_vision.train.state import Start, TrainState, create_state, planned_state
from mtl_vision.train.step import jit_train_step, parts_of, skipped
from mtl_vision.train.transfer import init_from

Say = Callable[[str], None]


def start(cfg: Config) -> tuple[jax.sharding.Mesh, Start]:
    """Returns the mesh, and the model with the first state of its training on it."""
    devices = build.mesh(cfg)
    key = jax.random.key(cfg.seed + 1)
    return devices, create_state(build.model(cfg), key=key, **_parts(cfg, devices))


def planned(cfg: Config, devices: jax.sharding.Mesh) -> Start:
    """Returns what `start` makes on a mesh, with shapes in the place of arrays."""
    return planned_state(build.model(cfg), **_parts(cfg, devices))


def _parts(cfg: Config, devices: jax.sharding.Mesh) -> dict[str, Any]:
    return dict(
        trainable=build.trainable(cfg),
        tx=build.optimizer(cfg),
        mesh=devices,
        table=build.sharding_rules(cfg),
        ema=cfg.optim.ema > 0,
    )


def train_step(cfg: Config, devices: jax.sharding.Mesh, made: Start) -> Callable[..., Any]:
    """Returns ``(state, batch) -> (state, metrics)``, compiled, for any batch of the run."""
    programs = train_programs(cfg, devices, made)
    if len(programs) == 1:
        return next(iter(programs.values()))
    return lambda state, batch: programs[tuple(batch)](state, batch)


def train_programs(
    cfg: Config, devices: jax.sharding.Mesh, made: Start
) -> dict[tuple[str, ...], Callable[..., Any]]:
    """Returns the compiled steps by the datasets of their batches."""
    programs = build.mixture(cfg).programs(tuple(cfg.datasets))
    turns = build.turns(cfg)
    return {names: _program(cfg, devices, made, names, turns.get(names)) for names in programs}


def _program(cfg, devices, made, names, turn):
    groups = build.groups(cfg)
    return jit_train_step(
        devices,
        made.shardings,
        graphdef=made.graphdef,
        groups={name: groups[name] for name in names},
        tx=build.optimizer(cfg, turn),
        **strategies(cfg, turn),
        average=optim.averaging(cfg.optim.ema) if cfg.optim.ema else None,
        accumulate=cfg.optim.accumulate,
        prefer=build.preferences(cfg),
        cut=cutting(cfg),
        turn=turn,
        **({"otherwise": skipped} if cfg.run.not_finite == "skip" else {}),
    )


def cutting(cfg: Config) -> Callable[..., Any]:
    """Returns how a batch becomes parts.

    Raises:
      ConfigError: one canvas for a backbone with parts of its own for some tasks.
    """
    mixture = build.mixture(cfg)
    if not isinstance(mixture, MixedCanvas):
        return parts_of
    if mtl.abstract(build.model(cfg)).backbone.tasks:
        adapters = ", ".join(one.name for one in cfg.adapter)
        raise ConfigError(
            "config.mixture.name='mixed_canvas' runs the backbone once for all datasets, but "
            f"config.adapter ({adapters}) gives their tasks streams or parameters of their own in "
            "it. Use 'paired'."
        )
    return partial(canvas.parts_of, mask=mixture.mask_pad_tokens)


def strategies(cfg: Config, turn: optim.Turn | None = None) -> dict[str, Gradients]:
    """Returns how the first link's gradients are taken, and those at perturbed parameters.

    By the arguments of `train_step`.
    """
    made = build.methods(cfg)
    if made.plain:
        return dict(gradients=PLAIN)
    owners = build.owners(cfg)
    common = dict(owners=owners, apart=build.heads_apart(cfg))
    held = partial(per_task, **common, pull=cfg.optim.per_task)
    tasks = build.tasks(cfg)[turn.places] if turn else build.tasks(cfg)
    joined = partial(joint, owners=owners, tasks=tasks)
    if made.need == "losses":
        again = joined
    elif made.need == "cross":
        pull = cfg.optim.per_task
        again = partial(independent_halves, **common, tasks=tasks, pull=pull)
    elif cfg.optim.per_task in HELD:
        again = additive(held)
    else:
        gram = "features" if cfg.optim.per_task == "features" else "rows"
        again = additive(partial(two_pass, **common, gram=gram))
    # SAM climbs along the gradient of the sum, task-wise SAM along every task's own.
    first = {"sam": joined, "samo": joined, "task_sam": additive(held)}
    found = dict(gradients=first.get(made.sam, again), again=again)
    if made.sam in ("samo", "task_sam"):
        found["each"] = partial(at_points, **common, pull=cfg.optim.per_task)
    return found


def checkpoints(cfg: Config, workdir: pathlib.Path) -> Checkpoints:
    """Returns the checkpoints of the run in `workdir`."""
    return Checkpoints(
        workdir / "checkpoints", keep=cfg.run.keep, keep_best=1 if cfg.run.best else 0
    )


def first_state(cfg: Config, saved: Checkpoints, made: Start, say: Say) -> TrainState:
    """Returns the state to go on from: the newest whole checkpoint, `init_from`, or a fresh one.

    Raises:
      DataError: what is there is damaged or of another model.
    """
    state = saved.restore(made.state)
    if int(state.step):
        say(f"Going on from step {int(state.step)}")
        return state
    return initial_state(cfg, made, say)


def initial_state(cfg: Config, made: Start, say: Say) -> TrainState:
    """Returns the state before the first step: fresh, pretrained, or with what `init_from` gives.

    Raises:
      DataError: what is there is damaged or of another model.
    """
    state = pretrained_state(cfg, made) if cfg.weights else made.state
    if not cfg.init_from:
        return state
    state, unmatched = init_from(
        pathlib.Path(cfg.init_from) / "checkpoints", state, skip=cfg.init_skip
    )
    for what, paths in unmatched._asdict().items():
        for path in paths:
            say(f"{cfg.init_from}: {what} {path}")
    return refreshed(made, state)


def pretrained_state(cfg: Config, made: Start) -> TrainState:
    """Returns the first state with the backbone from the file ``config.backbone.weights``.

    Raises:
      DataError: it cannot be read, its format is not recognised, or it does not fit the backbone.
    """
    arrays, _ = files.read(pathlib.Path(cfg.weights))
    try:
        tree = build.pretrained_weights(cfg, arrays)
    except DataError as e:
        raise DataError(f"config.backbone.weights={cfg.weights}: {e}") from e
    return with_model(made, made.state, build.model(cfg, tree)())


def with_model(made: Start, state: TrainState, model: Any) -> TrainState:
    """Returns the state with the parameters of a model."""
    trains = rules.flatten(state.trainable)
    _, *found = mtl.split(model, {path: path in trains for path in mtl.parameters(model)})
    places = made.shardings
    trainable, frozen, _ = found
    # A copy: the state is donated.
    trainable = parallel.put(trainable, places.trainable)
    frozen = parallel.put(frozen, places.frozen)
    ema = jax.tree.map(jnp.copy, trainable) if state.ema else state.ema
    return dataclasses.replace(state, trainable=trainable, frozen=frozen, ema=ema)


def refreshed(made: Start, state: TrainState) -> TrainState:
    """Returns the state with what adapters derive from the weights they wrap derived again."""
    if not any(path.endswith("/sigma") for path in rules.flatten(state.frozen)):
        return state
    model = mtl.merge(made.graphdef, state.trainable, state.frozen, state.stats)
    factorize(model)
    return dataclasses.replace(state, frozen=with_model(made, state, model).frozen)


def saved_state(workdir: pathlib.Path, like: TrainState, step: int | None) -> TrainState:
    """Returns `like` with what a checkpoint says of the model; the newest whole one for None.

    Raises:
      DataError: there is no such checkpoint, or it is damaged or of another model.
    """
    folder = workdir / "checkpoints"
    there = checkpoint.steps(folder)
    if not there or (step is not None and step not in there):
        listed = ", ".join(map(str, there)) or "none"
        wanted = "a checkpoint" if step is None else f"checkpoint {step}"
        raise DataError(f"{workdir} has not {wanted}; there are: {listed}.")
    items = ("model", "training")
    if step is None:
        return checkpoint.load_latest(folder, like, items=items)[0]
    try:
        return checkpoint.load(folder, like, step, items=items)
    except checkpoint.Damage as e:
        raise DataError(f"{e}. Choose another --step: {', '.join(map(str, there))}.") from e
