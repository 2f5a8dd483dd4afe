import pathlib

import pytest

from mtl_vision.tables import TABLES, published_rows

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_named_once_and_have_a_number_of_parameters(name):
    table = TABLES[name]
    rows = published_rows(table)
    assert len({row.id for row in rows}) == len(rows) > 3
    assert all(row.values[table.params] > 0 for row in rows)


@pytest.mark.parametrize("name", TABLES)
def test_every_config_is_of_a_row_and_exists(name):
    ids = {row.id for row in published_rows(TABLES[name])}
    for row, configs in TABLES[name].configs.items():
        assert row in ids
        assert all((CONFIGS / f"{name.partition(':')[0]}.py").exists() for name in configs)


def test_rows_nobody_confirmed_are_marked():
    rows = {row.id: row for row in published_rows(TABLES["mtlora.main"])}
    assert rows["mtlora_r64"].sure and rows["mtlora_r64"].values["params_m"] == 8.34
    assert not rows["polyhistor"].sure
