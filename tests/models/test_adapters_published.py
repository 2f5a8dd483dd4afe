"""The adapters of the published tables, inside backbones: start, gradients, tasks, datasets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.errors import ConfigError
from mtl_vision.models import adapters, mtl, stacks
from mtl_vision.models.adapters import streams
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.keys import Keys
from mtl_vision.models.layers import AdapterParam, TaskParam
from tests.models.adapter_backbones import own_gradients_only, own_outputs_only, shaken

KEY = jax.random.key(0)
KINDS = (AdapterParam, TaskParam)
TASKS = ("a/semseg", "a/normals", "b/depth")
VIT = dict(channels=8, depth=2, heads=2, patch=8, grid=(2, 2), taps=(2,))
BACKBONE = {
    "swin": ("swin", dict(embed=8, depths=(1, 1), heads=(1, 2), window=2)),
    "vit": ("vit", VIT),
    "vit_scan": ("vit", VIT | dict(scan=True)),
}
HYPER = dict(embed=3, ratio=4)
# Adapters of a Swin and of a scanned ViT; together they take the branches of the code.
CASES = {
    "vpt": (dict(vpt=dict(prompts=3)), dict(vpt=dict(prompts=3, deep=True))),
    "phm": (
        dict(adapter=dict(norm="task"), phm=dict(ratio=2, n=2), lora=dict(rank=2, bias=True)),
        dict(
            adapter=dict(share="down", norm="none", sites=("attn", "mlp")),
            phm=dict(ratio=2, n=2, share="none"),
            lora=dict(rank=2, share="none", sites=("q", "fc1")),
        ),
    ),
    "compacter": (
        dict(compacter=dict(n=2), low_rank_adapter=dict(rank=1)),
        dict(
            compacter=dict(n=2, share="none", norm="none"),
            low_rank_adapter=dict(rank=1, ratio=4, share="up", norm="shared"),
        ),
    ),
    "hyperformer": (
        dict(hyperformer=HYPER),
        dict(hyperformer=HYPER | dict(projection=(2, 4), affine=False)),
    ),
    "polyhistor": (
        dict(polyhistor=HYPER | dict(norm="none", rank=1)),
        dict(polyhistor=HYPER | dict(bias="task")),
    ),
    "polyhistor_lite": (
        dict(polyhistor_lite=HYPER | dict(rank=1)),
        dict(polyhistor_lite=HYPER | dict(scaling="task", bias="none", rank=2)),
    ),
}


def adapted(kind, more=(), **chosen):
    rngs = Keys(params=KEY)
    name, options = BACKBONE[kind]
    backbone = BACKBONES[name](**options, **dict(more), rngs=rngs)
    return adapters.adapt(backbone, list(chosen.items()), tasks=TASKS, rngs=rngs)


def image():
    return jax.random.normal(KEY, (1, 16, 16, 3))


def taken(model):
    """Returns (outputs, gradients of a loss of the first task, parameters of the adapters)."""
    graphdef, params, rest = nnx.split(model, KINDS, ...)
    run = jax.jit(lambda params, rest: nnx.merge(graphdef, params, rest)(image()))

    @jax.jit
    @jax.grad
    def gradient(params, rest):
        taps = nnx.merge(graphdef, params, rest)(image())
        return sum(jnp.square(x[: model.shared + 1]).mean() for x in taps)

    return lambda p: run(p, rest), lambda p: gradient(p, rest), params


@functools.cache
def plain(kind):
    run, _, params = taken(adapted(kind))
    return run(params)


def paths(model, kind):
    return rules.flatten(nnx.to_pure_dict(nnx.state(model, kind)))


@pytest.mark.parametrize("name", CASES)
def test_adapters_start_as_the_backbone_and_tasks_own_their_slices(name):
    for kind, chosen in zip(("swin", "vit_scan"), CASES[name], strict=True):
        model = adapted(kind, **chosen)
        run, gradient, params = taken(model)
        assert jax.tree.leaves(params)
        for tap, made in zip(plain(kind), run(params), strict=True):
            assert tap.shape[1:] == made.shape[1:]
            if name == "vpt":  # prompts are seen at once
                assert np.isfinite(made).all() and jnp.abs(made - tap).max() > 1e-6
            else:
                np.testing.assert_array_equal(made, jnp.broadcast_to(tap, made.shape))
        if kind == "swin":  # a backward pass takes three times as long to compile
            own_outputs_only(model, run, shaken(params))
        else:
            own_gradients_only(model, gradient(shaken(params)))


def runs(module, state):
    graphdef, _ = nnx.split(module)
    return jax.jit(lambda state: nnx.merge(graphdef, state)(image()))(state)


def test_hypernetworks_know_tasks_by_their_embeddings_in_loops_and_stacks():
    chosen = dict(polyhistor_lite=HYPER | dict(rank=1, norm="shared", projection=(2, 4)))
    loop, scan = (adapted(kind, **chosen) for kind in ("vit", "vit_scan"))
    tree = shaken(nnx.to_pure_dict(nnx.state(loop)))
    e = tree["generate"]["embedding"]
    tree["generate"]["embedding"] = np.stack([e[0], e[1], e[0]])
    (first, second, third) = runs(loop, tree)[0]
    np.testing.assert_array_equal(first, third)
    assert jnp.abs(first - second).max() > 1e-3
    stacked = stacks.stack(tree, VIT["taps"])
    np.testing.assert_allclose(runs(scan, stacked)[0][1], second, atol=1e-5)
    # A dataset's tasks get the weights of their own embeddings.
    nnx.update(scan, stacked)
    part = streams.select(scan, "a")
    np.testing.assert_allclose(
        runs(part, nnx.to_pure_dict(nnx.state(part)))[0], [first, second], atol=1e-5
    )


def test_prompts_of_one_block_are_the_same_shallow_and_deep():
    def taps(kind, deep):
        name, options = BACKBONE[kind]
        sizes = dict(depths=(1,), heads=(2,)) if name == "swin" else dict(depth=1, taps=(1,))
        rngs = Keys(params=KEY)
        backbone = BACKBONES[name](**options | sizes, rngs=rngs)
        chosen = [("vpt", dict(prompts=3, deep=deep))]
        return nnx.split(adapters.adapt(backbone, chosen, tasks=TASKS, rngs=rngs))

    parts = [taps(kind, deep) for kind in ("swin", "vit") for deep in (False, True)]
    graphdefs, states = zip(*parts, strict=True)
    made = jax.jit(lambda s: [nnx.merge(*p)(image())[0] for p in zip(graphdefs, s, strict=True)])
    swin, deep_swin, plain_vit, deep_vit = made(states)
    np.testing.assert_allclose(swin, deep_swin, atol=1e-5)
    np.testing.assert_allclose(plain_vit, deep_vit, atol=1e-5)


def test_a_shared_adapter_gives_all_tasks_the_same_unless_its_norms_differ():
    for norm, count in (("shared", 1), ("task", 3)):
        taps = jax.eval_shape(lambda n=norm: adapted("swin", adapter=dict(norm=n))(image()))
        assert [x.shape[0] for x in taps] == [count, count]


def test_streams_of_tasks_keep_the_trunk_that_mtlora_needs():
    chosen = dict(mtlora=dict(rank=2, task_rank=1), polyhistor=HYPER | dict(rank=1))
    taps = jax.eval_shape(lambda: adapted("swin", **chosen, adapter=dict(norm="task"))(image()))
    assert [x.shape[0] for x in taps] == [4, 4]


@pytest.mark.parametrize("name", CASES)
def test_adapters_compute_in_the_type_of_the_backbone(name):
    def taps(kind, chosen):
        backbone, options = BACKBONE[kind]
        make = dict(dtype="bfloat16", rngs=Keys(params=KEY))
        backbone = BACKBONES[backbone](**options, **make)
        return adapters.adapt(backbone, list(chosen.items()), tasks=TASKS, **make)(image())

    for kind, chosen in zip(("swin", "vit_scan"), CASES[name], strict=True):
        found = jax.eval_shape(lambda k=kind, c=chosen: taps(k, c))
        assert {x.dtype for x in found} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    "chosen, message",
    [
        (dict(adapter=dict(ratio=3)), "ratio=3 does not divide a block's 8"),
        (dict(adapter=dict(share="sideways")), "adapter.share='sideways'"),
        (dict(adapter=dict(sites=("mpl",))), "Did you mean 'mlp'"),
        (dict(adapter=dict(norm="tasks")), "Did you mean 'task'"),
        (dict(adapter=dict(act="gelu_tan")), "Did you mean 'gelu_tanh'"),
        (dict(phm=dict(n=3, ratio=2)), "n=3 must divide the widths of a layer 8 -> 4"),
        (dict(compacter=dict(n=4, rank=2)), "rank 2 does not fit a layer 2 -> 1"),
        (dict(phm=dict(ratio=2), compacter={}), "two adapters make weights"),
        (dict(polyhistor=dict(rank=3, ratio=4)), "rank 3 does not fit"),
        (dict(polyhistor_lite=HYPER | dict(rank=1, order="left")), "adapter.order='left'"),
        (dict(lora=dict(sites=())), "sites is empty"),
        (dict(lora=dict(share="down")), "adapter.share='down'"),
        (dict(vpt=dict(prompts=0)), "prompts=0"),
    ],
)
def test_what_does_not_fit_is_named(chosen, message):
    with pytest.raises(ConfigError, match=message):
        mtl.abstract(lambda: adapted("swin", **chosen))


@pytest.mark.parametrize("name", ["adapter", "lora", "vpt", "compacter", "polyhistor_lite_v"])
def test_what_adapters_add_trains_and_nothing_of_the_backbone(name):
    small = {"compacter": dict(n=2), "lora": dict(rank=2), "polyhistor_lite_v": {}}
    layer_scale = dict(layer_scale=0.1, drop_path=0.1)
    model = mtl.abstract(lambda: adapted("vit", layer_scale, **{name: small.get(name, {})}))
    added = {f"backbone/{path}" for path in paths(model, (AdapterParam, TaskParam))}
    every = [f"backbone/{path}" for path in paths(model, nnx.Param)]
    chosen = rules.resolve(adapters.trainable([name]), every, "trainable")
    assert added == {path for path, yes in chosen.items() if yes}
