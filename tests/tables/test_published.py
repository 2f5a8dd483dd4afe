"""Tables: rows, their ids, and what is a bar."""

import re

import pytest

from mtl_vision.tables import TABLES, published_rows
from mtl_vision.tasks import KINDS


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_named_once_and_plainly(name):
    ids = [row.id for row in published_rows(TABLES[name])]
    assert len(set(ids)) == len(ids) > 3
    assert all(re.fullmatch(r"[\w.-]+", row, re.ASCII) for row in ids)


@pytest.mark.parametrize("name", TABLES)
def test_what_a_table_refers_to_exists(name):
    table = TABLES[name]
    rows = {row.id: row for row in published_rows(table)}
    named = {*table.configs, *(row for row, _ in table.inexact)}
    assert named <= set(rows) and (table.base is None or table.base in rows)
    assert set(table.scores) <= set(KINDS)
    columns = {column for row in rows.values() for column in row.values}
    wanted = (table.delta, table.params, table.encoder, table.total, table.work)
    assert {*table.scores.values(), *filter(None, wanted)} <= columns


def test_rows_nobody_confirmed_are_marked():
    rows = {row.id: row for row in published_rows(TABLES["mtlora.main"])}
    assert rows["mtlora_r64"].sure and rows["mtlora_r64"].values["params_m"] == 8.34
    assert not rows["polyhistor"].sure
    recalled = {row.id: row for row in published_rows(TABLES["taskexpert.pascal"])}
    assert recalled["vit_b.taskexpert"].sure and not recalled["vit_l.taskexpert"].sure


def test_rows_of_ours_stand_behind_the_published_ones():
    rows = published_rows(TABLES["flat.nyud"])
    assert [row.id for row in rows[-3:]] == ["F-Nash-MTL", "FairGrad", "F-FairGrad"]
    assert rows[-1].values == {} and rows[0].values["delta_m"] == 0.0
