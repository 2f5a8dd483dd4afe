"""The decoder `task_expert` on a ViT against the record of its design, in double precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.models import convert, mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.pretrained import vit
from tests.parity import networks, records
from tests.parity.family import DATASET, Watch, losses_of, two_modes

EACH = pytest.mark.parametrize(
    "file", records.family("taskexpert_design"), ids=lambda file: file.stem
)
# Ours by the name below ``decoder/tap{l}/`` of the record.
TAP = {
    "experts/bn": "norms/d/{l}/experts",
    "experts/proj": "experts/{l}/layers/proj",
    "experts/conv": "experts/{l}/layers/conv",
    "gate/ctx": "experts/{l}/context",
    "gate/mem": "slots/d/taps/{l}/gate/mem",
    "gate/out": "slots/d/taps/{l}/gate/out",
    "read": "slots/d/taps/{l}/read",
    "write/bn": "norms/d/{l}/write",
    "write/conv0": "slots/d/taps/{l}/write/conv0",
    "write/conv1": "slots/d/taps/{l}/write/conv1",
    "write/conv2": "slots/d/taps/{l}/write/conv2",
}


def build(meta):
    config, rngs = meta["config"], nnx.Rngs(params=jax.random.key(0))
    vit, patch = config["vit"], config["vit"]["patch_size"]
    backbone = BACKBONES["vit"](
        channels=vit["embed_dim"],
        depth=vit["depth"],
        heads=vit["num_heads"],
        patch=patch,
        grid=tuple(side // patch for side in config["img_size"]),
        taps=(*vit["select_list"], vit["depth"]),
        rngs=rngs,
    )
    decoder = DECODERS["task_expert"](
        outputs={DATASET: {kind: meta["num_outputs"][kind] for kind in meta["tasks"]}},
        channels=backbone.channels,
        strides=backbone.strides,
        width=config["decoder_dim"],
        experts=config["num_experts"],
        gate_width=config["gate_dim"],
        rngs=rngs,
    )
    return mtl.MultiTask(backbone, decoder)


def renamed(name):
    """Path of the decoder's array of the record; a head's has ``<task>`` in it."""
    where, _, rest = name.partition("/")
    if where == "heads":
        task, layer, leaf = rest.split("/")
        layers = {"conv": "conv", "bn": "norm", "pred": f"predict/kinds/{task}"}
        return f"decoder/heads/{DATASET}/{layers[layer]}/{leaf}", task
    if rest == "memory":
        return f"decoder/slots/{DATASET}/memory", None
    tap, _, rest = rest.partition("/")
    layer, _, leaf = rest.rpartition("/")
    return f"decoder/{TAP[layer].format(l=tap.removeprefix('tap'))}/{leaf}", None


def gather(meta, arrays, targets):
    """The record's parameters and statistics by our paths, in our shapes."""
    backbone = {n.removeprefix("backbone."): a for n, a in arrays.items() if "backbone." in n}
    made = convert.convert(backbone, vit.TIMM, targets["backbone"])
    found = {f"backbone/{path}": a for path, a in rules.flatten(made).items()}
    heads = {}
    for name, array in arrays.items():
        if not name.startswith("backbone."):
            path, task = renamed(name)
            if task is None or "predict" in path:
                found[path] = array
            else:
                heads.setdefault(path, {})[task] = array
    found |= {path: np.stack([own[t] for t in meta["tasks"]]) for path, own in heads.items()}
    shapes = {path: leaf.shape for path, leaf in rules.flatten(targets).items()}
    assert found.keys() == shapes.keys()
    # 1x1 kernels of convolutions have lost their window, a gate's context has axes N and C apart.
    return {path: array.reshape(shapes[path]) for path, array in found.items()}


@functools.cache
def measure(file):
    """Returns (meta, arrays, {mode: what the record holds, gradients by path})."""
    meta, arrays = records.load(file)
    with jax.enable_x64(True):
        model = mtl.abstract(lambda: build(meta))
        graphdef, params, _, stats = mtl.split(model, dict.fromkeys(mtl.parameters(model), True))
        targets = nnx.to_pure_dict(nnx.state(model))
        found = gather(meta, records.group(arrays, "param"), targets)
        params, stats = (
            rules.map_with_path(lambda path, _: jnp.asarray(found[path], jnp.float64), tree)
            for tree in (params, stats)
        )
        image = jnp.asarray(np.moveaxis(arrays["input/image"], 1, -1), jnp.float64)
        run = functools.partial(_run, meta, arrays, graphdef, image, stats)
        run = jax.jit(run, compiler_options=networks.FAST_COMPILE)
        return meta, arrays, jax.device_get(run(params))


def _run(meta, arrays, graphdef, image, stats, params):
    def encode(tree):
        model = mtl.merge(graphdef, params | {"backbone": tree}, {}, stats)
        return model.encode(image, dataset=DATASET)

    def decode(tree, taps, key):
        model = mtl.merge(graphdef, params | {"decoder": tree}, {}, stats)
        seen = watch(model.decoder, meta["tasks"])
        out = model.decode(taps, image.shape[1:3], dataset=DATASET, key=key)
        found = losses_of(meta, arrays, out)
        total = sum(meta["loss_weights"][t] * x for t, x in found.items())
        return total, dict(seen=seen, out=out, losses=found | {"total": total})

    _, modes = two_modes(encode, decode, params["backbone"], params["decoder"])
    return modes


def watch(decoder, kinds):
    """Makes a decoder note what the record holds; returns the dict it fills."""
    seen, run = {}, decoder.run

    def watched(*args, **options):
        memories, gates = run(*args, **options)
        for tap, (memory, gate) in enumerate(zip(memories, gates, strict=True)):
            seen.update({f"tap{tap}.memory.{k}": memory[t] for t, k in enumerate(kinds)})
            seen.update({f"tap{tap}.gate.{k}": gate[t] for t, k in enumerate(kinds)})
        return memories, gates

    def keep_experts(tap, _, out):
        seen[f"tap{tap}.experts"] = jnp.moveaxis(out[0][:, 0], 1, 0)

    def keep_heads(_, out):
        seen.update({f"head_logits.{kind}": y for kind, y in out.items()})

    decoder.run = watched
    for tap, experts in enumerate(decoder.experts):
        decoder.experts[tap] = Watch(experts, functools.partial(keep_experts, tap))
    decoder.heads[DATASET] = Watch(decoder.heads[DATASET], keep_heads)
    return seen


def as_recorded(x, expected):
    """``[..., h, w, C]`` -> ``[..., C, h, w]``, or without a grid where it is 1x1."""
    return np.moveaxis(x, -1, -3).reshape(expected.shape)


@EACH
def test_maps_gates_and_losses_match_the_record(file):
    meta, arrays, modes = measure(file)
    for mode, found in modes.items():
        compared = set()
        for name, x in found["seen"].items():
            if f"{mode}/{name}" in arrays:
                expected = arrays[f"{mode}/{name}"]
                rounded = expected.dtype == np.float32  # the experts are recorded so
                x = as_recorded(x, expected)
                records.assert_close(x, expected, 1e-7 if rounded else 1e-10, f"{mode} {name}")
                compared.add(name)
        recorded = records.group(arrays, mode)
        assert compared == {n for n in recorded if n.startswith(("tap", "head_logits"))}
        for name, x in found["losses"].items():
            expected = arrays[f"{mode}/loss.{name}"]
            rounded = expected.dtype == np.float32 or name == "total"
            records.assert_close(x, expected, 1e-6 if rounded else 1e-10, f"{mode} {name}")
    for kind, x in modes["eval"]["out"].items():
        expected = arrays[f"eval/out_every3.{kind}"]
        records.assert_close(as_recorded(x[:, ::3, ::3], expected), expected, 1e-10, kind)


@EACH
def test_gradients_match_the_record(file):
    meta, arrays, modes = measure(file)
    for mode, found in modes.items():
        recorded = {n: a for n, a in records.group(arrays, mode).items() if n.startswith("grad.")}
        assert len(recorded) == 6
        for name, expected in recorded.items():
            name = name.removeprefix("grad.")
            if name.startswith("backbone."):
                path, expected = "backbone/blocks/0/attn/qkv/kernel", expected.T
            else:
                path, _ = renamed(name)
            actual = found["grads"][path].reshape(expected.shape)
            records.assert_close(actual, expected, 1e-8, f"{mode} {name}")
