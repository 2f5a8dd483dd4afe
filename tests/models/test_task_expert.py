"""The decoder `task_expert`: counts, gates, memory, what it reads, and what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_vision import rules
from mtl_vision.errors import ConfigError
from mtl_vision.models import mtl
from mtl_vision.models.backbones import vit
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.gates import spread

KEY = jax.random.key(0)
OUTPUTS = {"a": {"semseg": 3, "edge": 1}, "b": {"semseg": 4, "depth": 1, "edge": 1}}
SMALL = dict(width=4, experts=3, gate_width=5)
PASCAL = {"semseg": 21, "human_parts": 7, "sal": 2, "normals": 3, "edge": 1}
NYUD = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
# Channels of the ViT: its parameters with the position table of either dataset's images.
BACKBONES = {1024: (304_149_504, 304_133_120), 768: (86_434_560, 86_422_272)}
COUNTS = {
    "budget": (418_395_438, 406_694_237, 197_927_982, 186_230_877),
    "budget5": (416_292_346, 403_751_965, 196_201_722, 183_665_437),
    "small": (340_604_058, 336_778_893, 121_578_394, 117_757_325),
}


def build(outputs=OUTPUTS, channels=(6, 6), strides=(16, 16), **options):
    rngs = nnx.Rngs(params=KEY)
    return DECODERS["task_expert"](
        outputs=outputs, channels=channels, strides=strides, rngs=rngs, **options
    )


def features(*lead, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    return [jax.random.normal(key, (*lead, 3, 2, 6)) for key in keys]


def run(decoder, call, *args):
    """Compiled: ``call(decoder, *args)``."""
    graphdef, state = nnx.split(decoder)
    return jax.jit(lambda state, args: call(nnx.merge(graphdef, state), *args))(state, args)


@pytest.mark.parametrize("preset", COUNTS)
def test_presets_have_the_published_counts(preset):
    outputs, found = {"pascal": PASCAL, "nyud": NYUD}, []
    for channels, backbones in BACKBONES.items():
        taps = dict(channels=(channels,) * 4, strides=(16,) * 4)
        decoder = mtl.abstract(lambda t=taps: build(outputs, preset=preset, **t))
        sizes = mtl.sizes(decoder)
        for backbone, other in zip(backbones, ("/nyud/", "/pascal/"), strict=True):
            found.append(backbone + sum(n for path, n in sizes.items() if other not in path))
    assert tuple(found) == COUNTS[preset]


def test_the_tiny_preset_with_its_vit_has_the_count_of_the_design():
    def small():
        sizes = dict(channels=64, depth=4, heads=4, grid=(4, 4), rngs=nnx.Rngs(params=KEY))
        backbone = vit.ViT(**sizes)
        taps = dict(channels=backbone.channels, strides=backbone.strides)
        return mtl.MultiTask(backbone, build({"pascal": PASCAL}, preset="tiny", **taps))

    model = mtl.abstract(small)
    assert sum(mtl.sizes(model).values()) == 703_986
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    out = jax.eval_shape(lambda m, x: m(x, dataset="pascal"), model, image)
    assert {k: y.shape for k, y in out.items()} == {k: (1, 64, 64, c) for k, c in PASCAL.items()}


# Options, what feeds the decoder, and which parameters then have no gradient: what zeros meet.
VARIANTS = {
    "default": (dict(aux=True, balance_weight=0.1), "trunk", "none"),
    "kinds": (
        dict(
            slots="kind",
            expert="linear",
            gate_norm="sigmoid",
            gate_granularity="token",
            memory_init="zeros",
            memory_write="gated",
            reads="both",
        ),
        "both",
        "slots/kinds/taps/0/(read|write/keep)/kernel",
    ),
    "lowrank": (
        dict(
            expert="lowrank",
            gate_mode="static",
            memory_write="replace",
            head="deconv2",
            taps=(1,),
            reads="streams",
        ),
        "streams",
        "none",
    ),
    "ablated": (
        dict(memory=False, experts=1, gate_mode="dynamic", gate_norm="sigmoid", reads="trunk"),
        "trunk",
        "none",
    ),
}
# In training a norm takes away the bias before it.
BEFORE_NORM = r"(heads/./(conv/bias|deconv_bias)|.*/write/conv1/bias|experts/./layers/{}/bias)"
LAST = {"linear": "proj", "lowrank": "(conv|expand)"}


def feed(dataset, reads):
    trunk, streams = features(2), features(len(OUTPUTS[dataset]), 2, seed=1)
    return None if reads == "streams" else trunk, None if reads == "trunk" else streams


def task_losses(decoder, reads):
    """A loss of every task, ``{dataset/kind: []}``, of all that is predicted in training."""
    found = {}
    for dataset in OUTPUTS:
        out = decoder(*feed(dataset, reads), dataset=dataset, key=KEY)
        for kind, y in out.items():
            found[f"{dataset}/{kind}"] = sum(jnp.sin(3 * x).mean() for x in jax.tree.leaves(y))
    return found


def jacobian(decoder, reads):
    """Returns ({task: loss}, {path: gradients by task})."""
    trainable = dict.fromkeys(mtl.parameters(decoder), True)
    graphdef, params, frozen, stats = mtl.split(decoder, trainable)

    @jax.jit
    def grads(params):
        def losses(params):
            found = task_losses(mtl.merge(graphdef, params, frozen, stats), reads)
            return jnp.stack(list(found.values())), None

        return jax.jacrev(losses, has_aux=True)(params)[0]

    return rules.flatten(grads(params))


@pytest.mark.parametrize(
    "variant",
    [pytest.param(v, marks=[pytest.mark.slow] * (v != "default")) for v in VARIANTS],
)
def test_every_parameter_learns_from_the_tasks_that_own_it(variant):
    options, reads, still = VARIANTS[variant]
    decoder = build(**SMALL | options)
    names = [f"{dataset}/{kind}" for dataset, kinds in OUTPUTS.items() for kind in kinds]
    owners = mtl.owners(decoder, OUTPUTS)
    before_norm = BEFORE_NORM.format(LAST.get(options.get("expert"), "conv"))
    for path, rows in jacobian(decoder, reads).items():
        assert np.isfinite(rows).all(), path
        if not re.fullmatch(f"{before_norm}|{still}", path):
            assert np.abs(rows.sum(0)).max() > 0, path
        owned, axis = owners.get(path, (names, None))
        for name, row in zip(names, rows, strict=True):
            if name not in owned:
                assert not row.any(), f"{path} moves with {name}"
            elif axis is not None:
                others = np.delete(row, owned.index(name), axis)
                assert not others.any(), f"{path} is not apart for {name}"


def test_a_penalty_weighs_the_imbalance_of_all_taps():
    # Mean 1/3, variance (1/36 + 0 + 1/36) / 2, so 1/36 * 9.
    np.testing.assert_allclose(spread(jnp.array([3.0, 2.0, 1.0]) / 6), 1 / 4, rtol=1e-6)
    decoder = build(**SMALL, balance_weight=0.1)

    def penalties(decoder):
        _, gates = decoder.run(*feed("a", "trunk"), dataset="a", key=KEY)
        decoder(*feed("a", "trunk"), dataset="a")
        unchanged = decoder.penalty[...]
        decoder(*feed("a", "trunk"), dataset="a", key=KEY)
        return (
            unchanged,
            decoder.penalty[...],
            0.1 * sum(spread(g.mean((0, 1, 2, 3))) for g in gates),
        )

    before, after, expected = run(decoder, penalties)
    assert before == 0 < after
    np.testing.assert_allclose(after, expected, rtol=1e-5)


def test_gates_are_a_simplex_that_sees_the_memory_written_before():
    decoder, first, other = build(**SMALL), features(2), features(2, seed=2)
    gate = decoder.slots["a"].taps[1].gate
    for layer in (gate.mem, gate.out):  # they start small
        layer.kernel[...] *= 50

    def taps(decoder, *trunk):
        memories, gates = decoder.run(trunk, None, dataset="a", key=None)
        return memories, gates

    memory, gates = run(decoder, taps, *first)
    assert gates[0].shape == (2, 2, 1, 1, 4) == (2, 2, 1, 1, len(decoder.entries()))
    for gate in gates:
        np.testing.assert_allclose(gate.sum(-1), 1, rtol=1e-6)
        assert (gate > 0).all()
    later, later_gates = run(decoder, taps, first[0], other[1])
    assert (later[0] == memory[0]).all() and (later_gates[0] == gates[0]).all()
    assert np.abs(later[1] - memory[1]).max() > 1e-3
    # The experts of the second tap see the same: its gates move with what the first one wrote.
    _, earlier_gates = run(decoder, taps, other[0], first[1])
    assert np.abs(earlier_gates[1] - gates[1]).max() > 1e-3


def test_permuted_experts_with_their_gates_change_nothing():
    decoder, order = build(**SMALL), np.array([2, 0, 1])
    with_memory = np.array([*order, 3])
    for tap in decoder.slots["a"].taps:
        tap.gate.out.bias[...] = jnp.arange(8.0).reshape(2, 4)
    out = run(decoder, lambda decoder: decoder(features(2), None, dataset="a"))
    for tap, experts in enumerate(decoder.experts):
        moved = [experts.layers, decoder.norms["a"][tap]["experts"]]
        for variable in [v for m in moved for _, v in nnx.to_flat_state(nnx.state(m))]:
            variable[...] = variable[...][order]
        experts.context.kernel[...] = experts.context.kernel[...][order]
        gate = decoder.slots["a"].taps[tap].gate.out
        gate.bias[...] = gate.bias[...][:, with_memory]
        gate.kernel[...] = gate.kernel[...][..., with_memory]
    for kind, y in run(decoder, lambda decoder: decoder(features(2), None, dataset="a")).items():
        np.testing.assert_allclose(y, out[kind], atol=1e-5)


@pytest.mark.parametrize("stride, factor", [(0, 1), (16, 1), (8, 2)])
def test_a_pyramid_is_brought_to_the_grid_of_the_memory(stride, factor):
    channels, strides, sizes = (3, 4, 5, 5), (4, 8, 16, 32), ((15, 24), (8, 12), (4, 6), (2, 3))

    def predict():
        decoder = build(channels=channels, strides=strides, memory_stride=stride, **SMALL)
        levels = [jnp.ones((1, *n, c)) for n, c in zip(sizes, channels, strict=True)]
        return decoder(levels, None, dataset="a")

    assert jax.eval_shape(predict)["semseg"].shape == (1, 16 * factor, 24 * factor, 3)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(preset="smal"), "decoder.preset='smal' is not one of .* Did you mean 'small'"),
        (dict(expert="convs"), "decoder.expert='convs' is not one of"),
        (dict(gate_mode="dyn"), "decoder.gate_mode='dyn' is not one of"),
        (dict(memory_write="add"), "decoder.memory_write='add' is not one of"),
        (dict(gate_temperature=0.0), "decoder.gate_temperature=0.0 divides the logits"),
        (dict(width=-4), "decoder.width=-4 is less than 1"),
        (dict(width=5, head="deconv2"), "decoder.width=5 must be even"),
        (dict(taps=(1, 2)), r"decoder.taps=\(1, 2\) must rise within 0 to 1"),
        (dict(strides=(12, 32)), "decoder.memory_stride=16 is no multiple of a tap's stride 12"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        mtl.abstract(lambda: build(**options))


@pytest.mark.parametrize(
    "reads, fed, message",
    [
        ("", "both", "decoder.reads is empty, but adapters give every task a stream"),
        ("both", "trunk", "decoder.reads='both' needs task streams"),
        ("both", "streams", "decoder.reads='both' needs a trunk"),
        ("", "trunk", "dataset 'c' has no heads"),
    ],
)
def test_a_missing_input_is_named(reads, fed, message):
    dataset = "c" if "heads" in message else "a"
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda: build(reads=reads, **SMALL)(*feed("a", fed), dataset=dataset))
