"""Adapters beyond the published tables, inside backbones: start, gradients, sizes, rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision.models import adapters
from mtl_vision.models.adapters import streams
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.keys import Keys
from mtl_vision.models.layers import AdapterParam, TaskParam
from tests.models.adapter_backbones import own_gradients_only, own_outputs_only, shaken

KEY = jax.random.key(0)
KINDS = (AdapterParam, TaskParam)
TASKS = ("a/semseg", "a/normals", "b/depth")
BACKBONE = {
    "swin": ("swin", dict(embed=8, depths=(1, 1), heads=(1, 2), window=2)),
    "vit_scan": ("vit", dict(channels=8, depth=2, heads=2, patch=8, grid=(2, 2), taps=(2,))),
}
BACKBONE["vit_scan"][1]["scan"] = True
# One pair per adapter; together they take all ways of sharing to both backbones.
SMALL = {
    "ssf": {"swin": dict(share="last", std=0.0), "vit_scan": dict(share="none", std=0.0)},
    "ia3": {"swin": dict(share="none"), "vit_scan": dict(share="last")},
    "ditask": {
        "swin": dict(cells=5),
        "vit_scan": dict(cells=3, task_cells=5, share="none", warp="values"),
    },
    "palora": {"swin": dict(rank=2), "vit_scan": dict(rank=2)},
    "mhr": {
        "swin": dict(rank=2, skills=2),
        "vit_scan": dict(rank=2, skills=2, heads=2, share="last"),
    },
    "taps": {"swin": dict(rank=2, penalty=0.0), "vit_scan": dict(rank=0, penalty=0.0)},
    "dora": {
        "swin": dict(rank=3, task_rank={"semseg": 1, "normals": 2, "depth": 2}),
        "vit_scan": dict(rank=3, task_rank=2, share="none"),
    },
}
# Where one more product at the start is joined to a sum before it, which rounds once less.
ROUNDS = {"ssf": 1e-6}


def adapted(kind, chosen=(), tasks=TASKS):
    rngs = Keys(params=KEY)
    name, options = BACKBONE[kind]
    return adapters.adapt(BACKBONES[name](**options, rngs=rngs), chosen, tasks=tasks, rngs=rngs)


def taken(models):
    """Returns (outputs, gradients, parameters of the adapters) of models run on one image.

    The first two are functions of the third; the gradients are of a loss of the first task. They
    are compiled apart, as sums are joined otherwise where a backward pass needs their parts.
    """
    image = jax.random.normal(KEY, (1, 16, 16, 3))
    graphdefs, params, rest = zip(*(nnx.split(model, KINDS, ...) for model in models), strict=True)

    def run(params, rest):
        states = zip(graphdefs, params, rest, strict=True)
        return [nnx.merge(*parts)(image) for parts in states]

    def loss(params, rest):
        taps = [
            (x, m.shared) for m, out in zip(models, run(params, rest), strict=True) for x in out
        ]
        # Of the first task, and of the shared stream, if there is one.
        return sum(jnp.square(x[: shared + 1]).mean() for x, shared in taps)

    compiled = [jax.jit(run), jax.jit(jax.grad(loss))]
    return [lambda p, f=f: f(p, rest) for f in compiled] + [params]


@functools.cache
def plain(kind):
    run, _, params = taken([adapted(kind)])
    return run(params)[0]


def moved(model, params):
    """Returns a copy of a model with other parameters of adapters."""
    graphdef, _, rest = nnx.split(model, KINDS, ...)
    return nnx.merge(graphdef, params, rest)


@pytest.mark.parametrize("name", SMALL)
def test_an_adapter_starts_as_the_backbone_and_tasks_own_their_slices(name):
    for kind, options in SMALL[name].items():
        model = adapted(kind, [(name, options)])
        run, gradient, params = taken([model])
        for tap, streams_ in zip(plain(kind), run(params)[0], strict=True):
            for stream in streams_:
                np.testing.assert_allclose(stream, tap[0], rtol=ROUNDS.get(name, 0))
        if kind == "swin":  # a backward pass takes three times as long to compile
            own_outputs_only(model, lambda p, run=run: run((p,))[0], shaken(params[0]))
        else:
            own_gradients_only(model, gradient(shaken(params))[0])


def test_tadformer_mixes_a_tasks_features_in_at_the_end_of_a_stage():
    whole = adapted("swin", [("tadformer", dict(rank=3, filter="static"))])
    run, _, params = taken([whole, streams.select(whole, "b")])
    shut = jax.tree.map(lambda leaf: leaf - 200 if leaf.ndim == 0 else leaf, params)
    first, last = run(shut)[0], run(params)[0]
    for closed, open_ in zip(first, last, strict=True):
        # Until the branches train all that tells tasks apart is what the gate lets in.
        np.testing.assert_allclose(closed[1:], jnp.stack([closed[0]] * 3), rtol=1e-6)
        assert jnp.abs(open_[1:] - open_[:1]).max() > 1e-5
    mine = shaken(params[0])
    parts = mine, nnx.split(streams.select(moved(whole, mine), "b"), KINDS, ...)[1]
    for all_, depth in zip(*run(parts), strict=True):
        np.testing.assert_allclose(depth, jnp.stack([all_[0], all_[3]]), rtol=1e-5, atol=1e-5)
        assert jnp.abs(all_[1] - all_[2]).max() > 1e-2


def test_every_parameter_of_tadformer_counts():
    model = adapted("swin", [("tadformer", dict(rank=2))])
    run, _, params = taken([model])
    own_outputs_only(model, lambda p: run((p,))[0], shaken(params[0]))
