"""What a config may say, and the check that reports all faults of one together.

A config file gives a `ml_collections.ConfigDict` of plain values; `check` turns it into the
frozen `Config` below. Nothing after it sees a ConfigDict, and no field has a hidden default.
"""

import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from mtl_vision.errors import ConfigError, nearest

# What the program hands to the factories of a section itself.
GIVEN = {
    "backbone": {"rngs", "dtype"},
    "adapter": {"rngs", "dtype", "tasks"},
    "decoder": {"rngs", "dtype", "outputs", "channels", "strides"},
    "schedule": {"steps", "lr"},
    "mixture": set(),
    "optim": set(),
    "optim.aggregator": {"watch", "seed"},
    "optim.weighting": set(),
    "optim.sam": {"flat", "pair", "seed"},
}


@dataclasses.dataclass(frozen=True)
class Component:
    """An entry of a table of factories and the fields the config gives it."""

    name: str
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Data:
    """One dataset of the run; every field may differ between datasets.

    Attributes:
      root: folder of the prepared data; ``""`` takes ``data.root``.
      config: name of the prepared configuration (its resolution and counts).
      size: height and width of the canvas in pixels.
      batch: images of this dataset in one step, over all devices; 0 takes ``data.batch``.
      tasks: the kinds to train, in the order of `mtl_vision.tasks.KINDS`.
      weight: factor on all losses of this dataset.
      normals_sign: factors on the components of its normals, where datasets disagree.
      augment: what training draws at random, see `mtl_vision.data.transforms.Augment`.
    """

    root: str
    config: str
    size: tuple[int, int]
    batch: int
    tasks: tuple[str, ...]
    weight: float
    normals_sign: tuple[int, int, int]
    augment: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Input:
    """Where examples come from.

    Attributes:
      source: ``tfds`` reads prepared data, ``memory`` renders synthetic scenes once into RAM.
      workers: threads that read and augment.
      processes: worker processes that do so instead; 0 uses the threads.
    """

    source: str
    workers: int
    processes: int


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How devices share model and batch; see `mtl_vision.placements.preset`."""

    preset: str
    slices: int
    tensor: int


@dataclasses.dataclass(frozen=True)
class Eval:
    """Evaluation.

    Attributes:
      split: split of the final figures; ``""`` takes the one each dataset's papers report.
      monitor: split looked at during training.
      batch: images in one step, over all devices.
      limit: images per dataset during training, 0 for all; the final figures use all.
      workers: processes that match edges for odsF.
    """

    split: str
    monitor: str
    batch: int
    limit: int
    workers: int


@dataclasses.dataclass(frozen=True)
class Run:
    """Length and rhythm of a run, in optimizer steps; an interval of 0 means never.

    Attributes:
      best: metric whose best checkpoint is kept too, such as ``synth_nyud/semseg/mIoU``;
        ``""`` keeps none. Needs ``eval_every``.
      keep: newest checkpoints kept.
      panels: images per dataset in the prediction panels.
      conflicts_every: steps between two looks at the tasks' gradients: their norms and cosines, the
        conflicting pairs, the weights, and a picture. Takes per-task gradients in every step.
      not_finite: what a step does whose loss, gradient or update is not finite: ``stop`` the run,
        ``skip`` the step and count it, or ``roll_back`` to the newest checkpoint and go on with
        the batches after it.
      stall: seconds without a step after which the stacks of all threads are dumped, and a run of
        several processes ends; 0 for never. Compiling counts.
      dry: print the resolved plan and stop.
    """

    steps: int
    log_every: int
    eval_every: int
    save_every: int
    keep: int
    best: str
    panels: int
    conflicts_every: int
    not_finite: str
    stall: int
    dry: bool


@dataclasses.dataclass(frozen=True)
class Optim:
    """Gradients to updates.

    Attributes:
      lr: peak learning rate; the rate used is ``lr * batch / lr_batch``, batch counting the
        images of a step, or `lr` itself when `lr_batch` is 0.
      clip_norm: largest global gradient norm, 0 for no clipping.
      decay: (path regex, factor on the weight decay) rules; ``()`` decays all but vectors and
        biases.
      lr_scale: (path regex, factor on the learning rate) rules.
      accumulate: micro-batches one step is cut into.
      per_task: how per-task gradients are taken, where the aggregator needs them: ``vmap``,
        ``scan``, ``passes``, ``two_pass`` or ``features``; see `mtl_vision.train.per_task`.
      ema: decay of the moving average of the parameters, 0 for none.
    """

    lr: float
    lr_batch: int
    clip_norm: float
    decay: tuple[tuple[str, float], ...]
    lr_scale: tuple[tuple[str, float], ...]
    accumulate: int
    per_task: str
    ema: float


@dataclasses.dataclass(frozen=True)
class Config:
    """A checked config.

    Attributes:
      seed: of parameters, data order, augmentation and dropout.
      protocol: ``A`` or ``B``, the family of transforms, losses and metrics.
      dtype: compute type; parameters, losses and sums are float32.
      loss_weights: factor on a task's loss, by kind.
      weights: file of pretrained weights for the backbone, ``""`` for none; see
        `mtl_vision.models.pretrained`. In a config it is a field of ``backbone``.
      mixture: how the datasets make up the steps: ``paired``, ``alternate`` or ``mixed_canvas``;
        see `mtl_vision.data.mixture`.
      adapter: what is added to the backbone, in order.
      trainable: (path regex, whether it trains) rules; ``()`` trains what the adapters' papers do,
        and everything where there is no adapter.
      init_from: run folder whose newest checkpoint gives parameters and statistics, ``""`` for
        none; never its step or optimizer.
      init_skip: regexes of paths that `init_from` leaves as they are.
    """

    seed: int
    protocol: str
    dtype: str
    input: Input
    datasets: Mapping[str, Data]
    loss_weights: Mapping[str, float]
    backbone: Component
    weights: str
    adapter: tuple[Component, ...]
    decoder: Component
    trainable: tuple[tuple[str, bool], ...]
    init_from: str
    init_skip: tuple[str, ...]
    mixture: Component
    optim: Optim
    optimizer: Component
    aggregator: Component
    weighting: Component
    sam: Component
    schedule: Component
    mesh: Mesh
    eval: Eval
    run: Run


def field_types(cls: type) -> dict[str, Any]:
    """Returns the types of a dataclass's fields by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def dotted(field: str, name: str) -> str:
    """Returns how messages call a field."""
    return ".".join(filter(None, ("config", field, name)))


def fits(value: Any, kind: Any) -> bool:
    """Says whether a plain value is of an annotated type; ints pass as floats, bools do not."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Any, inspect.Parameter.empty):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, k) for k in args)
    if origin is tuple or kind is tuple:
        if not isinstance(value, tuple):
            return False
        if not args:
            return True
        if args[-1] is Ellipsis:
            return all(fits(v, args[0]) for v in value)
        return len(value) == len(args) and all(map(fits, value, args))
    if kind is float:
        number = isinstance(value, float | int) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(origin or kind, type):
        return isinstance(value, origin or kind)
    return True


def name_of(kind: Any) -> str:
    """Returns how messages call a type."""
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


class Faults:
    """Collects what is wrong with a config."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, fault: str) -> None:
        """Notes one fault."""
        self.found.append(fault)

    def check(self, right: bool, fault: str) -> None:
        """Notes `fault` unless `right`."""
        if not right:
            self.add(fault)

    def unknown(self, field: str, values: Mapping[str, Any], wanted: Iterable[str]) -> None:
        """Notes every field that is not wanted."""
        wanted = list(wanted)
        for name in values:
            if name not in wanted:
                hint = nearest(name, wanted) or f" It takes {', '.join(wanted) or 'none'}."
                self.add(f"{dotted(field, name)} is unknown.{hint}")

    def names(self, field: str, values: Mapping[str, Any], wanted: Iterable[str]) -> None:
        """Notes every field that is unknown, and every one that is missing."""
        self.unknown(field, values, wanted)
        for name in wanted:
            self.check(name in values, f"{dotted(field, name)} is missing.")

    def types(self, field: str, values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
        """Notes every value of a known field that is of another type."""
        for name, kind in kinds.items():
            if name in values and not fits(values[name], kind):
                expected = name_of(kind)
                self.add(f"{dotted(field, name)}={values[name]!r} is not of type {expected}.")

    def record(self, cls: type, field: str, values: Any) -> Any:
        """Returns `cls` filled with `values`, or None and the faults noted."""
        if not isinstance(values, Mapping):
            self.add(f"config.{field}={values!r} is not a section of fields.")
            return None
        kinds, before = field_types(cls), len(self.found)
        self.names(field, values, kinds)
        self.types(field, values, kinds)
        return cls(**values) if len(self.found) == before else None

    def component(
        self,
        field: str,
        values: Any,
        table: Mapping[str, Callable],
        *,
        also: Callable | None = None,
        beside: Iterable[str] = (),
    ) -> Any:
        """Returns the `Component` that `values` describe, its fields held to the factory's.

        Args:
          field: where the values stand.
          values: ``name`` and the factory's fields.
          table: factories by name.
          also: one more function whose fields may be there.
          beside: fields of the same section that are checked elsewhere, for hints.
        """
        if not isinstance(values, Mapping) or "name" not in values:
            self.add(f"config.{field} needs a name, one of {', '.join(sorted(table))}.")
            return None
        options = {k: v for k, v in values.items() if k != "name"}
        name = values["name"]
        if name not in table:
            choices = ", ".join(sorted(table))
            self.add(
                f"config.{field}.name={name!r} is not one of {choices}.{nearest(str(name), table)}"
            )
            return None
        kinds = options_of(also, GIVEN[field]) if also else {}
        kinds |= options_of(table[name], GIVEN[field])
        self.unknown(field, options, [*beside, *kinds])
        self.types(field, options, kinds)
        return Component(name, options)

    def raise_any(self) -> None:
        """Raises one ConfigError that lists all faults."""
        if self.found:
            raise ConfigError("\n       ".join(self.found))


def options_of(factory: Callable, given: Collection[str]) -> dict[str, Any]:
    """Returns the fields a config may give a factory, with their types.

    They are its keyword-only parameters, without those that a `functools.partial` has set and
    those that the program has `given`.
    """
    fixed = set(given)
    while isinstance(factory, functools.partial):
        fixed |= factory.keywords.keys()
        factory = factory.func
    function = factory.__init__ if isinstance(factory, type) else factory
    hints = typing.get_type_hints(function)
    return {
        name: hints.get(name, Any)
        for name, p in inspect.signature(function).parameters.items()
        if p.kind is p.KEYWORD_ONLY and name not in fixed
    }
