"""The table of parameters and multiply-adds."""

import pytest

from mtl_vision import build
from mtl_vision.check import check
from mtl_vision.models import mtl
from mtl_vision.train import cost
from tests import tiny
from tests.test_check import load

MTLORA = dict(name="mtlora", rank=4, task_rank=2, scale=4.0, dropout=0.0)


def config(**fields):
    return check(tiny.values(**fields))


def costs(**fields):
    cfg = config(**fields)
    return cost.costs(cfg, mtl.abstract(build.model(cfg)))


def test_adapters_are_what_they_add():
    plain, (parameters, work) = costs(), costs(adapter=MTLORA)
    assert parameters["backbone"] == plain[0]["backbone"]
    assert parameters["adapters"] > 0
    for dataset, found in work.items():
        assert found["backbone"] == plain[1][dataset]["backbone"]
        assert found["adapters"] > 0
        decoder = {name: n for name, n in found.items() if name.startswith("decoder")}
        assert decoder and all(f"/{dataset}" in name for name in decoder)


def test_the_table_adds_up():
    cfg = config(
        decoder=dict(name="invpt", width=6, margin=2, intermediate=1.0),
        backbone__depths=(2, 1, 1),
        backbone__heads=(1, 2, 2),
    )
    text, rule = cost.describe(cfg).split("\n\n")
    assert "counted once" in rule
    head, _, *rows, total, unread = text.splitlines()
    assert "synth_pascal 32x32 (G)" in head
    numbers = [int(row.split()[1].replace(",", "")) for row in rows]
    assert sum(numbers) == int(total.split()[1].replace(",", ""))
    assert any(row.startswith("decoder/heads/synth_nyud/stages") for row in rows)
    assert unread.startswith("not built: published, unread")


@pytest.mark.parametrize(
    "name, published",
    [("taskexpert_vit_b", 187.58), ("taskexpert_vit_l", 614.80), ("mlore_vit_l", 826.59)],
)
def test_multiply_adds_are_those_of_the_references(name, published):
    cfg = check(load(tiny.ROOT / "configs" / f"{name}.py"))
    _, work = cost.costs(cfg, mtl.abstract(build.model(cfg)))
    assert sum(work["synth_pascal"].values()) / 1e9 == pytest.approx(published, rel=0.005)
