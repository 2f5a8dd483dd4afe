"""Configs: what is right passes, what is wrong is named, all of it at once."""

import copy
import importlib.util
import json
import pathlib

import pytest

from mtl_vision.check import check
from mtl_vision.errors import ConfigError

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config().to_dict()


@pytest.fixture
def values():
    return load(CONFIGS[0].parent / "quickstart.py")


def set_field(values, field, value):
    *sections, name = field.split(".")
    for section in sections:
        values = values[section]
    values[name] = value


def faults(values):
    with pytest.raises(ConfigError) as e:
        check(values)
    return [line.strip() for line in str(e.value).splitlines()]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_is_right(path):
    cfg = check(load(path))
    assert cfg.datasets and cfg.run.steps > 0


def test_a_config_survives_json(values):
    assert check(json.loads(json.dumps(values))) == check(values)


def test_datasets_take_what_they_leave_empty(values):
    values["data"]["root"] = "/somewhere"
    values["data"]["synth_nyud"]["batch"] = 2
    cfg = check(values)
    assert cfg.datasets["synth_pascal"].root == "/somewhere"
    assert cfg.datasets["synth_pascal"].batch == values["data"]["batch"]
    assert cfg.datasets["synth_nyud"].batch == 2


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("sed", 1, "config.sed is unknown. Did you mean 'seed'?"),
        ("seed", 1.5, "config.seed=1.5 is not of type int."),
        ("protocol", "C", "config.protocol='C' is not one of A, B."),
        ("dtype", "float16", "config.dtype='float16' is not one of float32, bfloat16."),
        ("backbone.name", "swim", "config.backbone.name='swim' is not one of swin, "),
        ("backbone.dept", 3, "config.backbone.dept is unknown. Did you mean 'depths'?"),
        ("backbone.depths", 2, "config.backbone.depths=2 is not of type tuple[int, ...]."),
        ("decoder.outputs", {}, "config.decoder.outputs is unknown."),
        ("optim.lr", -1.0, "config.optim.lr=-1.0 is not positive."),
        ("optim.lr", float("nan"), "config.optim.lr=nan is not of type float."),
        ("optim.momentum", 0.9, "config.optim.momentum is unknown."),
        ("optim.ema", 1.0, "config.optim.ema=1.0 is a decay"),
        ("schedule.power", 0.9, "config.schedule.power is unknown."),
        ("data.source", "disk", "config.data.source='disk' is not one of tfds, memory."),
        ("data.synth_nyu", {}, "config.data.synth_nyu is neither a field nor one of the datasets"),
        ("data.synth_nyud.tasks", ("depht",), "synth_nyud has no 'depht'"),
        ("data.synth_nyud.tasks", ("semseg,depth",), "Write several as \"('semseg','depth')\"."),
        ("data.synth_nyud.tasks", (), "config.data.synth_nyud.tasks is empty."),
        ("data.synth_nyud.tasks", ("depth", "depth"), "repeats a task"),
        ("data.synth_nyud.size", (96,), "config.data.synth_nyud.size=(96,) is not of type"),
        ("data.synth_nyud.size", (96, 0), "is not positive"),
        ("data.synth_nyud.augment.rotate", 20.0, "protocol B does not rotate"),
        ("data.synth_nyud.augment.flop", True, "config.data.synth_nyud.augment.flop is unknown."),
        ("loss_weights.edges", 1.0, "config.loss_weights.edges is unknown. Did you mean 'edge'?"),
        ("mesh.expert", 2, "config.mesh.expert is unknown."),
        (
            "mesh.preset",
            "fdsp",
            "config.mesh.preset='fdsp' is not one of dp, fsdp, fsdp_tp, hybrid. D",
        ),
        ("mesh.tensor", 2, "config.mesh.tensor=2; use 1: the preset 'dp' has no other."),
        ("run.steps", 0, "config.run.steps=0 is not positive."),
        ("run.best", "synth_nyud/mIoU", "config.run.best='synth_nyud/mIoU' is not a metric"),
        ("trainable", (("a", 1),), "config.trainable=(('a', 1),) is not of type"),
        ("eval.batch", 0, "config.eval.batch is not positive."),
        ("data", 3, "config.data=3 is not a section of fields."),
    ],
)
def test_a_wrong_field_is_named(values, field, value, message):
    set_field(values, field, value)
    (fault,) = faults(values)
    assert message in fault


@pytest.mark.parametrize("field", ["seed", "run.keep", "data.root", "loss_weights.depth"])
def test_a_missing_field_is_named(values, field):
    *sections, name = field.split(".")
    section = values
    for s in sections:
        section = section[s]
    del section[name]
    (fault,) = faults(values)
    assert fault.startswith(f"config.{field} is missing")


def test_all_faults_come_together(values):
    broken = copy.deepcopy(values)
    for field, value in [("seed", "a"), ("optim.lr", 0.0), ("run.keep", 0), ("protocol", "x")]:
        set_field(broken, field, value)
    assert len(faults(broken)) == 4


def test_protocol_a_has_no_crops(values):
    values["protocol"] = "A"
    values["data"]["synth_nyud"]["augment"]["max_share"] = 0.75
    assert all("protocol A has none" in fault for fault in faults(values))
