"""Layers of the adapters beyond the published tables: formulas by hand, folding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.errors import ConfigError
from mtl_vision.models.adapters.ditask import DiTASKLinear, displacement, warp_values
from mtl_vision.models.adapters.dora import DoRALinear
from mtl_vision.models.adapters.ia3 import IA3Linear
from mtl_vision.models.adapters.inject import merged
from mtl_vision.models.adapters.mhr import Skills
from mtl_vision.models.adapters.ssf import SSFLayer
from mtl_vision.models.adapters.taps import (
    ScorePenalty,
    TAPSLinear,
    active,
    indicator,
    penalty,
)
from mtl_vision.models.layers import Identity, LayerNorm, Linear
from tests.models.adapter_layers import (
    ALL,
    KEY,
    LAST,
    NONE,
    ONE,
    C,
    D,
    T,
    agree,
    linear,
    moved,
    rngs,
    values,
    x,
)


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


def test_mhr_mixes_factors_by_task_and_head():
    size = dict(tasks=T, skills=3, heads=2, rank=2, alpha=4.0, relaxed=True)
    part, u = moved(Skills(C, D, **size, dtype=None, rngs=rngs())), x(T)
    v = values(part)
    p = 1 / (1 + np.exp(-v["logits"][1]))
    w = p / p.sum(1, keepdims=True)  # of the second task, [q, S]
    a = np.concatenate([np.einsum("s,scr->cr", w[h], v["a"][:, 2 * h : 2 * h + 2]) for h in (0, 1)])
    b = [np.einsum("s,srd->rd", w[h], v["b"][..., 3 * h : 3 * h + 3]) for h in (0, 1)]
    agree(part(u)[1], 2.0 * np.asarray(u[1]) @ a @ np.concatenate(b, 1))
    drawn = part.weights(KEY)
    agree(drawn.sum(-1), np.ones((T, 2)))
    assert jnp.abs(drawn - part.weights()).max() > 0.1
    part.relaxed = False
    np.testing.assert_array_equal(part.weights(KEY), part.weights())
    with pytest.raises(ConfigError, match="heads=4 does not divide a layer 4 -> 6"):
        Skills(C, D, **size | dict(heads=4), dtype=None, rngs=rngs())


def taps_layer(owners, rank=2):
    layer = moved(TAPSLinear(linear(), owners, rank=rank, dtype=None, rngs=rngs()))
    layer.taps_score[...] = jnp.array([0.2, 0.05, -0.3])[: owners.tasks]
    return layer


@pytest.mark.parametrize("rank", [0, 2])
def test_taps_changes_the_layers_whose_score_is_large(rank):
    layer, u = taps_layer(NONE, rank), x(T)
    v, out = values(layer), layer(u)
    change = v["taps/a"] @ v["taps/b"] if rank else v["taps/kernel"]
    y = np.asarray(u) @ v["linear/kernel"] + v["linear/bias"]
    agree(out[0], y[0] + np.asarray(u[0]) @ change[0])
    np.testing.assert_array_equal(out[1:], layer.linear(u)[1:])


def test_taps_scores_have_the_gradient_of_the_identity():
    score = jnp.array([0.2, 0.1, 0.05])
    np.testing.assert_array_equal(indicator(score), [1, 1, 0])
    np.testing.assert_array_equal(jax.grad(lambda s: (3 * indicator(s)).sum())(score), [3, 3, 3])


def test_taps_penalty_is_the_mean_over_layers_and_active_ones_are_listed():
    layers = nnx.Dict(segments=nnx.Dict(x=taps_layer(NONE)), y=taps_layer(NONE))
    pair = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), layers.segments.x)
    pair.taps_score[...] = jnp.array([[0.1, 0.0, 0.0], [0.3, 0.0, 0.0]])
    layers.segments.x = pair
    agree(penalty(layers, weight=3.0), [0.6, 0.05, 0.3])
    found = {path: row.tolist() for path, row in active(layers).items()}
    first = [True, False, False]
    assert found == {"segments/x/0": first, "segments/x/1": first, "y": first}
    slot = ScorePenalty(Identity(), weight=3.0, warmup=2)
    written = []
    for _ in range(3):
        assert slot(layers) is layers
        written.append(float(slot.penalty[...]))
    agree(written, [0.0, 0.0, 0.6 + 0.05 + 0.3])


FOLDED = {
    "taps": taps_layer,
    "taps_full": lambda owners: taps_layer(owners, 0),
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
    if name.startswith("taps") and owners is ALL:
        owners = ONE  # every task has its own
    make = functools.partial(FOLDED[name], owners)
    want, plain = make()(x(1)), merged(make())
    assert type(plain) in (Linear, LayerNorm)
    agree(plain(x(1)), want)
    pair = merged(jax.tree.map(lambda leaf: jnp.stack([0 * leaf, leaf]), make()))
    agree(jax.tree.map(lambda leaf: leaf[1], pair)(x(1)), want)


@pytest.mark.parametrize("name", FOLDED)
def test_layers_with_streams_of_their_own_do_not_fold(name):
    layer = FOLDED[name](NONE)
    assert merged(layer) is layer
