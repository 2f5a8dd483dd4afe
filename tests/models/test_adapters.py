"""The adapter mechanism: streams, datasets, stacked blocks, rules; held on every adapter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.errors import ConfigError
from mtl_vision.models import adapters, mtl
from mtl_vision.models.adapters import inject, streams
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.keys import Keys
from mtl_vision.models.layers import AdapterParam, TaskParam
from tests.models.adapter_backbones import own_outputs_only, shaken

KEY = jax.random.key(0)
KINDS = (AdapterParam, TaskParam)
OUTPUTS = {"a": {"semseg": 3, "normals": 3}, "b": {"depth": 1}}
TASKS = ("a/semseg", "a/normals", "b/depth")
VIT = dict(channels=8, depth=3, heads=2, patch=8, grid=(2, 2), taps=(1, 3))
BACKBONE = {
    "swin": ("swin", dict(embed=8, depths=(1, 1), heads=(1, 2), window=2)),
    "one": ("swin", dict(embed=8, depths=(1,), heads=(1,), window=2)),
    "vit": ("vit", VIT),
    "vit_scan": ("vit", VIT | dict(scan=True)),
}
# Options that fit the small backbones above.
SMALL = {"mtlora": dict(rank=3, task_rank=2)}


def plain(kind="swin"):
    name, options = BACKBONE[kind]
    return BACKBONES[name](**options, rngs=Keys(params=jax.random.key(1)))


def adapted(name, kind="swin", **options):
    chosen = [(name, SMALL[name] | options)]
    return adapters.adapt(plain(kind), chosen, tasks=TASKS, rngs=Keys(params=KEY))


def model(backbone):
    decoder = DECODERS["hrnet"](
        outputs=OUTPUTS,
        channels=backbone.channels,
        strides=backbone.strides,
        widths=(4,) * len(backbone.channels),
        rngs=Keys(params=KEY),
    )
    return mtl.MultiTask(backbone, decoder)


def image():
    return jax.random.normal(KEY, (2, 16, 16, 3))


def run(module):
    graphdef, state = nnx.split(module)
    return jax.jit(lambda state: nnx.merge(graphdef, state)(image()))(state)


@functools.cache
def plain_run(kind):
    return run(plain(kind))


def starts_as(kind, taps):
    for want, got in zip(plain_run(kind), taps, strict=True):
        for stream in got:
            np.testing.assert_array_equal(stream, want[0])


def test_mtlora_starts_as_the_backbone_and_its_tasks_own_their_slices():
    backbone = adapted("mtlora")
    graphdef, params, rest = nnx.split(backbone, KINDS, ...)
    function = jax.jit(lambda params, rest: nnx.merge(graphdef, params, rest)(image()))
    starts_as("swin", function(params, rest))
    own_outputs_only(backbone, lambda params: function(params, rest), shaken(params))


def test_tasks_of_a_dataset_are_slices_and_folding_changes_nothing():
    backbone = adapted("mtlora", "vit_scan")

    def states():
        made = [backbone, streams.select(backbone, "a"), inject.merge(backbone)]
        return zip(*map(nnx.split, made), strict=True)

    graphdefs, start = states()
    run = jax.jit(lambda s: [nnx.merge(*pair)(image()) for pair in zip(graphdefs, s, strict=True)])
    starts_as("vit_scan", run(start)[0])
    nnx.update(backbone, shaken(nnx.state(backbone)))
    for all_, part, fold in zip(*run(list(states())[1]), strict=True):
        np.testing.assert_allclose(part, all_[: part.shape[0]], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(fold, all_, atol=1e-5 * jnp.abs(all_).max())


def test_a_task_gives_no_gradient_to_the_slices_of_others():
    network = model(adapted("mtlora", "one"))
    own = rules.flatten(nnx.to_pure_dict(nnx.state(network, TaskParam)))
    trains = {path: path in own for path in mtl.parameters(network)}
    graphdef, *trees = mtl.split(network, trains)

    @jax.jit
    @jax.grad
    def grad(trainable, rest):
        out = mtl.merge(graphdef, trainable, *rest)(image(), dataset="a", key=KEY)
        return jnp.square(out["normals"]).sum()

    grads = rules.flatten(grad(shaken(trees[0]), trees[1:]))
    assert grads.keys() == own.keys()
    for path in own:
        parts = jnp.moveaxis(grads[path], streams.task_axis(path), 0)
        assert jnp.abs(parts[0]).max() == jnp.abs(parts[2]).max() == 0 < jnp.abs(parts[1]).max()


@pytest.mark.parametrize("name", SMALL)
def test_what_adapters_add_trains_and_the_linear_layers_do_not(name):
    network = mtl.abstract(lambda: model(adapted(name)))
    chosen = rules.resolve(adapters.trainable([name]), mtl.parameters(network), "trainable")
    added = nnx.state(network.backbone, (AdapterParam, TaskParam))
    added = rules.flatten(nnx.to_pure_dict(added))
    assert added and all(chosen[f"backbone/{path}"] for path in added)
    assert all(yes for path, yes in chosen.items() if path.startswith("decoder"))
    kernels = [p for p in chosen if p.endswith("linear/kernel")]
    assert kernels and not any(chosen[path] for path in kernels)


class Gains(nnx.Module):
    """Wraps a layer for the test: what it passes to task t is multiplied by t + 1."""

    def __init__(self, linear, tasks, shared):
        self.linear, self.shared = linear, shared
        self.gain = TaskParam(1 + jnp.arange(float(tasks)))

    def __call__(self, x, *, key=None):
        gain = jnp.expand_dims(self.gain[...], range(1, x.ndim))
        tasks = streams.task_streams(x, self.shared, len(gain))
        return self.linear(jnp.concatenate([x[: self.shared], gain * tasks]), key=key)


def gains(kind, site, shared, tasks=TASKS, where=lambda place: True):
    backbone = plain(kind)
    inject.name_tasks(backbone, tasks)
    streams.open_streams(backbone, trunk=bool(shared))

    def edit(block, place, rngs):
        if where(place):
            inject.wrap(block, site, lambda x: Gains(x, len(tasks), shared))

    inject.edit_blocks(backbone, edit, rngs=Keys(params=KEY))
    return backbone


@pytest.mark.parametrize(
    "kind, shared", [("swin", 0), ("vit", 1), ("vit_scan", 0), ("vit_scan", 1)]
)
def test_streams_run_through_the_backbone(kind, shared):
    for x, want in zip(run(gains(kind, "mlp.fc1", shared)), plain_run(kind), strict=True):
        assert x.shape[0] == shared + 3
        for stream in x[: shared + 1]:  # the shared one, and the first task with a gain of 1
            np.testing.assert_allclose(stream, want[0], rtol=1e-5, atol=1e-5)
        assert jnp.abs(x[-1] - want[0]).max() > 1e-3


def test_streams_may_start_at_any_block_and_one_task_is_enough():
    def where(place):
        return place.stage == 1

    late, one = (gains("swin", "attn.qkv", 0, tasks, where) for tasks in (TASKS, TASKS[:1]))
    assert [x.shape[0] for x in run(late)] == [1, 3]
    for x, want in zip(run(one), plain_run("swin"), strict=True):
        np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-5)
    # A level before the opening reaches every task.
    out = jax.eval_shape(lambda: model(late)(image(), dataset="a"))
    assert set(out) == set(OUTPUTS["a"])


def test_select_narrows_a_copy_and_shares_the_rest():
    whole = adapted("mtlora", "vit_scan")
    part = streams.select(whole, "a")
    assert part.tasks == ("a/semseg", "a/normals") and whole.tasks == TASKS
    pairs = [
        (x.shape, mtl.parameters(whole)[path].shape)
        for path, x in mtl.parameters(part).items()
        if "task_lora" in path
    ]
    assert pairs and all((a[0], b[0]) == (2, 3) and a[1:] == b[1:] for a, b in pairs)
    assert part.pos_embed is whole.pos_embed
    assert streams.select(plain(), "a").tasks == ()
    with pytest.raises(ConfigError, match="Did you mean 'b'"):
        streams.select(whole, "bb")


class Reversed(nnx.Module):
    """A hypernetwork for the test: turns round the channels that enter a copy."""

    def __call__(self, backbone):
        made = streams.copy(backbone)
        made.entry = Flip()
        return made


class Flip(nnx.Module):
    def __call__(self, x):
        return x[..., ::-1]


def test_what_a_hypernetwork_writes_lasts_one_pass():
    backbone = plain("vit")
    backbone.generate = Reversed()
    assert jnp.abs(run(backbone)[0] - plain_run("vit")[0]).max() > 1e-3
    backbone.generate = plain("vit").generate
    np.testing.assert_array_equal(run(backbone)[0], plain_run("vit")[0])


def test_adapters_of_one_backbone_serve_the_same_tasks():
    with pytest.raises(ConfigError, match="built for a/semseg"):
        adapters.adapt(adapted("mtlora"), [("mtlora", {})], tasks=2, rngs=Keys(params=KEY))
    with pytest.raises(ConfigError, match="Did you mean 'mtlora'"):
        adapters.trainable(["mtlorra"])
