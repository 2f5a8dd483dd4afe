"""Whole runs at a tiny size: what they leave, how they go on, how they fail."""

import json
import pathlib

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from mtl_vision import build, metrics, parallel, rules
from mtl_vision.check import check
from mtl_vision.errors import ConfigError, DataError, RunError
from mtl_vision.evaluate import evaluate_run
from mtl_vision.predict import predict
from mtl_vision.report import runs
from mtl_vision.results import report
from mtl_vision.train import folder, loop, setup
from tests import tiny

NINE = [
    *(f"synth_pascal/{k}" for k in ("semseg", "normals", "edge", "sal", "human_parts")),
    *(f"synth_nyud/{k}" for k in ("semseg", "depth", "normals", "edge")),
]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)


def run(workdir: pathlib.Path, **fields):
    values = tiny.values(**fields)
    cfg = check(values)
    folder.claim(workdir, values, tiny.ROOT)
    return cfg, loop.train(cfg, workdir)


def saved(workdir: pathlib.Path, cfg):
    _, start = setup.start(cfg)
    state = setup.saved_state(workdir, start.state, None)
    leaves = rules.flatten(state)
    leaves["key"] = jax.random.key_data(leaves["key"])
    return {path: np.asarray(x) for path, x in leaves.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder, its config, its final figures."""
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda *args: first)
        workdir = tmp_path_factory.mktemp("runs") / "whole"
        cfg, final = run(workdir, run__eval_every=4)
        return workdir, cfg, final


def test_a_run_leaves_what_is_promised(whole):
    workdir, cfg, final = whole
    names = {f.name for f in workdir.iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "tensorboard", "panels", "checkpoints"}
    assert json.loads((workdir / "final_metrics.json").read_text()) == final
    assert {f.name for f in (workdir / "panels").iterdir()} == {
        "synth_nyud_000004.png",
        "synth_pascal_000004.png",
    }
    found = runs.read(workdir)
    assert found.scores.keys() == set(NINE)
    for dataset in ("synth_pascal", "synth_nyud"):
        kinds = [task.kind for task in found.tasks if task.dataset == dataset]
        parts = {f"{kind}_{part}" for kind in kinds for part in ("prediction", "label")}
        assert all(
            images.keys() == parts | {"image"} for images in found.pictures[dataset].values()
        )
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 4, 6]
    assert {f"loss/{task}" for task in NINE} <= lines[0].keys()
    assert any(name.startswith("eval/") for name in lines[2])


def test_all_nine_tasks_are_scored_beside_the_best_constant(whole):
    _, cfg, final = whole
    assert final["step"] == 6 and final["images"] == {"synth_pascal": 6, "synth_nyud": 6}
    for group in setup.build.groups(cfg).values():
        for task in group:
            key = f"{task.name}/{task.score}"
            assert np.isfinite([final["metrics"][key], final["constant"][key]]).all(), key
    table = report(cfg, final)
    assert all(task in table for task in NINE)


def test_an_interrupted_run_ends_bit_for_bit_the_same(whole, tmp_path, monkeypatch):
    reference, cfg, final = whole

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "look", stop)  # at step 4, after the checkpoint of step 2
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, run__eval_every=4)
    assert not (tmp_path / "final_metrics.json").exists()
    _, again = run(tmp_path, run__eval_every=4)
    assert again == final
    expected, actual = saved(reference, cfg), saved(tmp_path, cfg)
    for path, x in expected.items():
        np.testing.assert_array_equal(actual[path], x, err_msg=path)
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [2, 4, 4, 6]


def test_evaluating_a_run_again_gives_the_same_figures(whole):
    workdir, cfg, final = whole
    assert evaluate_run(cfg, workdir) == final
    other = evaluate_run(cfg, workdir, step=4, split="val")
    assert other["step"] == 4 and other["images"]["synth_nyud"] == 4
    assert json.loads((workdir / "step4_val_metrics.json").read_text()) == other
    with pytest.raises(DataError, match="has not checkpoint 3; there are: 4, 6"):
        evaluate_run(cfg, workdir, step=3)


def test_photos_of_a_dataset_get_what_the_evaluation_scored(whole, tmp_path):
    workdir, cfg, final = whole
    for i, example in enumerate(build.source(cfg, "synth_nyud", "test")):
        Image.fromarray(example["image"]).save(tmp_path / f"{i}.png")
    out, said = tmp_path / "out", []
    (tmp_path / "cut.png").write_bytes(b"cut")
    with pytest.raises(DataError, match="1 of 7 photos could not be read: .*cut.png is no photo"):
        predict(cfg, workdir, [str(tmp_path)], out, dataset="synth_nyud", say=said.append)
    assert said[-1] == f"{out}: 6 photos, 4 tasks"
    totals, seen = {"semseg": {}, "depth": {}}, 0
    tasks = {task.kind: task for task in build.groups(cfg)["synth_nyud"]}
    for host, _ in build.eval_batches(cfg, "synth_nyud", "test"):
        rows = range(seen, seen := min(seen + 4, 6))
        classes = [cv2.imread(f"{out}/{i}/synth_nyud_semseg_classes.png", -1) for i in rows]
        depth = [np.load(out / str(i) / "synth_nyud_depth.npy")[..., None] for i in rows]
        for kind, preds in {"semseg": np.eye(40)[np.stack(classes)], "depth": depth}.items():
            true = [host[part][kind][: len(rows)] for part in ("labels", "masks")]
            valid = host["valid"][: len(rows)]
            sums = tasks[kind].metric.sums(np.float32(preds), *true, valid)
            totals[kind] = metrics.add(totals[kind], jax.device_get(sums))
    for kind, score in (("semseg", "mIoU"), ("depth", "rmse")):
        found = tasks[kind].metric.finish(totals[kind])[score]
        np.testing.assert_allclose(found, final["metrics"][f"synth_nyud/{kind}/{score}"], rtol=1e-6)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step(tmp_path):
    with pytest.raises(RunError, match=r"step \d is not finite .*config.optim.lr") as e:
        run(tmp_path, optim__lr=1e15, optim__clip_norm=0.0, schedule__warmup=0, run__save_every=1)
    step = int(str(e.value).split()[1])
    assert all(s < step for s in setup.checkpoint.steps(tmp_path / "checkpoints"))


def test_a_checkpoint_of_another_model_is_refused(whole):
    workdir, *_ = whole
    cfg = check(tiny.values(decoder__width=4))
    with pytest.raises(DataError, match="is of another model: .*decoder/heads"):
        evaluate_run(cfg, workdir)


def test_another_config_does_not_touch_the_run(whole):
    workdir, *_ = whole
    before = {f: f.stat().st_mtime_ns for f in workdir.rglob("*")}
    with pytest.raises(RunError, match="belongs to another config"):
        run(workdir, seed=1)
    assert {f: f.stat().st_mtime_ns for f in workdir.rglob("*")} == before


def test_parameters_of_another_run_are_a_start(whole, tmp_path):
    workdir, cfg, _ = whole
    values = tiny.values(init_from=str(workdir), init_skip=("decoder/.*",), seed=5)
    lines = []
    other = check(values)
    _, start = setup.start(other)
    fresh = rules.flatten(start.state.trainable)
    fresh = {path: np.asarray(x) for path, x in fresh.items()}
    state = setup.first_state(other, setup.checkpoints(other, tmp_path), start, lines.append)
    taken, expected = rules.flatten(state.trainable), saved(workdir, cfg)
    assert int(state.step) == 0 and any("decoder" in line for line in lines)
    for path, x in taken.items():
        source = expected[f"trainable/{path}"] if path.startswith("backbone") else fresh[path]
        np.testing.assert_array_equal(x, source, err_msg=path)


@pytest.mark.parametrize(
    "fields, error, message",
    [
        ({"data__batch": 3, "optim__accumulate": 2}, ConfigError, "the batch of synth_.* is 3"),
        ({"mesh__preset": "hybrid", "mesh__slices": 2}, ConfigError, "does not use 1 devices"),
        ({"data__source": "tfds", "data__root": "nowhere"}, DataError, "prepare_data.py"),
        ({"trainable": (("bakbone/.*", True), (".*", False))}, ConfigError, "decides no parameter"),
        ({"run__best": "synth_nyud/depth/rms", "run__eval_every": 2}, ConfigError, "run.best"),
    ],
)
def test_what_cannot_run_is_explained(tmp_path, fields, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path, **fields)


def test_the_step_compiles_once_and_without_host_round_trips(tmp_path):
    cfg = check(tiny.values())
    mesh, start = setup.start(cfg)
    step = setup.train_step(cfg, mesh, start)
    stream = setup.build.train_batches(cfg, 0)
    state, traces = start.state, []
    for _ in range(3):
        batch = parallel.to_global(next(stream), mesh)
        with jax.transfer_guard_device_to_host("disallow"):
            state, _ = step(state, batch)
        traces.append(step._cache_size())
    stream.close()
    assert int(state.step) == 3 and traces == [1, 1, 1]
