"""From the command line to named settings."""

import pytest

from mtl_vision.errors import ConfigError
from mtl_vision.study import axes


def test_a_grid_is_named_by_the_shortest_ends_of_its_fields():
    found = axes.grid(["adapter.rank=16,32", "optim.aggregator.name=sum,pcgrad"])
    assert [s.name for s in found] == [
        f"rank={r},name={n}" for r in (16, 32) for n in ("sum", "pcgrad")
    ]
    assert found[1].overrides == ("adapter.rank=16", "optim.aggregator.name=pcgrad")
    assert found[1].at == {"rank": "16", "name": "pcgrad"}


def test_names_keep_fields_apart():
    assert axes.shorten(["adapter.name", "optim.sam.name", "optim.lr"]) == {
        "adapter.name": "adapter.name",
        "optim.sam.name": "sam.name",
        "optim.lr": "lr",
    }


def test_values_with_commas_are_separated_by_semicolons():
    found = axes.grid(["data.d.size=(64,64);(96,96)"])
    assert [s.overrides for s in found] == [("data.d.size=(64,64)",), ("data.d.size=(96,96)",)]
    assert [s.name for s in found] == ["size=_64,64_", "size=_96,96_"]


def test_fields_can_vary_together():
    found = axes.grid(["adapter.name=lora+optim.lr=0.1,adapter.name=ssf+optim.lr=0.2", "seed=1,2"])
    assert found[3].overrides == ("adapter.name=ssf", "optim.lr=0.2", "seed=2")
    assert found[3].at == {"name+lr": "ssf+0.2", "seed": "2"}


def test_a_list_names_its_settings():
    found = axes.listed(["plain:", "big one: adapter.rank=64 optim.lr=0.1"])
    assert [(s.name, s.overrides) for s in found] == [
        ("plain", ()),
        ("big_one", ("adapter.rank=64", "optim.lr=0.1")),
    ]


@pytest.mark.parametrize(
    "texts", [["rank"], ["rank="], ["rank=1,"], ["=1"], ["a=1", "a=2"], ["a=1+b=2,a=3"], ["a=1,1"]]
)
def test_wrong_axes_are_one_error(texts):
    with pytest.raises(ConfigError):
        axes.grid(texts)


@pytest.mark.parametrize("texts", [["x: rank"], [": rank=1"], ["a:", "a: rank=1"]])
def test_wrong_lists_are_one_error(texts):
    with pytest.raises(ConfigError):
        axes.listed(texts)


@pytest.mark.parametrize("name", ["../x", "a/b", "x;rm -rf", "..", "$HOME", "-"])
def test_names_are_safe_folders(name):
    found = axes.safe(name)
    assert found not in ("", ".", "..") and not set(found) & set("/;$ ")
