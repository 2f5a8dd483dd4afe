"""A backbone trained bare is what adapters of another run are put around."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mtl_vision import parallel, rules
from mtl_vision.models import adapters
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.keys import Keys
from mtl_vision.train import setup
from mtl_vision.train.checkpoint import Checkpoints
from mtl_vision.train.state import create_state
from mtl_vision.train.transfer import init_from

MESH = parallel.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])


SWIN = dict(embed=8, depths=(1,), heads=(1,), window=2)
VIT = dict(channels=4, depth=4, heads=1, patch=4, grid=(1, 1), taps=(3, 4), scan=True)


def start(seed, trainable, *chosen, kind="swin", small=SWIN):
    def build():
        keys = Keys(jax.random.key(seed))
        backbone = BACKBONES[kind](**small, rngs=keys)
        return nnx.Dict(backbone=adapters.adapt(backbone, chosen, tasks=2, rngs=keys))

    made = dict(tx=optax.sgd(0.1), mesh=MESH, key=jax.random.key(0))
    return create_state(build, trainable=trainable, **made)


def test_adapters_wrap_what_another_run_trained(tmp_path):
    bare = start(0, ((".*", True),)).state
    with Checkpoints(tmp_path, keep=1, keep_best=0) as saved:
        saved.save(dataclasses.replace(bare, step=jnp.int32(1)))
    theirs = ((".*theta", True), (".*", False))
    made = start(1, theirs, ("ditask", dict(cells=3, share="all")))
    state, unmatched = init_from(tmp_path, made.state)
    derived = {"theta", "u", "sigma", "v"}
    assert {path.rpartition("/")[2] for path in unmatched.missing} == derived
    assert unmatched.unused == []
    # And the factors that DiTASK keeps are of the new weights.
    state = rules.flatten(setup.refreshed(made, state).frozen)
    layer = "backbone/stages/0/blocks/0/mlp/fc1"
    kernel = np.asarray(
        bare.trainable["backbone"]["stages"][0]["blocks"][0]["mlp"]["fc1"]["kernel"]
    )
    np.testing.assert_array_equal(state[f"{layer}/linear/kernel"], kernel)
    u, sigma, v = (np.asarray(state[f"{layer}/{name}"])[0] for name in ("u", "sigma", "v"))
    np.testing.assert_allclose(u * sigma @ v, kernel, atol=1e-5)


def test_the_last_of_stacked_blocks_finds_its_part_of_the_stack(tmp_path):
    vit = dict(kind="vit", small=VIT)
    bare = start(0, ((".*", True),), **vit).state
    with Checkpoints(tmp_path, keep=1, keep_best=0) as saved:
        saved.save(dataclasses.replace(bare, step=jnp.int32(1)))
    theirs = ((".*lora.*", True), (".*", False))
    made = start(1, theirs, ("mtlora", dict(rank=1, task_rank=1)), **vit)
    state, unmatched = init_from(tmp_path, made.state)
    assert all("lora" in path for path in unmatched.missing) and unmatched.unused == []
    old, new = (rules.flatten(tree) for tree in (bare.trainable, state.frozen))
    for layer, wrapped in (("attn/qkv", "attn/qkv/linear"), ("norm1", "norm1")):
        name = "kernel" if "qkv" in layer else "bias"
        stacks = [old[f"backbone/segments/{i}/{layer}/{name}"] for i in range(2)]
        parts = new[f"backbone/segments/0/{wrapped}/{name}"]
        assert len(parts) == 2
        tails = [new[f"backbone/tails/{i}/{wrapped}/{name}"] for i in range(2)]
        np.testing.assert_array_equal(jnp.concatenate([parts, tails[0][None]]), stacks[0])
        np.testing.assert_array_equal(tails[1], stacks[1][0])
