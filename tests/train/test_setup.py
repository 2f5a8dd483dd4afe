"""From fields of a config to a step that traces: every way to take per-task gradients."""

import jax
import numpy as np
import pytest
from flax import nnx

from mtl_vision import build, files
from mtl_vision.check import check
from mtl_vision.errors import ConfigError
from mtl_vision.models.backbones import BACKBONES
from mtl_vision.models.convert import invert
from mtl_vision.models.pretrained import FORMATS
from mtl_vision.train import plan, setup
from tests import tiny

CASES = {
    "two_pass": dict(per_task="two_pass", aggregator="mgda"),
    "features": dict(per_task="features", aggregator="aligned_mtl"),
    "halves": dict(per_task="scan", aggregator="sdmgrad"),
    "all": dict(per_task="passes", aggregator="graddrop", weighting="famo", sam="sam"),
    "balanced": dict(palora=dict(balance="both", alignment=0.1)),
}
SLOW = ("halves", "balanced")


def config(**chosen):
    values = tiny.values(data__batch=2)
    for name, kinds in (("synth_pascal", ("sal",)), ("synth_nyud", ("depth", "edge"))):
        values["data"][name]["tasks"] = kinds
    if options := chosen.pop("palora", None):
        values["adapter"] = {"name": "palora", **options}
    for field, value in chosen.items():
        values["optim"][field] = {"name": value} if isinstance(value, str) else value
    if "per_task" in chosen:
        values["optim"]["per_task"] = chosen["per_task"]
    return check(values)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in CASES]
)
def test_the_step_of_a_config_traces(case, monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)
    cfg = config(**CASES[case])
    mesh, start = setup.start(cfg)
    step = setup.train_step(cfg, mesh, start)
    state, metrics = jax.eval_shape(step, start.state, plan.batch_shapes(cfg, mesh))
    before = jax.tree.map(lambda x: (x.shape, x.dtype), start.state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == before
    assert metrics["tasks/gram"].shape == (3, 3)
    assert ("loss/synth_nyud/penalty" in metrics) == (case == "balanced")


@pytest.mark.parametrize(
    "chosen, text",
    [
        (dict(per_task="two_pass", aggregator="graddrop"), "per_task='two_pass' never holds"),
        (dict(per_task="features", aggregator="mgda", accumulate=2), "accumulate=2 is too many"),
        (dict(aggregator="sdmgrad", sam="task_sam"), "sam.name='task_sam' does not go with"),
        (dict(per_task="two_pass", aggregator="sum", sam="task_sam"), "never holds"),
        (dict(per_task="vmpa"), "per_task='vmpa' is not one of .* Did you mean 'vmap'"),
        (dict(aggregator={"name": "mean", "preference": (1.0,)}), "1 number"),
        (dict(weighting={"name": "fixed", "weights": (1.0,)}), "are 1 for 3 tasks"),
        (dict(aggregator={"name": "graddrop", "smooth": 0.9}), "smooth=0.9 averages weights"),
        (dict(aggregator={"name": "graddrop", "task_weighting": "weighted"}), "coordinate"),
        (dict(sam={"name": "sam", "rho": -1.0}), "rho=-1.0"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_built(chosen, text):
    with pytest.raises(ConfigError, match=text):
        config(**chosen)


def test_pretrained_weights_are_there_before_adapters_are_made(tmp_path):
    first = dict(name="vit", channels=8, depth=2, heads=2, patch=8, grid=(2, 2), taps=(1, 2))
    model = BACKBONES["vit"](**{k: v for k, v in first.items() if k != "name"}, rngs=nnx.Rngs(5))
    tree = nnx.to_pure_dict(nnx.state(model))
    file = tmp_path / "vit.safetensors"
    files.write(file, invert(tree, FORMATS["vit_timm"].rules), {})
    values = tiny.values(adapter=dict(name="ditask"), backbone=first | dict(scan=True))
    values["backbone"]["weights"] = str(file)
    cfg = check(values)
    found = build.model(cfg, build.pretrained_weights(cfg, files.read(file)[0]))().backbone
    image = jax.random.normal(jax.random.key(0), (1, 24, 16, 3))
    for a, b in zip(found(image), model(image), strict=True):
        np.testing.assert_allclose(a[:1], b, rtol=1e-5, atol=1e-6)
