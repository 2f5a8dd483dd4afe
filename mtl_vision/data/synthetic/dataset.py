"""SynthScenes as entries of `data.DATASETS`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from mtl_vision.data.synthetic.labels import DOMAINS, HUMAN_PARTS, KINDS, SEMSEG
from mtl_vision.data.synthetic.plans import plan

MAX_DIST = {"synth_pascal": 0.0075, "synth_nyud": 0.011}

__all__ = ["DOMAINS", "KINDS", "checker", "memory", "prepared", "tasks"]


def tasks(domain: str) -> Callable[[str], dict[str, Any]]:
    """Returns ``protocol -> {kind: Task}``."""
    return partial(_tasks, domain)


def _tasks(domain: str, protocol: str) -> dict[str, Any]:
    # jax is not needed to render, and worker processes start without it.
    from mtl_vision.tasks import TASKS

    options = {
        "semseg": {"classes": SEMSEG[domain]},
        "human_parts": {"classes": HUMAN_PARTS},
        "edge": {"max_dist": MAX_DIST[domain]},
    }
    return {k: TASKS[k](domain, protocol, **options.get(k, {})) for k in KINDS[domain]}


def memory(domain: str) -> Callable[..., Any]:
    """Returns ``(config, split, kinds, seed=0, **render options) -> MemorySource``."""
    return partial(_memory, domain)


def _memory(domain: str, config: str, split: str, kinds: tuple[str, ...], **options: Any) -> Any:
    from mtl_vision.data.synthetic import source

    chosen = plan(config)
    count, size = chosen.counts[split], chosen.sizes[domain]
    return source.in_memory(domain, split, count, size, kinds, **options)


def prepared(domain: str) -> Callable[..., Any]:
    """Returns ``(root, config, split, kinds) -> TfdsSource``."""
    return partial(_prepared, domain)


def _prepared(domain: str, root: str, config: str, split: str, kinds: tuple[str, ...]) -> Any:
    from mtl_vision.data.records import TfdsSource

    _check(domain, root, config, split, kinds)
    return TfdsSource((root, domain, plan(config).name), split, tuple(kinds))


def checker(domain: str) -> Callable[..., None]:
    """Returns ``(root, config, split, kinds)``, which raises DataError if there is no such data."""
    return partial(_check, domain)


def _check(domain: str, root: str, config: str, split: str, kinds: tuple[str, ...]) -> None:
    from mtl_vision.data.records import check

    command = f"python scripts/prepare_data.py --dataset {domain} --config {config}"
    plan(config)
    check(root, domain, config, split, kinds, command=f"{command} --data_dir {root}")
