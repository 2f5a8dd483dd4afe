"""The check of a config: every fault reported together, before any array is made."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtl_vision.config import Config, Data, Eval, Faults, Input, Mesh, Optim, Run, field_types
from mtl_vision.data import DATASETS
from mtl_vision.data.mixture import MIXTURES
from mtl_vision.data.transforms import Augment
from mtl_vision.errors import ConfigError, nearest
from mtl_vision.models.adapters import ADAPTERS
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.decoders import DECODERS
from mtl_vision.optim import OPTIMIZERS, SCHEDULES
from mtl_vision.optim.loss_weightings import LOSS_WEIGHTINGS
from mtl_vision.optim.methods import AGGREGATORS, PER_TASK, SAMS, merge, methods, try_out, unfit
from mtl_vision.placements import preset
from mtl_vision.tasks import KINDS

PLAIN = ("seed", "protocol", "dtype", "trainable", "init_from", "init_skip")
SECTIONS = ("data", "mixture", "loss_weights", "backbone", "adapter", "decoder", "optim")
SECTIONS = (*PLAIN, *SECTIONS, "schedule", "mesh", "eval", "run")
INPUT = ("source", "workers", "processes")
SHARED = ("root", "batch")  # of `data`, taken by datasets that leave theirs empty


def check(values: Mapping[str, Any]) -> Config:
    """Turns plain nested values into a `Config`.

    Args:
      values: what ``get_config().to_dict()`` gives, overrides included; lists count as tuples.

    Raises:
      ConfigError: names every field that is wrong, one a line.
    """
    values, faults = tuples(values), Faults()
    faults.names("", values, SECTIONS)
    faults.raise_any()
    kinds = field_types(Config)
    faults.types("", values, {name: kinds[name] for name in PLAIN})
    one_of(faults, "protocol", values["protocol"], ("A", "B"))
    one_of(faults, "dtype", values["dtype"], ("float32", "bfloat16"))
    input_, datasets = check_data(faults, values["data"], values["protocol"])
    check_weights(faults, values["loss_weights"], datasets)
    optim, optimizer, methods = check_optim(faults, values["optim"])
    config = dict(
        {k: values[k] for k in PLAIN},
        input=input_,
        datasets=datasets,
        mixture=faults.component("mixture", values["mixture"], MIXTURES),
        loss_weights=values["loss_weights"],
        optim=optim,
        optimizer=optimizer,
        **methods,
        **check_backbone(faults, values["backbone"]),
        adapter=check_adapter(faults, values["adapter"]),
        decoder=faults.component("decoder", values["decoder"], DECODERS),
        schedule=faults.component("schedule", values["schedule"], SCHEDULES),
        mesh=faults.record(Mesh, "mesh", values["mesh"]),
        eval=faults.record(Eval, "eval", values["eval"]),
        run=faults.record(Run, "run", values["run"]),
    )
    check_mesh(faults, config["mesh"])
    check_run(faults, config["run"], config["eval"], datasets)
    check_methods(faults, config)
    check_mixture(faults, config)
    faults.raise_any()
    return Config(**config)


def tuples(value: Any) -> Any:
    """Returns nested mappings as dicts and lists, as JSON has them, as tuples."""
    if isinstance(value, Mapping):
        return {k: tuples(v) for k, v in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value


def one_of(faults: Faults, field: str, value: Any, choices: Sequence[str]) -> None:
    """Notes a value that is not among `choices`."""
    if value not in choices:
        listed = ", ".join(choices)
        faults.add(
            f"config.{field}={value!r} is not one of {listed}.{nearest(str(value), choices)}"
        )


def check_data(faults: Faults, values: Any, protocol: str) -> tuple[Input | None, dict[str, Data]]:
    """Checks ``config.data``: the input's fields, and one section per dataset."""
    if not isinstance(values, Mapping):
        faults.add(f"config.data={values!r} is not a section of fields.")
        return None, {}
    own = {k: values[k] for k in INPUT if k in values}
    input_ = faults.record(Input, "data", own)
    if input_:
        one_of(faults, "data.source", input_.source, ("tfds", "memory"))
        low = min(input_.workers, input_.processes)
        faults.check(low >= 0, "config.data.workers and .processes cannot be negative.")
    shared = {k: values[k] for k in SHARED if k in values}
    for name in SHARED:
        faults.check(name in shared, f"config.data.{name} is missing.")
    faults.types("data", shared, {"root": str, "batch": int})
    sections = {k: v for k, v in values.items() if k not in (*INPUT, *SHARED)}
    faults.check(bool(sections), f"config.data names no dataset; known: {', '.join(DATASETS)}.")
    datasets = {}
    for name, section in sections.items():
        if name not in DATASETS:
            known = ", ".join(DATASETS)
            faults.add(
                f"config.data.{name} is neither a field nor one of the datasets {known}."
                f"{nearest(name, [*DATASETS, *INPUT, *SHARED])}"
            )
        elif data := check_dataset(faults, name, section, shared, protocol):
            datasets[name] = data
            held = input_ and input_.source == "memory" and not DATASETS[name].memory
            faults.check(not held, f"config.data.source: {name} is not rendered; use 'tfds'.")
    return input_, datasets


def check_dataset(
    faults: Faults, name: str, section: Any, shared: Mapping[str, Any], protocol: str
) -> Data | None:
    """Checks the section of one dataset and fills what it leaves to all."""
    field = f"data.{name}"
    if isinstance(section, Mapping):
        section = {
            k: shared[k] if k in shared and v in ("", 0) and not isinstance(v, bool) else v
            for k, v in section.items()
        }
    data = faults.record(Data, field, section)
    if data is None:
        return None
    kinds = DATASETS[name].kinds
    for task in data.tasks:
        hint = " Write several as \"('semseg','depth')\"." if "," in task else nearest(task, kinds)
        faults.check(
            task in kinds,
            f"config.{field}.tasks: {name} has no {task!r}, only {', '.join(kinds)}.{hint}",
        )
    faults.check(len(data.tasks) > 0, f"config.{field}.tasks is empty.")
    faults.check(len(set(data.tasks)) == len(data.tasks), f"config.{field}.tasks repeats a task.")
    faults.check(min(data.size) > 0, f"config.{field}.size={data.size} is not positive.")
    faults.check(data.batch > 0, f"config.{field}.batch={data.batch} is not positive.")
    augment = faults.record(Augment, f"{field}.augment", data.augment)
    if augment and protocol == "A":
        text = f"config.{field}.augment.max_share needs crops; protocol A has none. Use 1.0."
        faults.check(augment.max_share == 1, text)
    if augment and protocol == "B":
        text = f"config.{field}.augment.rotate: protocol B does not rotate. Use 0.0."
        faults.check(augment.rotate == 0, text)
    return data


def check_weights(faults: Faults, weights: Any, datasets: Mapping[str, Data]) -> None:
    """Checks that every task has a loss weight."""
    if not isinstance(weights, Mapping):
        faults.add(f"config.loss_weights={weights!r} is not a section of fields.")
        return
    faults.unknown("loss_weights", weights, KINDS)
    faults.types("loss_weights", weights, dict.fromkeys(KINDS, float))
    for kind in KINDS:
        used = any(kind in data.tasks for data in datasets.values())
        faults.check(not used or kind in weights, f"config.loss_weights.{kind} is missing.")


def check_adapter(faults: Faults, values: Any) -> tuple[Any, ...]:
    """Checks ``config.adapter``: one adapter, ``name="none"``, or a tuple of several."""
    several = (values,) if isinstance(values, Mapping) else values
    if not isinstance(several, tuple):
        faults.add(f"config.adapter={values!r} is neither a section nor a tuple of sections.")
        return ()
    if several == ({"name": "none"},):
        return ()
    table = ADAPTERS if len(several) != 1 else {**ADAPTERS, "none": no_adapter}
    return tuple(faults.component("adapter", one, table) for one in several)


def check_backbone(faults: Faults, values: Any) -> dict[str, Any]:
    """Checks ``config.backbone``: the file of weights, and the fields of the named backbone."""
    own = {k: v for k, v in values.items() if k != "weights"} if isinstance(values, Mapping) else {}
    weights = values["weights"] if len(own) < len(values) else ""
    faults.types("backbone", {"weights": weights}, {"weights": str})
    backbone = faults.component("backbone", own, BACKBONES, beside=["weights"])
    return {"backbone": backbone, "weights": weights}


def no_adapter() -> None:
    """Stands for ``config.adapter.name="none"`` in the choices; it takes no fields."""


METHODS = {
    "aggregator": (AGGREGATORS, merge),
    "weighting": (LOSS_WEIGHTINGS, None),
    "sam": (SAMS, None),
}


def check_optim(faults: Faults, values: Any) -> tuple[Optim | None, Any, dict[str, Any]]:
    """Checks ``config.optim``: the common fields, those of the named optimizer, and the methods."""
    if not isinstance(values, Mapping):
        faults.add(f"config.optim={values!r} is not a section of fields.")
        return None, None, dict.fromkeys(METHODS)
    common = field_types(Optim)
    optim = faults.record(Optim, "optim", {k: v for k, v in values.items() if k in common})
    own = {k: v for k, v in values.items() if k not in (*common, *METHODS)}
    optimizer = faults.component("optim", own, OPTIMIZERS, beside=[*common, *METHODS])
    methods = {
        name: faults.component(f"optim.{name}", values.get(name), table, also=also)
        for name, (table, also) in METHODS.items()
    }
    if optim:
        faults.check(optim.lr > 0, f"config.optim.lr={optim.lr} is not positive.")
        faults.check(optim.accumulate > 0, "config.optim.accumulate is not positive.")
        text = f"config.optim.ema={optim.ema} is a decay: 0 for none, or below 1."
        faults.check(0 <= optim.ema < 1, text)
        one_of(faults, "optim.per_task", optim.per_task, PER_TASK)
    return optim, optimizer, methods


def check_methods(faults: Faults, config: Mapping[str, Any]) -> None:
    """Checks that aggregator, weighting and SAM can be made, and that they fit together."""
    if faults.found:
        return  # what follows would report them again, in other words
    counts = [len(data.tasks) for data in config["datasets"].values()]
    steps = counts if config["mixture"].name == "alternate" else [sum(counts)]
    parts = [config[name] for name in METHODS]
    try:
        made = methods(*parts, watch=config["run"].conflicts_every)
        for tasks in steps:
            try_out(made, tasks)
    except ConfigError as e:
        faults.add(str(e))
        return
    optim = config["optim"]
    if text := unfit(made, optim.per_task, optim.accumulate):
        faults.add(text)


def check_mixture(faults: Faults, config: Mapping[str, Any]) -> None:
    """Checks the mixture's options, and what does not go with taking turns."""
    if faults.found:
        return
    chosen = config["mixture"]
    try:
        MIXTURES[chosen.name](**chosen.options)
    except ConfigError as e:
        faults.add(str(e))
    if chosen.name == "alternate" and any(one.name == "palora" for one in config["adapter"]):
        faults.add(
            "config.mixture.name='alternate' does not go with config.adapter.name='palora', whose "
            "preferences are between all tasks of a step. Use 'paired'."
        )


def check_mesh(faults: Faults, mesh: Mesh | None) -> None:
    """Checks that the preset is known and has the sizes given."""
    if mesh:
        try:
            preset(mesh.preset, slices=mesh.slices, tensor=mesh.tensor)
        except ConfigError as e:
            faults.add(str(e))


def check_run(
    faults: Faults, run: Run | None, evaluation: Eval | None, datasets: Mapping[str, Data]
) -> None:
    """Checks lengths and rhythms."""
    if run:
        faults.check(run.steps > 0, f"config.run.steps={run.steps} is not positive.")
        faults.check(run.log_every > 0, f"config.run.log_every={run.log_every} is not positive.")
        faults.check(run.keep > 0, f"config.run.keep={run.keep} is not positive.")
        low = min(run.eval_every, run.save_every, run.panels, run.conflicts_every, run.stall)
        text = "config.run.eval_every, .save_every, .panels, .conflicts_every and .stall: 0 means "
        faults.check(low >= 0, text + "never.")
        one_of(faults, "run.not_finite", run.not_finite, ("stop", "skip", "roll_back"))
        if run.best:
            tasks = [f"{name}/{kind}" for name, data in datasets.items() for kind in data.tasks]
            known = run.best.rpartition("/")[0] in tasks
            faults.check(
                known and run.eval_every > 0,
                f"config.run.best={run.best!r} is not a metric that is looked at during the run. "
                f"Use dataset/kind/key, and an eval_every above 0; tasks: {', '.join(tasks)}.",
            )
    if evaluation:
        faults.check(evaluation.batch > 0, "config.eval.batch is not positive.")
        low = min(evaluation.limit, evaluation.workers)
        faults.check(low >= 0, "config.eval.limit and .workers cannot be negative.")
