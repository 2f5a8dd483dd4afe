"""One task of a model by itself, for inference."""

from mtl_vision.errors import ConfigError, nearest
from mtl_vision.models.adapters import streams
from mtl_vision.models.decoders.per_task import PerTask, check_dataset
from mtl_vision.models.mtl import MultiTask


def for_task(model: MultiTask, dataset: str, kind: str) -> MultiTask:
    """Returns the model of one task: its stream and its head, and of mixtures its experts.

    The prediction is that of the whole model. All variables are shared with it, but for slices of
    what is stacked by task.

    Args:
      model: its decoder has heads that do not see each other, a `PerTask`.
      dataset, kind: of the task.

    Raises:
      ConfigError: an unknown task, or a decoder whose tasks see each other.
    """
    decoder = model.decoder
    if not isinstance(decoder, PerTask):
        raise ConfigError(
            "the tasks of this decoder see each other or share its computation, so none can run "
            "alone; use one with a head for every task, such as pup, hrnet or all_mlp."
        )
    check_dataset(dataset, decoder.kinds)
    if kind not in (kinds := decoder.kinds[dataset]):
        raise ConfigError(
            f"{dataset} has no head for {kind!r}, only for {', '.join(kinds)}."
            f"{nearest(kind, kinds)}"
        )
    head = decoder.heads[dataset][kind]
    outputs = {dataset: {kind: 0}}
    return MultiTask(_stream(model.backbone, dataset, kind), PerTask(outputs, lambda _: head))


def _stream(backbone, dataset, kind):
    names = [name for name in (f"{dataset}/{kind}", kind) if name in backbone.tasks]
    if not names:
        return backbone
    # As if every task were a data set of its own.
    apart = streams.copy(backbone)
    apart.tasks = tuple(f"{name}/" for name in backbone.tasks)
    made = streams.select(apart, names[0])
    made.tasks = (names[0],)
    return made
