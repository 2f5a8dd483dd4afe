"""Configs of the parameter-efficient table (arXiv 2210.03265) have its numbers of parameters.

Rows for single tasks are runs with one task each: everything but the heads counts four times.
"""

import importlib
import math

import pytest

from mtl_vision.check import check
from mtl_vision.train import plan

# Heads of four tasks, and the norms of the taps in one encoder. Two ways of counting fit the
# table: what is built, rounded; and with a second classifier in every head, two channels for
# saliency and one norm behind the encoder, cut.
HEADS, NORMS = 2_537_504, 2_880
HEADS_CUT, NORMS_CUT = HEADS + 257 * 34, 1_536
ENCODER = 27_517_818

# config: (copies, encoder side, published total in millions)
ROWS = {
    "single_task_swin_t_all_mlp": (4, 4 * ENCODER, "112.62"),
    "mtl_swin_t_all_mlp": (1, ENCODER, "30.06"),
    "decoders_swin_t_all_mlp": (4, 0, "2.55"),
    "bitfit": (4, 299_112, "2.85"),
    "vpt_shallow": (4, 19_200, "2.57"),
    "vpt_deep": (4, 883_200, "3.43"),
    "phm": (4, 594_592, "3.14"),
    "compacter": (4, 229_888, "2.78"),
    "compacter_pp": (4, 115_072, "2.66"),
    "lora": (4, 318_336, "2.87"),
    "adapter": (4, 8_688_000, "11.24"),
    "low_rank_adapter": (4, 337_824, "2.89"),
    "shared_adapter": (1, 2_198_496, "4.74"),
    "hyperformer": (1, 70_225_256, "72.77"),
    "polyhistor": (1, 6_420_232, "8.96"),
    "polyhistor_lite": (1, 415_132, "2.96"),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_have_their_published_counts(name):
    copies, encoder, published = ROWS[name]
    values = importlib.import_module(f"configs.{name}").get_config().to_dict()
    side, heads = plan.trained(check(values))
    assert copies * side == encoder + copies * NORMS
    assert heads == (HEADS if copies == 1 else 632_320 + 257 * 21)  # all tasks, or semseg
    assert f"{(encoder + copies * NORMS + HEADS) / 1e6:.2f}" == published
    cut = encoder + copies * NORMS_CUT + HEADS_CUT
    assert f"{math.floor(cut / 1e4) / 100:.2f}" == published
