"""MTLoRA and MTLoRA+ against scale-lab/MTLoRA, in double precision."""

import pytest

from tests.parity import agreement, records

RECORDS = [
    file
    for kind in ("mtlora", "mtlora_plus", "mtlora_matrixv2", "mtlora_addition")
    for file in records.records(kind)
]
EACH = pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)


@EACH
def test_names_and_counts_are_those_of_the_record(file):
    agreement.check_names(file)


@EACH
@pytest.mark.parametrize("what", agreement.CHECKS)
def test_network_matches_the_record(file, what):
    agreement.check(file, what)
