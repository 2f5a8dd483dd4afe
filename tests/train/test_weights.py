"""Weights in files: what is written comes back, what does not fit is named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mtl_vision import files, parallel, rules
from mtl_vision.errors import DataError
from mtl_vision.models import adapters, mtl
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.decoders import DECODERS
from mtl_vision.models.keys import Keys
from mtl_vision.train import weights
from mtl_vision.train.state import TrainState, create_state
from tests.parity import networks, records
from tests.train import toy

FROZEN = (("backbone/.*", False), (".*", True))
TASKS = [t.name for group in toy.GROUPS.values() for t in group]


def start(seed=0):
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    made = create_state(
        lambda: toy.Toy(norm=True, seed=seed),
        trainable=FROZEN,
        tx=toy.chain(),
        mesh=mesh,
        key=jax.random.key(0),
        ema=True,
    )
    return made.state


def test_what_a_run_trained_comes_back(tmp_path):
    state, file = start(), tmp_path / "x.safetensors"
    moved = jax.tree.map(lambda x: x + 1, state.ema)
    moved = dataclasses.replace(state, ema=moved, step=state.step + 7)
    weights.export(file, moved, {"seed": 0})
    assert not any(name.startswith("trainable/backbone") for name in load_file(file))
    assert list(tmp_path.iterdir()) == [file]
    assert weights.config_of(file) == {"seed": 0}
    found = weights.load(file, state, TASKS)
    assert int(found.step) == 7
    for tree in (found.trainable, found.ema):
        jax.tree.map(np.testing.assert_array_equal, tree, moved.ema)
    jax.tree.map(np.testing.assert_array_equal, found.frozen, state.frozen)


def test_other_frozen_parameters_are_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    weights.export(file, start(), {})
    with pytest.raises(DataError, match="trained on other frozen parameters"):
        weights.load(file, start(seed=1), TASKS)


def test_arrays_that_do_not_fit_are_all_named(tmp_path):
    state, file = start(), tmp_path / "x.safetensors"
    heads = dict(state.trainable["decoder"])
    fewer = dataclasses.replace(state, ema={"decoder": {"nyud_v2": heads["nyud_v2"]}})
    weights.export(file, fewer, {})
    with pytest.raises(DataError) as e:
        weights.load(file, state, TASKS)
    missing = [p for p in rules.flatten(state.trainable) if "pascal" in p]
    assert missing and all(f"trainable/{p} is missing" in str(e.value) for p in missing)


def test_arrays_of_another_kind_are_all_named(tmp_path):
    state, file = start(), tmp_path / "x.safetensors"
    weights.export(file, state, {})
    arrays = load_file(file)
    first, second, third = list(arrays)[:3]
    arrays[first] = arrays[first].astype(np.int32)
    arrays[second] = np.full_like(arrays[second], np.nan)
    arrays[third] = arrays[third][None]
    with safe_open(file, "numpy") as f:
        metadata = f.metadata()
    save_file({k: np.ascontiguousarray(x) for k, x in arrays.items()}, file, metadata=metadata)
    with pytest.raises(DataError) as e:
        weights.load(file, state, TASKS)
    for text in (f"{first} is int32", f"{second} is not finite", f"{third} is ("):
        assert text in str(e.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": "{"},
        {"config": "[" * 10**5},
        {"config": "[]"},
        {"step": "seven"},
        {"step": str(2**40)},
        {"step": None},
    ],
)
def test_a_file_that_misdescribes_itself_is_one_error(tmp_path, changes):
    file = tmp_path / "x.safetensors"
    weights.export(file, start(), {})
    with safe_open(file, "numpy") as f:
        metadata = {k: v for k, v in (f.metadata() | changes).items() if v is not None}
    save_file(load_file(file), file, metadata=metadata)
    with pytest.raises(DataError, match="does not say what it holds"):
        weights.config_of(file)
    with pytest.raises(DataError, match="does not say what it holds"):
        weights.load(file, start(), TASKS)


def test_a_released_checkpoint_fills_the_whole_model(tmp_path):
    record = records.records("mtlora")[0]
    network = networks.load(record, np.float32)
    names = [f"{networks.DATASET}/{kind}" for kind in networks.kinds_of(network.meta)]
    trees = (getattr(network, field) for field in weights.WHOLE)
    blank = (jax.tree.map(jnp.zeros_like, tree) for tree in trees)
    state = TrainState(0, *blank, opt=(), ema=(), key=())
    file = tmp_path / "mtlora.npz"
    arrays = records.group(network.arrays, "param")
    np.savez(file, **arrays)
    found = weights.load(file, state, names)
    for field in weights.WHOLE:
        expected = rules.flatten(getattr(network, field))
        for path, value in rules.flatten(getattr(found, field)).items():
            np.testing.assert_array_equal(value, expected[path], err_msg=path)
    lost = next(name for name in arrays if name.endswith("qkv.linear.weight"))
    np.savez(file, extra=np.zeros(1), **{k: v for k, v in arrays.items() if k != lost})
    with pytest.raises(DataError, match=r"1 arrays unused \(extra\); 1 missing \(backbone"):
        weights.load(file, state, names)
    with pytest.raises(DataError, match="heads of one dataset"):
        weights.load(file, state, ["a/semseg", "b/depth"])


KINDS, WIDTH = {"semseg": 3, "normals": 3, "sal": 1}, 4


def m3vit_file(config, arrays):
    """A checkpoint as VITA-Group/M3ViT writes it."""
    file = {f"module.backbone.{k}": v for k, v in records.group(arrays, "backbone/param").items()}
    width, draws = WIDTH, np.random.default_rng(0)
    for kind, out in KINDS.items():
        head, d_in = f"module.decoders.{kind}", config["d_model"]
        sizes = [(width, d_in, 3, 3), *[(width, width, 3, 3)] * 3, (out, width, 1, 1)]
        shapes = {"norm.weight": (d_in,), "norm.bias": (d_in,)}
        shapes |= {f"conv_{i}.weight": size for i, size in enumerate(sizes)}
        shapes |= {f"conv_{i}.bias": size[:1] for i, size in enumerate(sizes)}
        norm = ("weight", "bias", "running_mean", "running_var")
        shapes |= {f"syncbn_fc_{i}.{name}": (width,) for i in range(4) for name in norm}
        file |= {f"{head}.{name}": draws.normal(size=shape) for name, shape in shapes.items()}
        file |= {f"{head}.syncbn_fc_{i}.num_batches_tracked": np.array(7) for i in range(4)}
    return file | {"module.tam_model0.layers0.0.bias": np.zeros(2)}


def m3vit_model(config, names):
    keys = Keys(params=jax.random.key(0))
    grid = tuple(side // 16 for side in config["img_size"])
    backbone = BACKBONES["vit"](
        channels=config["d_model"],
        depth=config["depth"],
        heads=config["heads"],
        grid=grid,
        taps=(config["depth"],),
        mlp_ratio=config["mlp_ratio"],
        rngs=keys,
    )
    options = dict(experts=config["experts"], top=config["top_k"], ratio=config["moe_hidden_ratio"])
    backbone = adapters.adapt(backbone, [("m3vit", options)], tasks=names, rngs=keys)
    read = dict(channels=backbone.channels, strides=backbone.strides, width=WIDTH, rngs=keys)
    return mtl.MultiTask(backbone, DECODERS["pup"](outputs={"synth_pascal": KINDS}, **read))


def test_a_folder_of_m3vit_with_a_file_per_rank_fills_the_whole_model(tmp_path):
    meta, arrays = records.load(records.records("m3vit")[0])
    config, names = meta["config"], tuple(f"synth_pascal/{kind}" for kind in KINDS)
    file, folder = m3vit_file(config, arrays), tmp_path / "best_model.pth.tar"
    model = mtl.abstract(lambda: m3vit_model(config, names))
    _, *trees = mtl.split(model, dict.fromkeys(mtl.parameters(model), True))
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    here = jax.sharding.NamedSharding(mesh, parallel.P())
    blank = jax.tree.map(lambda x: jax.device_put(np.full(x.shape, np.nan, "float32"), here), trees)
    state = TrainState(0, *blank, opt=(), ema=(), key=())
    folder.mkdir()
    ranks = [{}, {}]
    for name, array in file.items():
        parts = np.split(array, 2) if ".experts." in name else [array]
        for rank, part in zip(ranks, parts, strict=False):
            rank[name] = part
    for i, arrays in enumerate(ranks):
        np.savez(folder / f"{i}.npz", **arrays)
    found = weights.load(folder, state, names)
    for leaf in jax.tree.leaves((found.trainable, found.stats)):
        assert np.isfinite(leaf).all()
    mlp = found.trainable["backbone"]["blocks"][1]["mlp"]
    theirs = "module.backbone.blocks.1.mlp"
    # Their order is semseg, sal, normals.
    gates = [file[f"{theirs}.gate.{i}.w_gate"] for i in (0, 2, 1)]
    np.testing.assert_array_equal(mlp["gate"]["kernel"], np.float32(gates))
    kernel = np.float32(file[f"{theirs}.experts.htoh4.weight"].swapaxes(1, 2))
    np.testing.assert_array_equal(mlp["experts"]["fc1"]["kernel"], kernel)
    head = found.trainable["decoder"]["heads"]["synth_pascal"]["sal"]
    last = np.float32(file["module.decoders.sal.conv_4.weight"]).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(head["predict"]["kernel"], last)
    (folder / "1.npz").rename(folder / "3.npz")
    with pytest.raises(DataError, match="without one file per rank"):
        files.read(folder)
