"""Converting public weights: order, parts, sizes, and one message for all faults."""

import numpy as np
import pytest

from mtl_vision.errors import DataError
from mtl_vision.models.convert import Rule, convert
from mtl_vision.models.layouts import bias_table, linear, position_table

RULES = (
    Rule(r"ignored\..*", None),
    Rule(r"layers\.(\d+)\.(q|k)\.weight", r"stages/\1/never", part=9),
    Rule(r"fc\.(\d+)\.weight", r"fc/\1/kernel", linear),
    *(Rule(rf"{name}\.weight", "qkv/kernel", linear, part=i) for i, name in enumerate("qkv")),
)
TARGETS = {"fc": {0: {"kernel": np.zeros((3, 2))}}, "qkv": {"kernel": np.zeros((2, 6))}}


def arrays():
    named = {
        name: np.full((2, 2), i, np.float32)
        for i, name in enumerate(("v.weight", "q.weight", "k.weight"))
    }
    return named | {"fc.0.weight": np.arange(6.0).reshape(2, 3), "ignored.mask": np.zeros(1)}


def test_arrays_find_their_place_and_parts_join_in_order():
    tree = convert(arrays(), RULES, TARGETS)
    np.testing.assert_array_equal(tree["fc"][0]["kernel"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(tree["qkv"]["kernel"], [[1, 1, 2, 2, 0, 0]] * 2)


def test_all_faults_are_in_one_message():
    given = arrays() | {"extra": np.zeros(1), "fc.7.weight": np.zeros((2, 3))}
    del given["fc.0.weight"], given["v.weight"]
    with pytest.raises(DataError) as caught:
        convert(given, RULES, TARGETS)
    message = str(caught.value)
    assert "2 arrays unused (extra, fc.7.weight)" in message
    assert "1 missing (fc/0/kernel)" in message
    assert "qkv/kernel is (2, 4) and should be (2, 6)" in message


def test_a_target_given_twice_is_a_fault():
    rules = (Rule("a|b", "x"),)
    with pytest.raises(DataError, match=r"1 arrays unused \(b\)"):
        convert({"a": np.zeros(1), "b": np.zeros(1)}, rules, {"x": np.zeros(1)})


def test_tables_of_the_same_size_are_kept_bit_for_bit():
    table = np.random.default_rng(0).normal(size=(25, 2)).astype(np.float32)
    np.testing.assert_array_equal(bias_table(table, (25, 2)), table)


def test_tables_are_resized_and_tokens_kept():
    bias = bias_table(np.ones((25, 2), np.float32), (49, 2))
    np.testing.assert_allclose(bias, np.ones((49, 2)), atol=1e-6)
    table = np.concatenate([np.full((1, 3), 5.0), np.ones((9, 3))]).astype(np.float32)
    resized = position_table(table, (17, 3))
    np.testing.assert_allclose(resized, np.concatenate([[[5.0] * 3], np.ones((16, 3))]), atol=1e-6)
    assert resized.dtype == np.float32


@pytest.mark.parametrize(
    "array, text",
    [
        (np.zeros((2, 3), np.int32), "fc/0/kernel is int32 and should be of real numbers"),
        (np.full((2, 3), np.nan), "fc/0/kernel is not finite"),
        (np.full((2, 3), np.inf, np.float16), "fc/0/kernel is not finite"),
    ],
)
def test_parameters_are_finite_real_numbers(array, text):
    with pytest.raises(DataError, match=rf"unfit: {text}"):
        convert(arrays() | {"fc.0.weight": array}, RULES, TARGETS)


@pytest.mark.parametrize("resized", [bias_table, position_table])
def test_a_table_that_cannot_be_resized_is_a_fault_of_shape(resized):
    with pytest.raises(DataError, match=r"t is \(7, 2\) and should be \(17, 2\)"):
        convert({"t": np.zeros((7, 2))}, [Rule("t", "t", fit=resized)], {"t": np.zeros((17, 2))})
