"""Columns of counts: what the configs of the rows have is published, or why not is known.

With ``MTL_VISION_COUNTS=all`` every cell is counted, which takes minutes.
"""

import os
import re

import pytest

from mtl_vision.check import check
from mtl_vision.models import attention
from mtl_vision.study import counts
from mtl_vision.tables import TABLES
from mtl_vision.train import plan
from tests import tiny

EVERY = os.environ.get("MTL_VISION_COUNTS") == "all"
COUNTED = [name for name, t in TABLES.items() if t.params or t.total or t.work]
# A few rows of each, with cells that are exact and such that are not.
FEW = {
    "mtlora.main": ("mtl_full", "mtlora_r64", "bitfit", "vl_adapter"),
    "mtlora.plus": ("mtlora_plus_r8",),
    "mtlora.followups": ("mtlora_r64", "tadformer_r32", "ditask"),
    "polyhistor.main": ("decoders_only", "hyperformer", "polyhistor_lite"),
    "taskexpert.pascal": ("vit_b.taskprompter", "vit_l.invpt", "vit_l.mlore", "vit_l.taskexpert"),
    "taskexpert.nyud": ("vit_l.taskprompter", "vit_l.mlore"),
    "m3vit.pascal": ("m_vit", "m3vit"),
    "m3vit.nyud": ("m3vit",),
}
# Trained in encoder and decoders, where the table is the paper's first.
MTLORA = {
    "mtl_full": (27_517_818, 1_946_624),
    "mtlora_r64": (6_398_010, 1_946_624),
}


@pytest.mark.parametrize("name", COUNTED)
def test_published_cells_are_exact_or_explained(name):
    table = TABLES[name]
    work = EVERY or name.startswith("m3vit")  # the others take long
    rows = counts.counted(table, () if EVERY else FEW[name], work=work)
    found = counts.summary(rows)
    assert found.cells == found.exact + found.explained > 0
    wrong = [(one.row.id, cell) for one in rows for cell in one.cells if not cell.exact]
    if EVERY:  # no reason is left over
        assert len(wrong) == len(table.inexact)
    for row, cell in wrong:
        assert cell.why, (row, cell)


@pytest.mark.parametrize("row", MTLORA)
def test_mtlora_trains_what_its_code_trains(row):
    (one,) = counts.counted(TABLES["mtlora.main"], (row,), work=False)
    assert (one.size.encoder, one.size.decoders) == MTLORA[row]


def test_runs_of_a_row_add_up():
    (one,) = counts.counted(TABLES["mtlora.main"], ("single_task",), work=False)
    assert one.size == (4 * 27_517_818, 1_946_624, 112_017_896)
    published, total = one.cells
    assert not published.exact and "All-MLP" in published.why
    assert total.exact and total.published == 112_017_896


@pytest.mark.parametrize(
    "ours, published, unit, text",
    [
        (8_344_634, 8.34, 10**6, "8.34"),
        (8_345_001, 8.34, 10**6, "8.35"),
        (83_741_647_872, 83, 10**9, "84"),
        (29_464_442, 29_464_442, 10**6, "29,464,442"),
        (112_017_896, 84.0, 10**6, "112.02"),
    ],
)
def test_ours_is_written_as_theirs_is_printed(ours, published, unit, text):
    assert counts.as_printed(ours, published, unit) == text


def test_theirs_keeps_its_digits():
    assert [counts.printed(x) for x in (6.4, 84, 29_464_442)] == ["6.40", "84", "29,464,442"]


def test_lines_and_reasons():
    rows = counts.counted(TABLES["mtlora.main"], ("mtl_full", "adapter"), work=False)
    head, full, adapter = counts.lines(rows)
    assert head[0] == "row" and len(head) == len(full) == len(adapter)
    assert full[1] == "trained ≠ 30.06 M; total = 29,464,442"
    assert adapter[:3] == ["Adapter (?)", "trained = 11.24 M", "11,237,024"]
    (reason,) = counts.reasons(rows)
    assert reason.startswith("MTL - full fine-tuning (trained): the figure is that of")
    assert str(counts.summary(rows)) == "3 published cells: 2 exact, 1 explained, 0 unexplained"


def test_a_config_counts_adapters_and_heads_apart():
    cfg = check(tiny.values(adapter={"name": "mtlora", "rank": 2, "task_rank": 1}))
    encoder, decoder = plan.trained(cfg)
    whole = check(tiny.values())
    assert encoder < plan.trained(whole)[0] and decoder == plan.trained(whole)[1]


def test_long_rows_count_as_papers_write_them_on_one_cpu_too(monkeypatch):
    entry = "tables/anchors:vit_b.multi_task@semseg"
    expected = counts.multiply_adds.__wrapped__(entry)
    monkeypatch.setattr(attention, "_one_cpu", lambda: True)
    assert counts.multiply_adds.__wrapped__(entry) == expected


def test_the_page_has_every_table_and_no_cell_without_a_reason():
    page = (tiny.ROOT / "docs" / "counts.md").read_text()
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == list(TABLES)
    assert "Unexplained." not in page and "0 unexplained." in page
    for table in TABLES.values():
        assert all(why in page for why in table.inexact.values())
