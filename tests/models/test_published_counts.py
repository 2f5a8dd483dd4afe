"""Numbers of parameters that adapters add to Swin, as the formulas of their papers give them."""

import jax
import pytest

from mtl_vision import rules
from mtl_vision.models import adapters, mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.keys import Keys

TASKS = ("semseg", "normals", "sal", "human_parts")
# Beside the settings that configs have: the other reading, and parameters per task.
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


def sizes(name, adapter, **options):
    """Returns sizes by path of a backbone with an adapter."""
    rngs = Keys(params=jax.random.key(0))

    def build():
        backbone = BACKBONES[name](rngs=rngs)
        return adapters.adapt(backbone, [(adapter, options)], tasks=TASKS, rngs=rngs)

    return {f"backbone/{path}": size for path, size in mtl.sizes(mtl.abstract(build)).items()}


def trained(found, adapter):
    chosen = rules.resolve(adapters.trainable([adapter])[:2], found, "trainable")
    return sum(size for path, size in found.items() if chosen[path])


@pytest.mark.parametrize("adapter, options, count", OTHERS)
def test_other_settings_have_the_counts_of_the_formula(adapter, options, count):
    found = sizes("swin_t", adapter, **options)
    assert trained(found, adapter) == count


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
        assert trained(sizes(backbone, name), name) == count
