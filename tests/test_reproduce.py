"""Parameter columns: what the configs of the rows train is what is published."""

import sys

import pytest

from mtl_vision.check import check
from mtl_vision.tables import TABLES, published_rows
from mtl_vision.train import plan
from tests import tiny

# Trained in encoder and decoders. The paper rounds to 0.01 million; its two rows of full
# fine-tuning say 0.60 million more than its code has, which is what is followed here.
MTLORA = {
    "single_task": (110_071_272, 1_946_624),
    "mtl_full": (27_517_818, 1_946_624),
    "mtlora_r16": (3_006_522, 1_946_624),
    "mtlora_r32": (4_137_018, 1_946_624),
    "mtlora_r64": (6_398_010, 1_946_624),
}


def counts(names):
    sys.path.insert(0, str(tiny.ROOT / "scripts"))
    try:
        import reproduce
    finally:
        sys.path.pop(0)
    return reproduce.counts(names)


@pytest.mark.parametrize("row", MTLORA)
def test_mtlora_trains_the_published_number_of_parameters(row):
    table = TABLES["mtlora.main"]
    found = counts(table.configs[row])
    assert found == MTLORA[row]
    published = next(r for r in published_rows(table) if r.id == row).values["params_m"]
    off = 0.6 if row in ("single_task", "mtl_full") else 0.0
    assert sum(found) / 1e6 + off == pytest.approx(published, abs=0.006)


def test_a_config_counts_adapters_and_heads_apart():
    cfg = check(tiny.values(adapter={"name": "mtlora", "rank": 2, "task_rank": 1}))
    encoder, decoder = plan.trained(cfg)
    whole = check(tiny.values())
    assert encoder < plan.trained(whole)[0] and decoder == plan.trained(whole)[1]
