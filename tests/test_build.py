"""What the configs in the repository amount to, without making an array."""

import jax
import pytest

from mtl_vision import build, parallel, rules
from mtl_vision.check import check
from mtl_vision.models import mtl
from mtl_vision.train import plan
from tests import tiny
from tests.test_check import CONFIGS, load

PATHS = {path.stem: path for path in CONFIGS}


@pytest.fixture(params=PATHS)
def cfg(request):
    return check(load(PATHS[request.param]))


def count(cfg, prefix):
    shapes = mtl.parameters(mtl.abstract(build.model(cfg)))
    return sum(x.size for path, x in shapes.items() if path.startswith(prefix))


def test_every_config_builds_a_model_an_optimizer_and_shardings(cfg):
    shapes = mtl.parameters(mtl.abstract(build.model(cfg)))
    trains = rules.resolve(build.trainable(cfg), shapes, "trainable")
    opt = jax.eval_shape(build.optimizer(cfg).init, {p: x for p, x in shapes.items() if trains[p]})
    assert jax.tree.leaves(opt)
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    placed = parallel.shardings(mesh, build.sharding_rules(cfg), shapes)
    assert any(not s.is_fully_replicated for s in placed.values())


def test_every_config_has_its_tasks_with_their_weights(cfg):
    tasks = {t.name: t.weight for group in build.groups(cfg).values() for t in group}
    assert len(tasks) == sum(len(data.tasks) for data in cfg.datasets.values())
    assert all(w == cfg.loss_weights[name.rpartition("/")[2]] for name, w in tasks.items())


@pytest.mark.parametrize("name", [n for n in PATHS if n.startswith(("joint", "quickstart"))])
def test_joint_configs_have_nine_tasks(name):
    assert len(build.tasks(check(load(PATHS[name])))) == 9


def test_swin_t_has_the_published_counts():
    cfg = check(load(PATHS["joint_swin_t_hrnet"]))
    assert count(cfg, "backbone/") == 27_517_818
    # downsamplers and a head per task: 183,168 + 294,840 + 1081 K
    outputs = [21, 3, 1, 1, 7, 40, 1, 3, 1]
    assert count(cfg, "decoder/") == sum(183_168 + 294_840 + 1081 * k for k in outputs)


def test_vit_b_has_the_published_count():
    assert count(check(load(PATHS["joint_vit_b_conv"])), "backbone/") == 86_434_560


def test_weights_of_datasets_multiply_those_of_kinds():
    cfg = check(tiny.values(data__synth_nyud__weight=0.5))
    (depth,) = (t for t in build.groups(cfg)["synth_nyud"] if t.kind == "depth")
    assert depth.weight == 0.5 * cfg.loss_weights["depth"]


def test_the_learning_rate_follows_the_images_of_all_datasets():
    cfg = check(tiny.values(optim__lr=1.0, optim__lr_batch=16, schedule__warmup=0))
    params = {"w": jax.numpy.ones(1)}
    opt = build.optimizer(cfg).init(params)
    from mtl_vision import optim

    assert float(optim.learning_rate(opt)) == pytest.approx(8 / 16)  # 4 of each dataset


def test_the_parameter_table_adds_up():
    text = plan.parameters(check(tiny.values(trainable=(("decoder/.*", True), (".*", False)))))
    rows = [line.split() for line in text.splitlines()[2:]]
    *parts, total = [(r[0], int(r[1].replace(",", "")), int(r[2].replace(",", ""))) for r in rows]
    assert total[0] == "total" and sum(r[1] for r in parts) == total[1] > 0
    assert sum(r[2] for r in parts) == total[2] > 0
    assert all(r[1] == 0 for r in parts if r[0].startswith("decoder"))


def test_a_dry_run_tells_tasks_parameters_and_cost(monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)
    text = plan.describe(check(tiny.values()))
    for word in ("synth_nyud/depth", "decoder/heads", "floating-point operations", "temporaries"):
        assert word in text
