"""Parameters and multiply-adds of a config by component, without making an array."""

import dataclasses
from collections import Counter

from mtl_vision import build
from mtl_vision.config import Config
from mtl_vision.models import flops, mtl
from mtl_vision.train.log import table
from mtl_vision.train.plan import component


def costs(cfg: Config) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Counts by component: ``backbone``, ``adapters`` (what they add to it), parts of the decoder.

    Args:
      cfg: of the model.

    Returns: parameters, and multiply-adds by dataset for one image of its size; see `flops.RULE`.
    """
    model = mtl.abstract(build.model(cfg))
    bare = mtl.abstract(build.model(dataclasses.replace(cfg, adapter=())))
    parameters = _apart(_parts(mtl.sizes(model)), _parts(mtl.sizes(bare)), cfg)
    work = {}
    for dataset, data in cfg.datasets.items():
        found, without = (
            _parts(flops.by_component(m, dataset=dataset, size=data.size)) for m in (model, bare)
        )
        work[dataset] = _apart(found, without, cfg)
    return parameters, work


def _parts(counts):
    found: Counter[str] = Counter()
    for path, count in counts.items():
        below = path.split("/")[0] == "backbone"
        found["backbone" if below else component(f"{path}/")] += count
    return found


def _apart(found, bare, cfg):
    """Splits what adapters add to the backbone from it."""
    backbone, *others = found
    added = {"adapters": found[backbone] - bare[backbone]} if cfg.adapter else {}
    return {backbone: bare[backbone]} | added | {name: found[name] for name in others}


def describe(cfg: Config) -> str:
    """Returns the table of `costs`, with the rule by which multiply-adds are counted.

    Where a decoder leaves out what its authors' model has and never reads, a last row has it.
    """
    parameters, work = costs(cfg)
    sizes = [f"{name} {data.size[0]}x{data.size[1]}" for name, data in cfg.datasets.items()]
    rows = [["component", "parameters", *(f"{size} (G)" for size in sizes)]]
    for name in dict.fromkeys([*parameters, *(name for found in work.values() for name in found)]):
        rows.append(_row(name, parameters.get(name, 0), [w.get(name) for w in work.values()]))
    totals = [sum(found.values()) for found in work.values()]
    rows.append(_row("total", sum(parameters.values()), totals))
    decoder = mtl.abstract(build.model(cfg)).decoder
    if hasattr(decoder, "unread"):
        unread = [decoder.unread(name, data.size) for name, data in cfg.datasets.items()]
        numbers, products = zip(*unread, strict=True)
        rows.append(_row("not built: published, unread", sum(numbers), products))
    return f"{table(rows, right=range(1, len(rows[0])))}\n\n{flops.RULE}"


def _row(name, parameters, work):
    return [name, f"{parameters:,}", *("-" if n is None else f"{n / 1e9:.2f}" for n in work)]
