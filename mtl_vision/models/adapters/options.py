"""Options that are one number for all, or one per stage, or differ by task."""

from collections.abc import Mapping, Sequence

from mtl_vision.errors import ConfigError, nearest

Numbers = int | float | tuple[int | float, ...]  # for all stages, or one per stage
TaskNumbers = Numbers | Mapping[str, Numbers]


def per_stage(value: Numbers, stages: int, field: str) -> tuple[int | float, ...]:
    """Returns one number per stage.

    Raises:
      ConfigError: `value` has another length.
    """
    if not isinstance(value, tuple):
        return (value,) * stages
    if len(value) not in (1, stages):
        raise ConfigError(
            f"config.adapter.{field}={value} needs one number, or one for each of the backbone's "
            f"{stages} stages."
        )
    return value * stages if len(value) == 1 else value


def per_task(
    value: TaskNumbers, tasks: Sequence[str], stages: int, field: str
) -> list[tuple[int | float, ...]]:
    """Returns for every stage one number per task, in the order of `tasks`.

    Args:
      value: for all tasks, or by task: a name ``dataset/kind``, or a kind for all that have it.
      tasks: names.
      stages: how many.
      field: the option's name in messages.

    Raises:
      ConfigError: a task without a value, a value without a task, or one of another length.
    """
    if not isinstance(value, Mapping):
        value = dict.fromkeys(tasks, value)
    kinds = {name: name.rpartition("/")[2] for name in tasks}
    for key in value:
        if key not in kinds and key not in kinds.values():
            raise ConfigError(
                f"config.adapter.{field}.{key} is none of the tasks {', '.join(tasks)}."
                f"{nearest(key, [*kinds, *kinds.values()])}"
            )
    rows = []
    for name, kind in kinds.items():
        key = name if name in value else kind
        if key not in value:
            raise ConfigError(
                f"config.adapter.{field}={dict(value)} has no number for {name}; add {kind}."
            )
        rows.append(per_stage(value[key], stages, f"{field}.{key}"))
    return list(zip(*rows, strict=True))
