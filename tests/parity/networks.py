"""Whole multi-task networks of scale-lab/MTLoRA: built, run and read like their records."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision import losses, rules, tasks
from mtl_vision.models import adapters, mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.convert import convert
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.released import mtlora as released
from tests.parity import records

DATASET = "pascal"
SWITCHES = {
    "attn.qkv": "QKV_ENABLED",
    "attn.proj": "PROJ_ENABLED",
    "mlp.fc1": "FC1_ENABLED",
    "mlp.fc2": "FC2_ENABLED",
}
FAST_COMPILE = {"xla_backend_optimization_level": 0}


def build(meta):
    """The network of a record."""
    rngs = nnx.Rngs(params=jax.random.key(0))
    config, swin = meta["config"]["MODEL"], meta["config"]["MODEL"]["SWIN"]
    sides = [meta["config"]["DATA"]["IMG_SIZE"] // 4 >> i for i in range(len(swin["DEPTHS"]))]
    backbone = BACKBONES["swin"](
        embed=swin["EMBED_DIM"],
        depths=tuple(swin["DEPTHS"]),
        heads=tuple(swin["NUM_HEADS"]),
        window=tuple(min(swin["WINDOW_SIZE"], side) for side in sides),
        rngs=rngs,
    )
    if options := adapter(meta):
        chosen, names = [("mtlora", options)], tuple(f"{DATASET}/{kind}" for kind in kinds(meta))
        backbone = adapters.adapt(backbone, chosen, tasks=names, rngs=rngs)
    decoder = DECODERS["hrnet"](
        outputs={DATASET: {kind: meta["num_outputs"][kind] for kind in kinds(meta)}},
        channels=backbone.channels,
        strides=backbone.strides,
        widths=config["DECODER_CHANNELS"],
        rngs=rngs,
    )
    return mtl.MultiTask(backbone, decoder)


def kinds(meta):
    """The tasks in the project's order, which is not that of the record."""
    return tuple(kind for kind in tasks.KINDS if kind in meta["tasks"])


def adapter(meta):
    """The options of `mtlora` that the record's config means; none for a plain network."""
    config = meta["config"]["MODEL"].get("MTLORA", {})
    if not config.get("ENABLED"):
        return {}
    ranks = config["R_PER_TASK"] or dict.fromkeys(("shared", *kinds(meta)), config["R"])
    scales, mode = config.get("SCALE_PER_TASK", {}), config.get("SHARED_MODE", "matrix")
    return dict(
        rank=tuple(ranks["shared"]),
        task_rank={kind: tuple(ranks[kind]) for kind in kinds(meta)},
        scale=tuple(config["SHARED_SCALE"]),
        task_scale={kind: tuple(scales[kind]) for kind in kinds(meta) if scales},
        dropout=tuple(config["DROPOUT"]),
        mode={"add": "addition"}.get(mode, mode),
        sites=tuple(site for site, switch in SWITCHES.items() if config[switch]),
        plus=config["DOWNSAMPLER_ENABLED"],
        train_scale=config["TRAINABLE_SCALE_SHARED"],
        train_task_scale=config["TRAINABLE_SCALE_PER_TASK"],
    )


def trainable(meta):
    """The rules of what trains."""
    return adapters.trainable(["mtlora"]) if adapter(meta) else ((".*", True),)


class Network(NamedTuple):
    """A record and its network taken apart, in the record's weights."""

    meta: dict[str, Any]
    arrays: Any
    graphdef: Any
    trainable: Any
    frozen: Any
    stats: Any
    image: jax.Array


def load(file, dtype):
    """Reads a record."""
    meta, arrays = records.load(file)
    model = mtl.abstract(lambda: build(meta))
    chosen = rules.resolve(trainable(meta), mtl.parameters(model), "trainable")
    graphdef, *shapes = mtl.split(model, chosen)
    merged = nnx.to_pure_dict(nnx.state(model))
    table = released.checkpoint(kinds(meta), DATASET)
    weights = rules.flatten(convert(records.group(arrays, "param"), table, merged))
    trees = [
        rules.map_with_path(lambda path, _: jnp.asarray(weights[path], dtype), tree)
        for tree in shapes
    ]
    image = jnp.asarray(np.moveaxis(arrays["input/image"], 1, -1), dtype)
    return Network(meta, arrays, graphdef, *trees, image)


class Spy(nnx.Module):
    """Stands in for a decoder and hands its outputs to `keep`."""

    def __init__(self, decoder, keep):
        self.decoder, self.keep = decoder, keep

    def __call__(self, *args, **options):
        out = self.decoder(*args, **options)
        self.keep(out)
        return out


def targets(network):
    """Returns {kind: (label, mask)}."""
    found = {}
    for kind in kinds(network.meta):
        label = np.moveaxis(network.arrays[f"target/{kind}"], 1, -1)
        mask = (label != 255).all(-1)
        found[kind] = jnp.asarray(label if kind == "normals" else label[..., 0]), jnp.asarray(mask)
    return found


def kind_losses(network, out):
    """Returns {kind: unweighted loss} in protocol A."""
    found = {}
    for kind, target in targets(network).items():
        options = {"classes": [""] * out[kind].shape[-1]} if kind == "semseg" else {}
        task = tasks.TASKS[kind](DATASET, "A", **options)
        found[kind] = losses.mean(*task.loss(out[kind], *target))
    return found


@functools.cache
def measure(file):
    """Runs a record's network in double precision: one program for evaluation and training.

    Returns: the `Network`, and a dict of ``taps``, and for ``eval`` and ``train`` of dicts of
      ``heads``, ``out``, ``losses``, ``grads`` by path, ``stats``.
    """
    with jax.enable_x64(True):
        network = load(file, jnp.float64)
        run = jax.jit(functools.partial(_measure, network), compiler_options=FAST_COMPILE)
        return network, jax.device_get(run(network.trainable))


def _measure(network, trainable):
    weights = network.meta["loss_weights"]

    def model_of(part, tree):
        return mtl.merge(network.graphdef, trainable | {part: tree}, network.frozen, network.stats)

    def encode(tree):
        return model_of("backbone", tree).encode(network.image, dataset=DATASET)

    def decode(tree, taps, key):
        model, heads = model_of("decoder", tree), []
        decoder, model.decoder = model.decoder, Spy(model.decoder, heads.append)
        out = model.decode(taps, network.image.shape[1:3], dataset=DATASET, key=key)
        found = kind_losses(network, out)
        total = sum(weights[kind] * value for kind, value in found.items())
        return total, dict(
            heads=heads[0], out=out, losses=found | {"total": total}, stats=mtl.statistics(decoder)
        )

    taps, pull = jax.vjp(encode, trainable["backbone"])
    modes, ways = {}, []
    for mode, key in (("eval", None), ("train", jax.random.key(0))):
        step = jax.value_and_grad(decode, argnums=(0, 1), has_aux=True)
        (_, modes[mode]), (own, way) = step(trainable["decoder"], taps, key)
        modes[mode]["own"] = own
        ways.append(way)
    # One backward pass of the trunk for both.
    (trunk,) = jax.vmap(pull)(jax.tree.map(lambda *x: jnp.stack(x), *ways))
    for i, mode in enumerate(modes.values()):
        shared = jax.tree.map(lambda g, i=i: g[i], trunk)
        mode["grads"] = rules.flatten({"backbone": shared, "decoder": mode.pop("own")})
    return modes | {"taps": taps}
