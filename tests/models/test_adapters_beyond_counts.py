"""What adapters beyond the published tables train in whole backbones, counted."""

import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.models import adapters, mtl
from mtl_vision.models.backbones import BACKBONES
from tests.models.adapter_layers import rngs


def counted(name, backbone="swin_t", tasks=4, extra=0, **options):
    """How many parameters of a backbone train with an adapter, without those of the decoder."""

    def build():
        options_ = dict(out_norm=True) if extra else {}
        made = BACKBONES[backbone](**options_, rngs=rngs())
        made = adapters.adapt(made, [(name, options)], tasks=tasks, rngs=rngs())
        return nnx.Dict(backbone=made)

    sizes = mtl.sizes(mtl.abstract(build))
    trains = rules.resolve(adapters.trainable([name]), sizes, "trainable")
    return sum(size for path, size in sizes.items() if trains[path])


S1, SWIN = 4_416, 4_704 + 23_232 + 23_322  # sum of widths; patch embedding, norms, bias tables
REDUCTIONS, LATE = 1_548_288, 96 + 192 + 384 + 768  # of patch merging; widths of last blocks
HRNET = 1_946_624  # heads of the four tasks of PASCAL-Context
NORMS = 2 * (192 + 384 + 768 + 768)  # two numbers per channel of the taps
COUNTS = [
    ("ssf", dict(), 102_912),
    ("ssf", dict(extra=1), 102_912 + NORMS),
    ("ssf", dict(share="none"), 4 * (102_912 - 384) + 384),  # the patch embedding stays shared
    ("ssf", dict(backbone="vit_s"), 12 * 22 * 384 + 2 * 2 * 384),  # and patches, last norm
    ("ia3", dict(), 6 * S1),
    ("ia3", dict(backbone="vit_s", share="last"), 12 * 6 * 384 + 4 * 4 * 4 * 384),
    ("tadformer", dict(rank=16), 3_557_502 - HRNET),
    ("tadformer", dict(rank=32), 4_776_126 - HRNET),
    ("tadformer", dict(rank=64), 7_379_262 - HRNET),
    ("tadformer", dict(rank=64, filter="static"), 6_946_878 - HRNET),
    ("palora", dict(rank=2), 4 * 16 * 2 * S1),
    ("mhr", dict(rank=4), 1_130_496 + 48 * 4 * 4),
    (
        "mhr",
        dict(rank=4, skills=3, heads=2, share="last"),
        16 * 4 * S1 + 3 * 4 * 12 * LATE + 12 * 24,
    ),
    ("taps", dict(rank=4), 4 * (16 * 4 * S1 + 48)),
    ("taps", dict(rank=0, tasks=1), 12 * 2_156_544 + 48),
    ("ditask", dict(), 1_602_714),
    ("ditask", dict(task_cells=64), 1_605_594),
    ("dora", dict(rank=16, share="all"), (16 * 16 + 9) * S1 + SWIN + REDUCTIONS),
    (
        "dora",
        dict(rank=16, task_rank=4),
        (16 * 16 + 9) * S1 + 4 * (12 * 4 + 6) * LATE + SWIN + REDUCTIONS,
    ),
]


@pytest.mark.parametrize("name, options, count", COUNTS, ids=[c[0] for c in COUNTS])
def test_what_trains_in_a_backbone(name, options, count):
    assert counted(name, **options) == count
