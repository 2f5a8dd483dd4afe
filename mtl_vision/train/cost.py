"""Parameters and multiply-adds of a config by component, without making an array."""

import dataclasses
from collections import Counter

from flax import nnx

from mtl_vision import build
from mtl_vision.config import Config
from mtl_vision.models import flops, mtl
from mtl_vision.train.log import table
from mtl_vision.train.plan import component


def costs(cfg: Config, model: nnx.Module) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Counts by component: ``backbone``, ``adapters`` (what they add to it), parts of the decoder.

    Args:
      cfg: of the model.
      model: what `build.model` makes of it, abstract or not.

    Returns: parameters, and multiply-adds by dataset for one image of its size; see `flops.RULE`.
    """
    parameters, work = _parts(mtl.sizes(model)), {}
    for dataset, data in cfg.datasets.items():
        work[dataset] = _parts(flops.by_component(model, dataset=dataset, size=data.size))
    if cfg.adapter:
        bare = mtl.abstract(build.model(dataclasses.replace(cfg, adapter=())))
        parameters = _apart(parameters, _parts(mtl.sizes(bare))["backbone"])
        for dataset, data in cfg.datasets.items():
            alone = flops.backbone(bare, dataset=dataset, size=data.size)
            work[dataset] = _apart(work[dataset], alone)
    return parameters, work


def _parts(counts):
    found: Counter[str] = Counter()
    for path, count in counts.items():
        below = path.split("/")[0] == "backbone"
        found["backbone" if below else component(f"{path}/")] += count
    return dict(found)


def _apart(found, bare):
    """Splits what adapters add from the backbone, which comes first and costs `bare` alone."""
    parts = {"backbone": bare, "adapters": found["backbone"] - bare}
    return parts | {name: count for name, count in found.items() if name not in parts}


def describe(cfg: Config) -> str:
    """Returns the table of `costs`, with the rule by which multiply-adds are counted.

    Where a decoder leaves out what its authors' model has and never reads, a last row has it.
    """
    model = mtl.abstract(build.model(cfg))
    parameters, work = costs(cfg, model)
    sizes = [f"{name} {data.size[0]}x{data.size[1]}" for name, data in cfg.datasets.items()]
    rows = [["component", "parameters", *(f"{size} (G)" for size in sizes)]]
    for name in dict.fromkeys([*parameters, *(name for found in work.values() for name in found)]):
        rows.append(_row(name, parameters.get(name, 0), [w.get(name) for w in work.values()]))
    totals = [sum(found.values()) for found in work.values()]
    rows.append(_row("total", sum(parameters.values()), totals))
    if hasattr(model.decoder, "unread"):
        unread = [model.decoder.unread(name, data.size) for name, data in cfg.datasets.items()]
        numbers, products = zip(*unread, strict=True)
        rows.append(_row("not built: published, unread", sum(numbers), products))
    return f"{table(rows, right=range(1, len(rows[0])))}\n\n{flops.RULE}"


def _row(name, parameters, work):
    return [name, f"{parameters:,}", *("-" if n is None else f"{n / 1e9:.2f}" for n in work)]
