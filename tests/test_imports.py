"""The import statements of the package: down only, light where it must be light."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "mtl_vision"
# What a module may import from the package, besides itself; a folder counts as one module.
BELOW = {
    "errors": set(),
    "rules": {"errors"},
    "config": {"errors"},
    "files": {"errors"},
    "allocator": set(),
    "watchdog": set(),
    "hosts": {"errors", "watchdog"},
    "cli": {"allocator", "errors", "hosts"},
    "losses": {"errors"},
    "metrics": {"errors", "losses"},
    "tasks": {"errors", "losses", "metrics"},
    "data": {"allocator", "errors", "tasks", "metrics"},
    "models": {"errors", "rules"},
    "optim": {"errors", "rules"},
    "placements": {"errors", "rules"},
    "parallel": {"errors", "rules", "placements"},
    "tables": {"cli", "errors", "tasks"},
    "viz": {"errors", "tasks"},
    "report": {"errors", "files", "tasks", "metrics"},
    "check": {"errors", "config", "data", "models", "optim", "placements", "tasks"},
    "build": {"errors", "config", "data", "models", "optim", "parallel", "placements", "rules"}
    | {"tasks"},
    "train": None,
    "evaluate": None,
    "results": None,
    "predictions": {"errors", "files"},
    "fronts": None,
    "predict": None,
    "study": None,
}
HEAVY = {"tensorflow_datasets", "grain", "cv2", "ml_collections", "tensorboardX", "torch"}
CORE = {
    "errors",
    "rules",
    "losses",
    "metrics",
    "tasks",
    "models",
    "optim",
    "parallel",
    "placements",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(file: pathlib.Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: pathlib.Path) -> set[str]:
    """Dotted names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module)
            if node.module == "mtl_vision":
                names |= {f"mtl_vision.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_down(file):
    names = {n.split(".")[1] for n in imported(file) if n.startswith("mtl_vision.")}
    if room(file) == "__init__":
        assert not names
        return
    allowed = BELOW[room(file)]
    if allowed is not None:
        assert names <= allowed | {room(file)}, f"{file} reaches up or sideways"
    assert not names & {"scripts", "configs"}


@pytest.mark.parametrize("file", [f for f in FILES if room(f) in CORE], ids=str)
def test_the_core_needs_no_data_or_logging_library(file):
    assert not {n.split(".")[0] for n in imported(file)} & HEAVY


def test_importing_the_program_touches_no_device():
    modules = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in FILES]
    modules = [m.removesuffix(".__init__") for m in modules]
    code = "; ".join(f"import {m}" for m in modules) + (
        "; from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_scenes_in_memory_need_no_tfds_and_no_grain():
    code = """
import sys
for name in ("tensorflow_datasets", "grain", "array_record", "tensorboardX"):
    sys.modules[name] = None
from mtl_vision import build, evaluate
from mtl_vision.check import check
from mtl_vision.train import loop
from tests import tiny
batch = next(build.train_batches(check(tiny.values()), 0))
assert batch["synth_nyud"]["labels"]["depth"].shape == (4, 28, 36)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
