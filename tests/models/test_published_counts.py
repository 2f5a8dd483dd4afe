"""Trainable parameters of the parameter-efficient table on Swin-T (arXiv 2210.03265).

A total is that of encoder side, heads, and the four norms of the taps of every copy of the
encoder. Rows for single tasks are runs with one task each: everything but the heads counts four
times.
"""

import math
import types

import jax
import pytest

from mtl_vision import rules
from mtl_vision.models import adapters, mtl
from mtl_vision.models.backbones import BACKBONES

BITFIT = (("backbone/.*(bias|bias_table)|backbone/out_norms/.*", True), ("backbone/.*", False))
FROZEN = (("backbone/out_norms/.*", True), ("backbone/.*", False))
TASKS = ("semseg", "normals", "sal", "human_parts")
# Heads, and norms of the taps of one copy. Two ways of counting fit all rows: P, what is built, and
# rounded; Q, with a second classifier in every head, two channels for saliency and one norm of the
# last tap, and cut.
HEADS, TAPS = 2_537_504, 2_880
HEADS_Q, TAPS_Q = HEADS + 257 * 34, 1_536

# row: (adapter, options, copies, encoder side, published total in millions)
ROWS = {
    "vpt_shallow": ("vpt", {}, 4, 19_200, "2.57"),
    "vpt_deep": ("vpt", dict(deep=True), 4, 883_200, "3.43"),
    "phm": ("phm", {}, 4, 594_592, "3.14"),
    "compacter": ("compacter", {}, 4, 229_888, "2.78"),
    "compacter_pp": ("compacter_pp", {}, 4, 115_072, "2.66"),
    "lora": ("lora", dict(bias=True), 4, 318_336, "2.87"),
    "adapter": ("adapter", {}, 4, 8_688_000, "11.24"),
    "low_rank_adapter": ("low_rank_adapter", {}, 4, 337_824, "2.89"),
    "shared_adapter": ("adapter", dict(norm="task"), 1, 2_198_496, "4.74"),
    "hyperformer": ("hyperformer", {}, 1, 70_225_256, "72.77"),
    "polyhistor": ("polyhistor", {}, 1, 6_420_232, "8.96"),
    "polyhistor_lite": ("polyhistor_lite", {}, 1, 415_132, "2.96"),
}
# The other reading, and what the paper has no figures of: (adapter, options, encoder side).
OTHERS = (
    ("hyperformer_v", {}, 70_223_336),
    ("polyhistor_v", {}, 6_418_064),
    ("polyhistor_lite_v", {}, 416_132),
    ("polyhistor_lite", dict(scaling="task"), 416_536),
    ("polyhistor_lite", dict(bias="task"), 112_084),
    ("lora", {}, 70_656),
    ("lora", dict(bias=True, share="none"), 318_336),
    ("adapter", dict(norm="task", share="none"), 8_688_000),
    ("phm", dict(norm="task", share="none"), 594_592),
    ("compacter", dict(norm="task", share="none"), 229_888),
)


def sizes(name, adapter="", **options):
    """Returns sizes by path of a backbone with an adapter; keys do not matter and cost time."""
    rngs = types.SimpleNamespace(params=lambda: jax.random.key(0))

    def build():
        backbone = BACKBONES[name](taps="stage", out_norm=True, rngs=rngs)
        chosen = [(adapter, options)] if adapter else []
        return adapters.adapt(backbone, chosen, tasks=TASKS, rngs=rngs)

    return {f"backbone/{path}": size for path, size in mtl.sizes(mtl.abstract(build)).items()}


def trained(found, table):
    chosen = rules.resolve((*table, (".*", True)), found, "trainable")
    return sum(size for path, size in found.items() if chosen[path])


@pytest.mark.parametrize("row", ROWS)
def test_rows_have_their_published_counts(row):
    adapter, options, copies, encoder, published = ROWS[row]
    found = sizes("swin_t", adapter, **options)
    assert copies * trained(found, adapters.trainable([adapter])[:2]) == encoder + copies * TAPS
    assert f"{(encoder + copies * TAPS + HEADS) / 1e6:.2f}" == published
    total = encoder + copies * TAPS_Q + HEADS_Q
    assert f"{math.floor(total / 1e4) / 100:.2f}" == published


@pytest.mark.parametrize("adapter, options, count", OTHERS)
def test_other_settings_have_the_counts_of_the_formula(adapter, options, count):
    found = sizes("swin_t", adapter, **options)
    assert trained(found, adapters.trainable([adapter])[:2]) == count + TAPS


def test_rows_without_adapters_have_their_published_counts():
    found = sizes("swin_t")
    assert trained(found, FROZEN) == TAPS
    assert 4 * (trained(found, BITFIT) - TAPS) == 299_112
    encoder = trained(found, ()) - TAPS
    totals = {
        "single-task full": 4 * (encoder + TAPS) + HEADS,
        "multi-task full": encoder + TAPS + HEADS,
        "decoders only": 4 * TAPS + HEADS,
        "bitfit": 299_112 + 4 * TAPS + HEADS,
    }
    assert totals == {
        "single-task full": 112_620_296,
        "multi-task full": 30_058_202,
        "decoders only": 2_549_024,
        "bitfit": 2_848_136,
    }


@pytest.mark.parametrize(
    "backbone, hyperformer, polyhistor, polyhistor_lite",
    [
        ("swin_s", 127_996_328, 13_118_536, 789_340),
        ("swin_b", 226_934_496, 17_491_040, 1_052_084),
        ("swin_l", 509_220_176, 26_236_048, 1_577_572),
    ],
)
def test_larger_backbones_have_the_counts_of_the_formula(
    backbone, hyperformer, polyhistor, polyhistor_lite
):
    counts = dict(hyperformer=hyperformer, polyhistor=polyhistor, polyhistor_lite=polyhistor_lite)
    for name, count in counts.items():
        added = adapters.trainable([name])[:2]
        found = sizes(backbone, name)
        taps = sum(size for path, size in found.items() if "out_norms" in path)
        assert trained(found, added) - taps == count
