"""Layers of the adapters beyond the published tables: formulas by hand, folding, counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.models import adapters, mtl
from mtl_vision.models.adapters.ditask import DiTASKLinear, displacement, warp_values
from mtl_vision.models.adapters.dora import DoRALinear
from mtl_vision.models.adapters.ia3 import IA3Linear
from mtl_vision.models.adapters.inject import merged
from mtl_vision.models.adapters.sharing import Owners
from mtl_vision.models.adapters.ssf import SSFLayer
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.layers import LayerNorm, Linear

KEY = jax.random.key(0)
C, D, T = 4, 6, 3
ALL, LAST, NONE, ONE = (
    Owners(True, 0, 1),
    Owners(True, T, 1),
    Owners(False, T, 0),
    Owners(False, 1, 0),
)


def rngs():
    return nnx.Rngs(params=KEY)


def linear():
    return Linear(C, D, bias_init=jax.nn.initializers.normal(1.0), rngs=rngs())


def moved(layer):
    """The layer with all parameters moved at random, in place."""
    state = nnx.state(layer)
    leaves, structure = jax.tree.flatten(state)
    draws = np.random.default_rng(0)
    leaves = [x + jnp.asarray(0.3 * draws.normal(size=x.shape), x.dtype) for x in leaves]
    nnx.update(layer, jax.tree.unflatten(structure, leaves))
    return layer


def values(layer):
    """``{path: numpy array}`` of a layer."""
    return {k: np.asarray(v) for k, v in rules.flatten(nnx.to_pure_dict(nnx.state(layer))).items()}


def x(streams, channels=C):
    return jnp.asarray(np.random.default_rng(1).normal(size=(streams, 2, channels)), jnp.float32)


def agree(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def ssf_layer(owners, inner=linear):
    return moved(SSFLayer(inner(), owners, std=0.02, dtype=None, rngs=rngs()))


def ia3_layer(owners, before=True):
    return moved(IA3Linear(linear(), C, owners, before=before, dtype=None))


def ditask_layer(owners):
    made = dict(cells=4, task_cells=5, parts=2, warp="places", random=False, dtype=None)
    layer = moved(DiTASKLinear(linear(), owners, **made, rngs=rngs()))
    layer.factorize()
    return layer


def dora_layer(owners):
    made = dict(rank=2, task_ranks=(2,) * owners.tasks, scale=2.0, rate=0.0, dtype=None)
    return moved(DoRALinear(linear(), owners, **made, rngs=rngs()))


def test_ssf_scales_and_shifts_every_stream_by_its_own_vectors():
    layer = ssf_layer(LAST)
    v, out = values(layer), layer(x(1))
    y = np.asarray(x(1)[0]) @ v["linear/kernel"] + v["linear/bias"]
    agree(out[0], v["ssf/gamma"] * y + v["ssf/beta"])
    agree(out[2], v["task_ssf/gamma"][1] * y + v["task_ssf/beta"][1])
    assert out.shape == (1 + T, 2, D)


def test_ia3_rescales_inputs_or_the_last_outputs():
    layer = ia3_layer(NONE)
    v, u = values(layer), x(T)
    agree(
        layer(u)[1],
        (np.asarray(u[1]) * v["task_ia3/gain"][1]) @ v["linear/kernel"] + v["linear/bias"],
    )
    layer = ia3_layer(ALL, before=False)
    v, u = values(layer), x(T)
    y = np.asarray(u) @ v["linear/kernel"] + v["linear/bias"]
    y[..., D - C :] *= v["ia3/gain"]  # the keys and values of 6 outputs are the last 4
    agree(layer(u), y)


def test_ditask_flow_agrees_with_small_euler_steps_and_keeps_the_order():
    theta = np.array([0.9, -2.0, 1.2])
    knots = np.arange(5) / 4 * [0, 0.1, -0.8, 1.2, 0]  # sums of theta from each knot on
    points = np.linspace(0, 1, 21)
    moved = points.copy()
    for _ in range(20_000):
        moved += np.interp(moved, np.arange(5) / 4, knots) / 20_000
    got = points + displacement(jnp.asarray(theta), jnp.asarray(points))
    np.testing.assert_allclose(got, moved, atol=2e-4)
    assert (np.diff(got) > 0).all() and got[0] == 0 and got[-1] == 1
    assert not displacement(0 * jnp.asarray(theta), jnp.asarray(points)).any()


def test_ditask_warps_the_singular_values_of_every_part():
    layer = ditask_layer(LAST)
    v, u = values(layer), x(1)
    weight = np.zeros((C, D))
    for i, part in enumerate(np.split(v["linear/kernel"], 2, axis=-1)):
        left, sigma, right = np.linalg.svd(part, full_matrices=False)
        p = len(sigma)
        places = np.arange(p) + (p - 1) * np.asarray(
            displacement(jnp.asarray(v["task_ditask/theta"][1]), jnp.arange(p) / (p - 1))
        )
        assert np.abs(places - np.arange(p)).max() > 0.01
        weight[:, 3 * i : 3 * i + 3] = left * np.interp(places, np.arange(p), sigma) @ right
    agree(layer(u)[2], np.asarray(u[0]) @ weight + v["linear/bias"])


def test_ditask_warps_values_below_the_largest():
    sigma = jnp.array([[4.0, 2.0, 1.0]])
    theta = jnp.array([-1.0])  # one knot, of -1/2 at 1/2: |v| = x up to it
    changed = sigma + warp_values(theta, sigma)
    agree(changed[0, 1:], np.array([2.0, 1.0]) * np.exp(-1))
    agree(changed[0, 0], 4.0)


def test_dora_normalises_outputs_and_gives_tasks_the_shared_response():
    layer = dora_layer(LAST)
    v, u = values(layer), x(1)
    products = [2.0 * v["dora/low/a"] @ v["dora/low/b"]]
    products += list(2.0 * v["task_dora/low/a"] @ v["task_dora/low/b"])
    magnitudes = [v["dora/magnitude"], *v["task_dora/magnitude"]]
    weight = v["linear/kernel"]
    out = layer(u)
    for stream, product, magnitude in zip(out, products, magnitudes, strict=True):
        magnitude = magnitude + np.linalg.norm(weight, axis=0)
        whole = weight + product
        whole = magnitude * whole / np.linalg.norm(whole, axis=0)
        agree(stream, np.asarray(u[0]) @ whole + v["linear/bias"])
    # Streams that are open do not meet the frozen weight; what they change is their own part.
    more = layer(jnp.concatenate([u, u, 0 * u, u]))
    agree(more[1], out[1])
    gain = np.linalg.norm(weight, axis=0) + magnitudes[2]
    gain = gain / np.linalg.norm(weight + products[2], axis=0)
    agree(more[2], gain * (np.asarray(u[0]) @ weight) + v["linear/bias"])


FOLDED = {
    "dora": dora_layer,
    "ditask": ditask_layer,
    "ssf": ssf_layer,
    "ssf_norm": lambda owners: ssf_layer(owners, lambda: LayerNorm(C)),
    "ia3": ia3_layer,
    "ia3_keys": lambda owners: ia3_layer(owners, False),
}


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("owners", [ALL, ONE], ids=["all", "one"])
def test_a_folded_layer_computes_the_same_stacked_or_not(name, owners):
    make = functools.partial(FOLDED[name], owners)
    want, plain = make()(x(1)), merged(make())
    assert type(plain) in (Linear, LayerNorm)
    agree(plain(x(1)), want)
    pair = merged(jax.tree.map(lambda leaf: jnp.stack([0 * leaf, leaf]), make()))
    agree(jax.tree.map(lambda leaf: leaf[1], pair)(x(1)), want)


@pytest.mark.parametrize("name", FOLDED)
def test_layers_with_streams_of_their_own_do_not_fold(name):
    layer = FOLDED[name](LAST)
    assert merged(layer) is layer


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
NORMS = 2 * (192 + 384 + 768 + 768)  # two numbers per channel of the taps
COUNTS = [
    ("ssf", dict(), 102_912),
    ("ssf", dict(extra=1), 102_912 + NORMS),
    ("ssf", dict(share="none"), 4 * (102_912 - 384) + 384),  # the patch embedding stays shared
    ("ssf", dict(backbone="vit_s"), 12 * 22 * 384 + 2 * 2 * 384),  # and patches, last norm
    ("ia3", dict(), 6 * S1),
    ("ia3", dict(backbone="vit_s", share="last"), 12 * 6 * 384 + 4 * 4 * 4 * 384),
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
