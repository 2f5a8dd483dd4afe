"""M3ViT's gates, expert layer and backbone against VITA-Group/M3ViT, in double precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.models import adapters, gates, mtl
from mtl_vision.models.adapters.mixture import MixtureMlp
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.convert import convert
from mtl_vision.models.released import m3vit as released
from tests.parity import networks, records
from tests.parity.family import Watch

RECORDS = records.records("m3vit")
EACH = pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
# Our kind, and the deviation of the noise over 1 / experts.
KINDS = {"vmoe": ("vmoe_authors", 1.0), "vmoe_nonoise": ("vmoe", 0.0), "noisy": ("noisy", None)}
# The authors compute the balance in float32.
ROUNDED = 1e-6
# The gradients of the expert layer are rounded to float32.
STORED = 2.0**-24


def jit(function):
    return jax.jit(function, compiler_options=networks.FAST_COMPILE)


def gate_of(config, name):
    """``(parameters, x, noise) -> Routing`` of one kind of gate."""
    kind, deviation = KINDS[name]

    def run(params, x, noise):
        learned = deviation is None
        return gates.route(
            x @ params["w_gate"],
            config["top_k"],
            gates.KINDS[kind],
            deviation=jax.nn.softplus(x @ params["w_noise"]) + gates.FLOOR
            if learned
            else deviation / config["experts"],
            noise=noise if learned or deviation else None,
        )

    return run


@EACH
@pytest.mark.parametrize("name", KINDS)
def test_gates_match_the_record(file, name):
    meta, arrays = records.load(file)
    with jax.enable_x64(True):
        params = {
            k: jnp.asarray(v, jnp.float64)
            for k, v in records.group(arrays, "gate").items()
            if k.startswith(f"{name}.param.")
        }
        params = {k.rpartition(".")[2]: v for k, v in params.items()}
        x = jnp.asarray(arrays["gate/input"], jnp.float64)
        noise = jnp.asarray(arrays[f"gate/{name}.train.noise"], jnp.float64)
        noise = noise.reshape(*x.shape[:-1], -1)
        run = gate_of(meta["config"], name)

        @jit
        def everything(params):
            def loss(params):
                routing = run(params, x, noise)
                return gates.balance(jax.tree.map(lambda v: v[None], routing)), routing

            return run(params, x, None), jax.value_and_grad(loss, has_aux=True)(params)

        evaluated, ((loss, trained), grads) = everything(params)
        for mode, routing in (("eval", evaluated), ("train", trained)):
            np.testing.assert_array_equal(routing.index, arrays[f"gate/{name}.{mode}.index"])
            expected = arrays[f"gate/{name}.{mode}.score"]
            records.assert_close(routing.weights, expected, 1e-10, mode)
        records.assert_close(loss, arrays[f"gate/{name}.train.balance_loss"], ROUNDED)
        for k, grad in grads.items():
            expected = arrays[f"gate/{name}.train.balance_grad.{k}"]
            records.assert_close(grad, expected, ROUNDED, k)


def build(config, dispatch):
    rngs = nnx.Rngs(params=jax.random.key(0))
    backbone = BACKBONES["vit"](
        channels=config["d_model"],
        depth=config["depth"],
        heads=config["heads"],
        grid=tuple(side // 16 for side in config["img_size"]),
        taps=(config["depth"],),
        mlp_ratio=config["mlp_ratio"],
        rngs=rngs,
    )
    options = dict(
        experts=config["experts"],
        top=config["top_k"],
        ratio=config["moe_hidden_ratio"],
        noise=float(config["vmoe_noisy_std"]),
        balance=1.0,
        dispatch=dispatch,
    )
    return adapters.adapt(backbone, [("m3vit", options)], tasks=config["tasks"], rngs=rngs)


def load(file, prefix, module, place=()):
    """Returns (graphdef, parameters in the record's weights, rest) of a module of a backbone.

    The record's names start with `prefix`; `place` is where in a backbone the module is.
    """
    meta, arrays = records.load(file)
    names = [str(t) for t in range(meta["config"]["tasks"])]
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    shapes = nnx.to_pure_dict(params)
    nested = functools.reduce(lambda tree, key: {key: tree}, reversed(place), shapes)
    lead = ".".join(map(str, place)) + "." * bool(place)
    found = {
        lead + name.removeprefix(prefix): arrays[name]
        for name in arrays.files
        if name.startswith(prefix)
    }
    made = convert(found, released.backbone(names), nested)
    made = functools.reduce(lambda tree, key: tree[key], place, made)
    made = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), made)
    rest = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float64), nnx.to_pure_dict(rest))
    return graphdef, made, rest


def mixture_of(config, dispatch):
    (module,) = [
        m
        for path, m in nnx.iter_modules(build(config, dispatch))
        if isinstance(m, MixtureMlp) and path[:2] == ("blocks", 1)
    ]
    return module


@EACH
@pytest.mark.parametrize("dispatch", ["sorted", "dense"])
def test_expert_layer_matches_the_record(file, dispatch):
    meta, arrays = records.load(file)
    with jax.enable_x64(True):
        module = nnx.eval_shape(lambda: mixture_of(meta["config"], dispatch))
        graphdef, params, rest = load(file, "mlp/param.", module, ("blocks", 1, "mlp"))
        x = jnp.asarray(arrays["gate/input"], jnp.float64)[None]
        probe = jnp.asarray(arrays["mlp/probe"], jnp.float64)

        @jit
        @functools.partial(jax.grad, has_aux=True)
        def run(params):
            out = nnx.merge(graphdef, params, rest)(x)
            return (probe * out[0]).sum(), out

        grads, out = run(params)
        for t in range(meta["config"]["tasks"]):
            records.assert_close(out[t], arrays[f"mlp/out.task{t}"], 1e-10, f"task {t}")
        found = rules.flatten(grads)
        for name, expected in records.group(arrays, "mlp").items():
            if name.startswith("grad."):
                actual, expected = gradient(found, name.removeprefix("grad."), expected)
                records.assert_close(actual, expected, 1e-8 + STORED, name)


def gradient(found, name, expected):
    if name == "gate.0.w_gate":
        return found["gate/kernel"][0], expected
    _, layer, part = name.split(".")
    layer = {"htoh4": "fc1", "h4toh": "fc2"}[layer]
    if part == "bias":
        return found[f"experts/{layer}/bias"], expected
    return found[f"experts/{layer}/kernel"], expected.swapaxes(1, 2)


@EACH
def test_backbone_matches_the_record(file):
    meta, arrays = records.load(file)
    with jax.enable_x64(True):
        abstract = nnx.eval_shape(lambda: build(meta["config"], "auto"))
        graphdef, params, rest = load(file, "backbone/param/", abstract)
        image = jnp.asarray(np.moveaxis(arrays["backbone/input"], 1, -1), jnp.float64)

        @jit
        def run(params):
            model, seen = nnx.merge(graphdef, params, rest), []
            model.blocks = nnx.List(
                [Watch(block, lambda _, x: seen.append(x)) for block in model.blocks]
            )
            model(image, key=jax.random.key(0))
            return seen, mtl.statistics(model)

        seen, stats = run(params)
        assert [len(x) for x in seen] == [1, 3, 3, 3]
        for i, x in enumerate(seen):
            for t in range(meta["config"]["tasks"]):
                expected = arrays[f"backbone/task{t}.block{i}"]
                records.assert_close(x[t % len(x)], expected, 1e-10, f"block {i} task {t}")
        found = sum(rules.flatten(stats).values())
        records.assert_close(found, arrays["backbone/balance_loss_sum_all_tasks"], ROUNDED)
