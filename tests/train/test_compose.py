"""Adapters, decoders and aggregators go together: steps of tiny models, traced.

What an adapter hands on has one of three forms: a trunk, streams of the tasks, or both. Every
adapter is shown to give one of them, and every decoder to read all three. Whole steps are traced
of a few, or, with ``MTL_VISION_CROSS=all``, of every adapter with every decoder.
"""

import functools
import itertools
import os

import jax
import jax.numpy as jnp
import pytest

from mtl_vision import build, parallel, rules
from mtl_vision.check import check
from mtl_vision.errors import ConfigError
from mtl_vision.models import mtl
from mtl_vision.models.adapters import ADAPTERS
from mtl_vision.models.decoders import DECODERS
from mtl_vision.train import plan, setup
from mtl_vision.train.state import TrainState
from mtl_vision.train.step import train_step
from tests import tiny

SIZES = {"synth_pascal": (32, 32), "synth_nyud": (24, 40)}
KINDS = {"synth_pascal": ("sal", "edge"), "synth_nyud": ("depth",)}
OPTIONS = {
    "mtlora": dict(rank=2, task_rank=2),
    "low_rank_adapter": dict(rank=2),
    "phm": dict(n=2),
    "polyhistor_lite": dict(rank=2),
    "dora": dict(rank=2, task_rank=2),
    "tadformer": dict(rank=2),
    "m3vit": dict(experts=3, top=2),
    "task_prompter": dict(size=SIZES, embed=8, width=8),
}
DECODER_OPTIONS = {
    "all_mlp": dict(width=8),
    "aspp": dict(widths=(4, 4, 4), width=8, dilations=(1, 2, 3)),
    "conv": dict(width=8),
    "hrnet": dict(widths=(4, 4, 4)),
    "invpt": dict(width=12, margin=4),
    "mlore": dict(width=8, ranks=(2, 3), task_rank=2, top=1, grid=(4, 4)),
    "task_expert": dict(width=8, experts=2, gate_width=4),
    "updecoder": dict(widths=(4, 4, 4), width=4),
}
# By form, an adapter that gives it.
FORMS = {"trunk": "none", "streams": "polyhistor", "both": "mtlora"}
VIT = dict(channels=16, depth=3, heads=2, patch=8, grid=(4, 4), taps=(1, 2, 3))
SWIN_ONLY = ("tadformer",)


def steps():
    """Of adapters, a decoder and an aggregator."""
    if os.environ.get("MTL_VISION_CROSS") != "all":
        return [
            (("mtlora", "polyhistor"), "task_expert", "pcgrad"),
            (("none",), "mlore", "sum"),
            (("polyhistor",), "hrnet", "graddrop"),
            (("palora",), "conv", "pcgrad"),
        ]
    chosen = [name for name in ("none", *ADAPTERS) if name not in SWIN_ONLY]
    methods = itertools.cycle(("sum", "pcgrad", "graddrop"))
    return [((a,), d, next(methods)) for a, d in itertools.product(chosen, DECODERS)]


def config(*adapters, decoder="linear", aggregator="sum", sam="none", backbone="vit"):
    values = tiny.values(data__batch=2)
    for name, size in SIZES.items():
        values["data"][name] |= {"size": size, "tasks": KINDS[name]}
    if backbone == "vit":
        values["backbone"] = dict(name="vit", **VIT)
    values["adapter"] = tuple(
        {"name": name, **OPTIONS.get(name, {})} for name in adapters if name != "none"
    )
    values["decoder"] = {"name": decoder, **DECODER_OPTIONS.get(decoder, {})}
    if decoder == "task_expert":
        values["decoder"]["reads"] = form(*adapters)
    values["optim"] |= {"aggregator": {"name": aggregator}, "sam": {"name": sam}}
    return check(values)


@functools.cache
def form(*adapters, backbone="vit"):
    """What a backbone with adapters hands to the decoder."""
    model = mtl.abstract(build.model(config(*adapters, backbone=backbone)))
    image = jax.ShapeDtypeStruct((2, *SIZES["synth_pascal"], 3), "float32")

    def encode(model, image):
        return model.encode(image, dataset="synth_pascal", key=jax.random.key(0))

    most = max(x.shape[0] for x in jax.eval_shape(encode, model, image))
    shared = model.backbone.shared
    assert most in (shared, shared + len(KINDS["synth_pascal"]))
    return "trunk" if most == shared else "both" if shared else "streams"


def traced(cfg):
    """Returns the abstract state before and after a step, and the metrics."""
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    model = mtl.abstract(build.model(cfg))
    trains = rules.resolve(build.trainable(cfg), mtl.parameters(model), "trainable")
    graphdef, trained, frozen, stats = mtl.split(model, trains)
    tx = build.optimizer(cfg)

    def start(trained, frozen, stats):
        step, key = jnp.zeros((), jnp.int32), jax.random.key(0)
        return TrainState(step, trained, frozen, stats, tx.init(trained), (), key)

    state = jax.eval_shape(start, trained, frozen, stats)
    step = functools.partial(
        train_step,
        graphdef=graphdef,
        groups=build.groups(cfg),
        tx=tx,
        prefer=build.preferences(cfg),
        **setup.strategies(cfg),
    )
    return state, *jax.eval_shape(step, state, plan.batch_shapes(cfg, mesh))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_gives_one_of_the_forms(adapter):
    assert form(adapter, backbone="swin" if adapter in SWIN_ONLY else "vit") in FORMS


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("wanted", FORMS)
def test_a_decoder_reads_every_form(wanted, decoder):
    adapter = FORMS[wanted]
    assert form(adapter) == wanted
    cfg = config(adapter, decoder=decoder)
    model = mtl.abstract(build.model(cfg))
    for dataset, group in build.groups(cfg).items():
        image = jax.ShapeDtypeStruct((2, *SIZES[dataset], 3), "float32")

        def call(model, image, dataset=dataset):
            return model(image, dataset=dataset, key=jax.random.key(0))

        out = jax.eval_shape(call, model, image)
        assert list(out) == [task.kind for task in group]
        for task in group:
            for x in jax.tree.leaves(out[task.kind]):
                assert x.shape == (2, *SIZES[dataset], task.channels)


@pytest.mark.parametrize("adapters, decoder, aggregator", steps())
def test_a_step_traces(adapters, decoder, aggregator):
    cfg = config(*adapters, decoder=decoder, aggregator=aggregator)
    if adapters == ("taps",) and aggregator != "sum" and build.heads_apart(cfg):
        with pytest.raises(ConfigError, match="no parameter that trains is shared"):
            traced(cfg)
        cfg = config(*adapters, decoder=decoder)
    before, after, metrics = traced(cfg)
    before, after = (jax.tree.map(lambda x: (x.shape, x.dtype), s) for s in (before, after))
    assert before == after
    names = {f"loss/{dataset}/{kind}" for dataset, kinds in KINDS.items() for kind in kinds}
    assert names <= set(metrics)
