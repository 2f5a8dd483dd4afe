"""Gates under watch: every kind of gate is noted, filler rows are left out."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.models import mtl, watch
from mtl_vision.models.adapters import adapt
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.decoders import DECODERS

KEY = jax.random.key(0)
OUTPUTS = {"a": {"semseg": 3, "depth": 1}, "b": {"edge": 1}}
DECODER = {
    "linear": {},
    "task_expert": dict(width=8, experts=2, gate_width=4, reads="streams"),
    "mlore": dict(width=8, ranks=(2, 3, 4), task_rank=2, top=2, grid=(2, 2)),
}


def model(decoder, **m3vit):
    rngs = types.SimpleNamespace(params=lambda: KEY)
    sizes = dict(channels=8, depth=2, heads=2, patch=8, grid=(2, 2), taps=(1, 2), remat="block")
    backbone = BACKBONES["vit"](**sizes, rngs=rngs)
    tasks = tuple(f"{d}/{kind}" for d, kinds in OUTPUTS.items() for kind in kinds)
    options = dict(experts=4, top=2, every=1) | m3vit
    backbone = adapt(backbone, [("m3vit", options)], tasks=tasks, dtype=None, rngs=rngs)
    read = dict(channels=backbone.channels, strides=backbone.strides, rngs=rngs)
    made = DECODERS[decoder](outputs=OUTPUTS, **read, **DECODER[decoder])
    return mtl.MultiTask(backbone, made)


@pytest.mark.parametrize(
    "decoder, router, parts",
    [
        ("task_expert", "multi", {"backbone": (2, 2, 4), "decoder": (2, 2, 3)}),
        ("mlore", "single", {"backbone": (1, 2, 4), "decoder": (2, 4, 3)}),
    ],
)
def test_gates_are_noted_by_task_layer_and_expert(decoder, router, parts):
    graphdef, state = nnx.split(model(decoder, router=router))
    image = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype("float32")

    def run(state, image, valid):
        model = nnx.merge(graphdef, state)
        plain = model(image, dataset="a")
        notes = watch.watch(model)
        same = jax.tree.map(lambda x, y: (x == y).all(), plain, model(image, dataset="a"))
        return watch.sums(notes, valid), same

    run = jax.jit(run)
    found, same = run(state, image, jnp.array([True, True, False]))
    assert jax.tree.all(same)
    assert {part: x["gates"].shape for part, x in found.items()} == parts
    other = image + np.array([0, 0, 9], "float32")[:, None, None, None]
    again, _ = run(state, other, jnp.array([True, True, False]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), again, found)
    np.testing.assert_allclose(found["backbone"]["chosen"].sum(-1), 2 * 2, rtol=1e-6)
    assert (found["backbone"]["gates"] <= found["backbone"]["chosen"]).all()
    if decoder == "mlore":
        np.testing.assert_allclose(found["decoder"]["chosen"].sum(-1), 2 * 2, rtol=1e-6)
    else:
        assert found["decoder"].keys() == {"gates"}
        np.testing.assert_allclose(found["decoder"]["gates"].sum(-1), 2, rtol=1e-6)
        assert watch.entries(nnx.merge(graphdef, state)) == {
            "decoder": ("expert 1", "expert 2", "memory")
        }
