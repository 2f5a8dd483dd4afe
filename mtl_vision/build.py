"""From a checked config to the objects of a run: the place where all rooms meet."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from mtl_vision import optim, parallel, placements, rules
from mtl_vision.config import Config
from mtl_vision.data import DATASETS, pipeline
from mtl_vision.data.mixture import MIXTURES
from mtl_vision.data.pipeline import Source
from mtl_vision.data.transforms import Augment, eval_transform, train_transform
from mtl_vision.models import adapters, mtl, pretrained
from mtl_vision.models.adapters.preferences import BALANCES, schedule
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.decoders.per_task import PerTask
from mtl_vision.models.keys import Keys
from mtl_vision.optim.methods import Methods
from mtl_vision.optim.rows import Owner
from mtl_vision.tasks import Task

Groups = dict[str, tuple[Task, ...]]


def groups(cfg: Config) -> Groups:
    """Returns the tasks of every dataset, with the loss weights of the config."""
    found = {}
    for name, data in cfg.datasets.items():
        made = DATASETS[name].tasks(cfg.protocol)
        found[name] = tuple(
            dataclasses.replace(made[kind], weight=data.weight * cfg.loss_weights[kind])
            for kind in DATASETS[name].kinds
            if kind in data.tasks
        )
    return found


def pretrained_weights(cfg: Config, arrays: Mapping[str, np.ndarray]) -> Any:
    """Converts a file of weights to the parameters of the backbone without adapters, unscanned.

    Raises:
      DataError: see `pretrained.load`.
    """
    options = {k: v for k, v in cfg.backbone.options.items() if k != "scan"}
    bare = mtl.abstract(lambda: BACKBONES[cfg.backbone.name](**options, rngs=nnx.Rngs(0)))
    targets = nnx.to_pure_dict(nnx.state(bare, nnx.Param))
    resize = getattr(bare, "position_resize", "bicubic")
    return pretrained.load(arrays, targets, position_resize=resize)


def model(cfg: Config, weights: Any = None) -> Callable[[], nnx.Module]:
    """Returns a function that makes the model, with parameters drawn from the seed.

    Args:
      cfg: the config.
      weights: of `pretrained_weights`, for the backbone before adapters are added.
    """
    outputs = {
        name: {task.kind: task.channels for task in group} for name, group in groups(cfg).items()
    }

    def make() -> nnx.Module:
        rngs = Keys(params=jax.random.key(cfg.seed))
        common = {"dtype": cfg.dtype, "rngs": rngs}
        backbone = BACKBONES[cfg.backbone.name](**cfg.backbone.options, **common)
        if weights is not None:
            pretrained.fill(backbone, weights)
        added = [(one.name, one.options) for one in cfg.adapter]
        backbone = adapters.adapt(backbone, added, tasks=tasks(cfg), **common)
        decoder = DECODERS[cfg.decoder.name](
            outputs=outputs,
            channels=backbone.channels,
            strides=backbone.strides,
            **cfg.decoder.options,
            **common,
        )
        return mtl.MultiTask(backbone, decoder)

    return make


def trainable(cfg: Config) -> rules.Rules[bool]:
    """Returns the rules of which parameters train."""
    if cfg.trainable or not cfg.adapter:
        return cfg.trainable or ((".*", True),)
    return adapters.trainable([one.name for one in cfg.adapter])


def preferences(cfg: Config) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """Returns ``(key, step) -> preference [T]`` of PaLoRA's training; None without PaLoRA."""
    if (options := palora(cfg)) is None:
        return None
    own = {k: v for k, v in options.items() if k in ("draws", "concentration")}
    return schedule(len(tasks(cfg)), cfg.run.steps, **own)


def palora(cfg: Config) -> dict[str, Any] | None:
    """Returns the options of PaLoRA; None without it."""
    return next((one.options for one in cfg.adapter if one.name == "palora"), None)


def mesh(cfg: Config) -> jax.sharding.Mesh:
    """Returns the mesh, after a look at whether all batches divide over it."""
    wanted = cfg.mesh
    sizes = placements.preset(wanted.preset, slices=wanted.slices, tensor=wanted.tensor)
    made = parallel.make_mesh(**sizes)
    batches = {name: data.batch for name, data in cfg.datasets.items()}
    halves = 2 if methods(cfg).need == "cross" else 1
    parallel.check_batches(made, batches, accumulate=halves * cfg.optim.accumulate)
    parallel.check_batches(made, {"evaluation": cfg.eval.batch})
    return made


def sharding_rules(cfg: Config) -> rules.Rules[placements.Specs]:
    """Returns the path rules that shard the parameters."""
    parts = (*cfg.adapter, cfg.decoder)
    added = [rule for one in parts for rule in placements.ADDED.get(one.name, ())]
    if cfg.mesh.tensor > 1:
        added = [*_task_rules(cfg), *added]
    return (*added, *placements.SHARDINGS[cfg.backbone.name.split("_")[0]])


def _task_rules(cfg: Config) -> rules.Rules[placements.Specs]:
    """Puts the tasks of every parameter with a slice per task over `tensor`."""
    made = mtl.abstract(model(cfg))
    shapes = mtl.parameters(made)
    return [
        (re.escape(path), placements.stacked(len(shapes[path].shape), axis))
        for path, (_, axis) in mtl.owners(made, _kinds(cfg)).items()
        if axis is not None
    ]


def _kinds(cfg: Config) -> dict[str, list[str]]:
    return {name: [task.kind for task in group] for name, group in groups(cfg).items()}


def methods(cfg: Config) -> Methods:
    """Returns what the config says of the tasks' gradients."""
    options = palora(cfg)
    balance = None if options is None else BALANCES[options.get("balance", "none")]
    named = cfg.aggregator, cfg.weighting, cfg.sam
    return optim.methods(*named, watch=cfg.run.conflicts_every, balance=balance)


def tasks(cfg: Config) -> tuple[str, ...]:
    """Returns the names of all tasks, in the order of the rows of a Jacobian."""
    return tuple(task.name for group in groups(cfg).values() for task in group)


def owners(cfg: Config) -> dict[str, Owner]:
    """Returns whose the parameters are that are not shared; nobody's if nobody asks."""
    if methods(cfg).plain:
        return {}
    found = mtl.owners(mtl.abstract(model(cfg)), _kinds(cfg))
    return {path: Owner(*owner) for path, owner in found.items()}


def heads_apart(cfg: Config) -> bool:
    """Returns whether no task's head reads what another task's computes."""
    return isinstance(mtl.abstract(model(cfg)).decoder, PerTask)


def mixture(cfg: Config) -> Any:
    """Returns how the datasets make up the steps, an entry of `MIXTURES`."""
    return MIXTURES[cfg.mixture.name](**cfg.mixture.options)


def turns(cfg: Config) -> dict[tuple[str, ...], optim.Turn]:
    """Returns whose turn it is in each program that sees one dataset of several."""
    programs = mixture(cfg).programs(tuple(cfg.datasets))
    counts = {name: len(group) for name, group in groups(cfg).items()}
    found, start, total = {}, 0, sum(counts.values())
    for names in programs if len(programs) > 1 else ():
        (name,) = names
        found[names] = optim.Turn(name, slice(start, start := start + counts[name]), total)
    return found


def homes(cfg: Config) -> dict[str, optim.Home]:
    """Returns which parameters belong to datasets: those below its name, or slices of theirs."""
    made = mtl.abstract(model(cfg))
    kinds = {name: [task.kind for task in group] for name, group in groups(cfg).items()}
    found = {}
    for path in mtl.parameters(made):
        own = [name for name in kinds if name in path.split("/")]
        if own:
            found[path] = optim.Home(((own[0], 0, 0),))
    for path, (names, axis) in mtl.owners(made, kinds).items():
        if path not in found:
            places, parts = [name.rpartition("/")[0] for name in names], []
            for name in dict.fromkeys(places):
                start = places.index(name)
                parts.append((name, start, start + places.count(name)))
            found[path] = optim.Home(tuple(parts), axis)
    return found


def images_per_step(cfg: Config) -> int:
    """Returns how many images a step takes; where datasets take turns, the most it may."""
    programs = mixture(cfg).programs(tuple(cfg.datasets))
    return max(sum(cfg.datasets[name].batch for name in names) for names in programs)


def optimizer(cfg: Config, turn: optim.Turn | None = None) -> optax.GradientTransformationExtraArgs:
    """Returns the optax chain of the program of a turn; that of any turn makes their one state."""
    every = turns(cfg)
    turn = turn or next(iter(every.values()), None)
    lr = optim.scaled_lr(cfg.optim.lr, batch=images_per_step(cfg), lr_batch=cfg.optim.lr_batch)
    schedule = optim.SCHEDULES[cfg.schedule.name]
    made, names, owned = methods(cfg), tasks(cfg), owners(cfg)
    first, weighting = None, made.weighting
    if turn and not made.plain:
        of = {one.dataset: names[one.places] for one in every.values()}
        first = optim.in_turn(
            {name: optim.first_link(made, own, owned) for name, own in of.items()}, turn
        )
        counts = {name: len(own) for name, own in of.items()}
        weighting = weighting and optim.weighting_in_turn(weighting, counts, turn)
    elif not made.plain:
        first = optim.first_link(made, names, owned)
    return optim.chain(
        optim.optimizer_in_turn(
            optim.OPTIMIZERS[cfg.optimizer.name],
            cfg.optim.decay,
            cfg.optimizer.options,
            homes=homes(cfg) if turn else {},
            turn=turn,
        ),
        schedule(lr=lr, steps=cfg.run.steps, **cfg.schedule.options),
        first=first,
        weighting=weighting,
        balance=None if made.plain else made.balance,
        tasks=names[turn.places] if turn else names,
        owners=owned,
        clip_norm=cfg.optim.clip_norm,
        lr_scale=cfg.optim.lr_scale,
        turn=turn,
    )


def source(cfg: Config, name: str, split: str) -> Source:
    """Returns the examples of one split of one dataset.

    Raises:
      DataError: they are not there; names the command that prepares them.
    """
    data = cfg.datasets[name]
    return _source(cfg.input.source, name, data.root, data.config, split, data.tasks)


@functools.cache  # scenes in memory are rendered once, prepared data is opened once
def _source(
    where: str, name: str, root: str, config: str, split: str, kinds: tuple[str, ...]
) -> Source:
    if where == "memory":
        return DATASETS[name].memory(config, split, kinds)
    return DATASETS[name].source(root, config, split, kinds)


def train_batches(cfg: Config, first: int) -> Iterator[dict[str, Any]]:
    """Yields ``{dataset: host batch}`` for step `first` and all that follow."""

    def stream(name: str, start: int) -> Iterator[Any]:
        data = cfg.datasets[name]
        transform = train_transform(
            cfg.protocol,
            size=data.size,
            kinds=data.tasks,
            augment=Augment(**data.augment),
            normals_sign=data.normals_sign,
        )
        return pipeline.train_batches(
            source(cfg, name, "train"),
            transform,
            batch=data.batch,
            seed=cfg.seed,
            start_step=start,
            **hosts(cfg, name),
        )

    lengths = {name: len(source(cfg, name, "train")) for name in cfg.datasets}
    return mixture(cfg).batches(stream, lengths, seed=cfg.seed, first=first)


def eval_batches(
    cfg: Config, name: str, split: str, limit: int = 0
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields (host batch, ids and sizes) over a split, ``""`` for the one that papers report.

    Args:
      cfg: the config.
      name: of the dataset.
      split: its split.
      limit: images from the front, 0 for all.
    """
    data = cfg.datasets[name]
    examples = source(cfg, name, split or DATASETS[name].split)
    if limit:
        examples = pipeline.Head(examples, limit)
    transform = eval_transform(
        cfg.protocol, size=data.size, kinds=data.tasks, normals_sign=data.normals_sign
    )
    return pipeline.eval_batches(examples, transform, batch=cfg.eval.batch, **hosts(cfg, name))


def hosts(cfg: Config, name: str) -> dict[str, Any]:
    """Returns what every stream is told about hosts and workers."""
    return dict(
        name=name,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=cfg.input.workers,
        processes=cfg.input.processes,
    )
