"""What docs/backbones.md says of models and files is what there is."""

import functools
import pathlib
import re

import pytest
from flax import nnx

from mtl_vision.models import mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.pretrained import FORMATS

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "backbones.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| (\d+) \|", TEXT, re.MULTILINE)


def test_every_backbone_and_format_is_described():
    assert {name for name, *_ in ROWS} == BACKBONES.keys() - {"swin", "vit"}
    assert not [key for key in FORMATS if f"`{key}`" not in TEXT]


@functools.cache
def count(name):
    options = dict(scan=True) if name.startswith("vit") else {}
    model = mtl.abstract(lambda: BACKBONES[name](**options, rngs=nnx.Rngs(0)))
    return sum(mtl.sizes(model).values())


@pytest.mark.parametrize("name, exact, paper", ROWS)
def test_parameters_are_those_of_the_papers(name, exact, paper):
    assert count(name) == int(exact.replace(",", ""))
    assert abs(count(name) / 1e6 / int(paper) - 1) < 0.06  # rounded, some with a classifier
