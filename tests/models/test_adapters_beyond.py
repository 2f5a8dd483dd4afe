"""Adapters beyond the published tables, inside backbones: start, gradients, sizes, rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.models import adapters
from mtl_vision.models.adapters import streams
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.layers import AdapterParam, TaskParam

KEY = jax.random.key(0)
TASKS = ("a/semseg", "a/normals", "b/depth")
BACKBONE = {
    "swin": ("swin", dict(embed=8, depths=(1, 1), heads=(1, 2), window=2)),
    "vit_scan": ("vit", dict(channels=8, depth=3, heads=2, patch=8, grid=(2, 2), taps=(1, 3))),
}
BACKBONE["vit_scan"][1]["scan"] = True
# One pair per adapter; together they take all ways of sharing to both backbones.
SMALL = {
    "ssf": {"swin": dict(share="last", std=0.0), "vit_scan": dict(share="none", std=0.0)},
    "ia3": {"swin": dict(share="none"), "vit_scan": dict(share="last")},
    "dora": {
        "swin": dict(rank=3, task_rank={"semseg": 1, "normals": 2, "depth": 2}),
        "vit_scan": dict(rank=3, task_rank=2, share="none"),
    },
}
# Where one more product at the start is joined to a sum before it, which rounds once less.
ROUNDS = {"ssf": 1e-6}


def adapted(kind, chosen=(), tasks=TASKS):
    rngs = nnx.Rngs(params=KEY)
    name, options = BACKBONE[kind]
    return adapters.adapt(BACKBONES[name](**options, rngs=rngs), chosen, tasks=tasks, rngs=rngs)


def taken(models):
    """Returns (function of the parameters, the parameters) of models run on one image.

    The function gives the outputs and the gradient of a loss of the first task.
    """
    image = jax.random.normal(KEY, (1, 16, 16, 3))
    parts = [nnx.split(model, nnx.Param, ...) for model in models]
    first = [model.shared for model in models]

    @jax.jit
    def function(params):
        def loss(params):
            outs = [
                nnx.merge(graphdef, p, rest)(image)
                for (graphdef, _, rest), p in zip(parts, params, strict=True)
            ]
            taps = [(x, i) for i, out in zip(first, outs, strict=True) for x in out]
            own = [x[: i + 1] for x, i in taps]  # with the shared stream, if there is one
            return sum(jnp.square(x).mean() for x in own), outs

        grads, outs = jax.grad(loss, has_aux=True)(params)
        return outs, [nnx.to_pure_dict(g) for g in grads]

    return function, [part[1] for part in parts]


@functools.cache
def plain():
    function, params = taken([adapted(kind) for kind in BACKBONE])
    return function(params)[0]


def shaken(tree):
    """All parameters moved at random, so that no branch is zero."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(KEY, len(leaves))
    moved = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


@pytest.mark.parametrize("name", SMALL)
def test_an_adapter_starts_as_the_backbone_and_tasks_own_their_slices(name):
    models = [adapted(kind, [(name, options)]) for kind, options in SMALL[name].items()]
    function, params = taken(models)
    for want, got in zip(plain(), function(params)[0], strict=True):
        for tap, streams_ in zip(want, got, strict=True):
            for stream in streams_:
                np.testing.assert_allclose(stream, tap[0], rtol=ROUNDS.get(name, 0))
    grads = function(shaken(params))[1]
    for model, tree in zip(models, grads, strict=True):
        kinds = {k: set(paths(model, k)) for k in (AdapterParam, TaskParam)}
        for path, grad in rules.flatten(tree).items():
            assert np.isfinite(grad).all(), path
            if path in kinds[TaskParam]:
                parts = jnp.abs(jnp.moveaxis(grad, streams.task_axis(path), 0))
                assert parts[1:].max() == 0 < parts[0].max(), path
            elif path in kinds[AdapterParam]:
                assert jnp.abs(grad).max() > 0, path


def paths(model, kind):
    return rules.flatten(nnx.to_pure_dict(nnx.state(model, kind)))
