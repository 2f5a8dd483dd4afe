"""Whole multi-task networks of scale-lab/MTLoRA: built, run and read like their records."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mtl_vision import rules
from mtl_vision.models import adapters, mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.convert import convert
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.released import mtlora as released
from tests.parity import records
from tests.parity.family import Watch, kinds_of, losses_of, two_modes

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
        chosen, names = [("mtlora", options)], tuple(f"{DATASET}/{kind}" for kind in kinds_of(meta))
        backbone = adapters.adapt(backbone, chosen, tasks=names, rngs=rngs)
    decoder = DECODERS["hrnet"](
        outputs={DATASET: {kind: meta["num_outputs"][kind] for kind in kinds_of(meta)}},
        channels=backbone.channels,
        strides=backbone.strides,
        widths=config["DECODER_CHANNELS"],
        rngs=rngs,
    )
    return mtl.MultiTask(backbone, decoder)


def adapter(meta):
    """The options of `mtlora` that the record's config means; none for a plain network."""
    config = meta["config"]["MODEL"].get("MTLORA", {})
    if not config.get("ENABLED"):
        return {}
    ranks = config["R_PER_TASK"] or dict.fromkeys(("shared", *kinds_of(meta)), config["R"])
    scales, mode = config.get("SCALE_PER_TASK", {}), config.get("SHARED_MODE", "matrix")
    return dict(
        rank=tuple(ranks["shared"]),
        task_rank={kind: tuple(ranks[kind]) for kind in kinds_of(meta)},
        scale=tuple(config["SHARED_SCALE"]),
        task_scale={kind: tuple(scales[kind]) for kind in kinds_of(meta) if scales},
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
    table = released.checkpoint(kinds_of(meta), DATASET)
    weights = rules.flatten(convert(records.group(arrays, "param"), table, merged))
    trees = [
        rules.map_with_path(lambda path, _: jnp.asarray(weights[path], dtype), tree)
        for tree in shapes
    ]
    image = jnp.asarray(np.moveaxis(arrays["input/image"], 1, -1), dtype)
    return Network(meta, arrays, graphdef, *trees, image)


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
        decoder = model.decoder
        model.decoder = Watch(decoder, lambda _, out: heads.append(out))
        out = model.decode(taps, network.image.shape[1:3], dataset=DATASET, key=key)
        found = losses_of(network.meta, network.arrays, out, protocol="A", dataset=DATASET)
        total = sum(weights[kind] * value for kind, value in found.items())
        return total, dict(
            heads=heads[0], out=out, losses=found | {"total": total}, stats=mtl.statistics(decoder)
        )

    taps, modes = two_modes(encode, decode, trainable["backbone"], trainable["decoder"])
    return modes | {"taps": taps}
