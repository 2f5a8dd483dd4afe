"""Records of reference implementations: where they are, what is in them, how close is equal."""

import json
import os
import pathlib
from typing import Any

import numpy as np

FOLDER = pathlib.Path(
    os.environ.get("MTL_VISION_FIXTURES") or pathlib.Path(__file__).parents[1] / "fixtures"
)


def records(kind: str) -> list[pathlib.Path]:
    """Returns every record of exactly this kind, ``<kind>_<name>.npz``; there must be one."""
    found = [
        f for f in sorted(FOLDER.glob(f"{kind}_*.npz")) if f.stem.count("_") == kind.count("_") + 1
    ]
    assert found, f"no record of kind {kind!r} in {FOLDER}"
    return found


def family(name: str) -> list[pathlib.Path]:
    """Returns every record ``<name>_<data set>_<letter>.npz``; there must be one."""
    depth = name.count("_") + 2
    found = [f for f in sorted(FOLDER.glob(f"{name}_*.npz")) if f.stem.count("_") == depth]
    assert found, f"no record of family {name!r} in {FOLDER}"
    return found


def aggregators() -> list[pathlib.Path]:
    """Returns every ``aggregators*.npz``; there must be one. Their metadata is ``meta_json``."""
    found = sorted(FOLDER.glob("aggregators*.npz"))
    assert found, f"no record of kind 'aggregators' in {FOLDER}"
    return found


def load(file: pathlib.Path) -> tuple[dict[str, Any], Any]:
    """Returns (metadata, arrays by name, read when asked for)."""
    arrays = np.load(file, allow_pickle=False)
    meta = "meta_json" if "meta_json" in arrays else "meta"
    return json.loads(str(arrays[meta])), arrays


def group(arrays: Any, prefix: str) -> dict[str, np.ndarray]:
    """Returns the arrays below ``prefix/``, by the rest of their names."""
    return {
        name.removeprefix(f"{prefix}/"): arrays[name]
        for name in arrays.files
        if name.startswith(f"{prefix}/")
    }


def assert_close(actual: Any, expected: Any, tolerance: float, what: str = "") -> None:
    """Asserts ``max |a - b| <= tolerance * max |b|``."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    error = np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30)
    assert error <= tolerance, f"{what}: off by {error:.2e}, at most {tolerance:.0e} is right"
