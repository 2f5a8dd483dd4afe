"""What the documentation says can be run, and names what exists."""

import pathlib
import re

import pytest

from mtl_vision.models.adapters import ADAPTERS
from mtl_vision.optim.loss_weightings import LOSS_WEIGHTINGS
from mtl_vision.optim.methods import AGGREGATORS, PER_TASK, SAMS

ROOT = pathlib.Path(__file__).parents[1]
OPTIMIZERS = (ROOT / "docs" / "optimizers.md").read_text()


@pytest.mark.parametrize("table", [AGGREGATORS, LOSS_WEIGHTINGS, PER_TASK, set(SAMS) - {"none"}])
def test_every_method_is_described(table):
    missing = [name for name in table if f"`{name}`" not in OPTIMIZERS]
    assert not missing


def test_every_adapter_is_described():
    text = (ROOT / "docs" / "adapters.md").read_text()
    assert not [n for n in ADAPTERS if f"`{n.removesuffix('_v')}`" not in text]


def test_the_readme_counts_them():
    text = (ROOT / "README.md").read_text()
    assert f"{len(AGGREGATORS)} gradient aggregators, {len(LOSS_WEIGHTINGS)} loss" in text


def test_the_snippet_runs(capsys):
    code = re.search(r"```python\n(.*?)```", OPTIMIZERS, re.DOTALL).group(1)
    exec(compile(code, "optimizers.md", "exec"), {})
    first, second = map(float, capsys.readouterr().out.strip(" []\n").split())
    assert first < 4 and second < 7  # 1.25 and 10.25 at the start
