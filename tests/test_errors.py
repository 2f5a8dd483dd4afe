import pytest

from mtl_vision.errors import ConfigError, lookup


def test_lookup_finds_and_explains():
    table = {"pcgrad": 1, "cagrad": 2}
    assert lookup(table, "cagrad", "optim.aggregator.name") == 2
    with pytest.raises(ConfigError) as e:
        lookup(table, "pcgard", "optim.aggregator.name")
    assert str(e.value) == (
        "config.optim.aggregator.name='pcgard' is not one of cagrad, pcgrad. Did you mean 'pcgrad'?"
    )
