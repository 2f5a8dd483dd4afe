import pytest

from mtl_vision import rules
from mtl_vision.errors import ConfigError

TREE = {"a": {"kernel": 1, "bias": 2}, "b": [3, {"kernel": 4}]}


def test_paths_join_keys_and_indices():
    assert rules.flatten(TREE) == {"a/bias": 2, "a/kernel": 1, "b/0": 3, "b/1/kernel": 4}


def test_first_full_match_wins():
    table = rules.resolve([("a/.*", "x"), (".*kernel", "y"), (".*", "z")], rules.flatten(TREE), "f")
    assert table == {"a/bias": "x", "a/kernel": "x", "b/0": "z", "b/1/kernel": "y"}


def test_resolve_tree_keeps_the_structure():
    tree = rules.resolve_tree([(".*kernel", True), (".*", False)], TREE, "f")
    assert tree == {"a": {"kernel": True, "bias": False}, "b": [False, {"kernel": True}]}


@pytest.mark.parametrize(
    "given, message",
    [
        ([("a/.*", 1)], "optim.decay: no rule matches 'b/0'"),
        ([("c/.*", 1), (".*", 2)], "the rule 'c/.*' decides no parameter"),
        ([("(", 1), (".*", 2)], "is not a regular expression"),
        ([("kernel", 1), (".*", 2)], "the rule 'kernel' decides no parameter"),
    ],
)
def test_rules_that_cannot_be_meant_are_errors(given, message):
    with pytest.raises(ConfigError, match=r".*") as e:
        rules.resolve(given, rules.flatten(TREE), "optim.decay")
    assert message in str(e.value)


def test_a_closing_default_may_be_idle():
    assert rules.resolve([("a", 1), (".*", 2)], ["a"], "f") == {"a": 1}
