"""Configs of the tables' rows: all are right, one of every kind builds, wrong rows are named."""

import importlib
import inspect
import pathlib

import pytest

from mtl_vision import build, cli
from mtl_vision.check import check
from mtl_vision.errors import ConfigError
from mtl_vision.models import mtl
from mtl_vision.tables import TABLES, entries

FOLDER = pathlib.Path(__file__).parents[2] / "configs" / "tables"
FAMILIES = ("mtlora", "polyhistor", "taskexpert", "m3vit", "flat", "joint", "anchors")
# A family and a backbone each.
BUILT = (
    "mtlora:ditask",
    "polyhistor:polyhistor",
    "taskexpert:pascal_context.vit_b.taskexpert",
    "taskexpert:nyud_v2.vit_l.multi_task",
    "m3vit:nyud_v2.conditioned",
    "flat:F-CAGrad",
    "joint:swin_t_headline.nyud_v2",
    "joint:vit_b_headline.joint",
    "anchors:swin_t.mtlora",
    "anchors:vit_b_dinov2.mtlora",
    "anchors:vit_l_dinov2.task_expert",
    "anchors:vit_b_dinov3.multi_task",
    "anchors:vit_l_dinov3.multi_task",
)


def names(family):
    return importlib.import_module(f"configs.tables.{family}").ROWS


def test_every_file_is_a_family():
    files = {path.stem for path in FOLDER.glob("*.py")}
    assert files == {*FAMILIES, "rows"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_is_right_and_on_real_data(family):
    for row in names(family):
        assert not {":", "@"} & set(row)
        cfg = check(cli.load_config(FOLDER / f"{family}.py:{row}"))
        assert set(cfg.datasets) <= {"pascal_context", "nyud_v2"}, row
        assert cfg.run.steps >= 4900 and cfg.eval.split == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rows_are_those_of_the_tables(family):
    used = {
        entry.partition(":")[2].partition("@")[0]
        for table in TABLES.values()
        for row in table.configs.values()
        for entry in row
        if entry.startswith(f"tables/{family}:")
    }
    assert used == set(names(family))


@pytest.mark.parametrize("name", TABLES)
def test_entries_have_a_dataset_for_their_task(name):
    for row in TABLES[name].configs.values():
        for entry in row[:1]:
            path, overrides = entries.load(entry)
            assert path.startswith(str(FOLDER)) and bool(overrides) == ("@" in entry)


@pytest.mark.parametrize("name", BUILT)
def test_a_row_of_every_kind_builds(name):
    family, row = name.split(":")
    cfg = check(cli.load_config(FOLDER / f"{family}.py:{row}"))
    assert sum(mtl.sizes(mtl.abstract(build.model(cfg))).values()) > 20_000_000


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("row", ["", ":mtlora_r63"])
def test_a_wrong_row_is_named_with_those_there_are(family, row):
    with pytest.raises(ConfigError) as e:
        cli.load_config(f"{FOLDER / family}.py{row}")
    message = str(e.value)
    assert f"has no row {row[1:]!r}" in message and all(name in message for name in names(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_of_a_family_says_which_weights(family):
    module = importlib.import_module(f"configs.tables.{family}")
    assert "--config.backbone.weights=" in inspect.getdoc(module)
