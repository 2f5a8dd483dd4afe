"""A config small enough for tests: both datasets in memory, a Swin of three blocks."""

import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]


def values(**fields: Any) -> dict[str, Any]:
    """Returns the quickstart config shrunk; `fields` are overrides, ``__`` for the dots."""
    sys.path.insert(0, str(ROOT / "configs"))
    try:
        import quickstart
    finally:
        sys.path.pop(0)
    found = quickstart.get_config().to_dict()
    found["data"] |= {"source": "memory", "workers": 0, "batch": 4}
    for name, size in (("synth_pascal", (32, 32)), ("synth_nyud", (28, 36))):
        found["data"][name] |= {"config": "32-16-4-6", "size": size}
    found["backbone"] |= {"embed": 8, "depths": (2, 1), "heads": (1, 2), "window": 4}
    found["decoder"] |= {"width": 8}
    found["schedule"] |= {"warmup": 2}
    found["eval"] |= {"batch": 4, "limit": 4, "workers": 0}
    found["run"] |= {"steps": 6, "log_every": 2, "eval_every": 0, "save_every": 2, "panels": 1}
    for field, value in fields.items():
        *sections, name = field.split("__")
        section = found
        for s in sections:
            section = section[s]
        section[name] = value
    return found


def small(**fields: Any) -> dict[str, Any]:
    """Returns `values` with two tasks of one dataset, for runs that start often."""
    found = values(**fields)
    del found["data"]["synth_pascal"]
    found["data"]["synth_nyud"] |= {"config": "32-8-4-4", "tasks": ("semseg", "depth")}
    found["backbone"] |= {"depths": (1, 1)}
    return found
