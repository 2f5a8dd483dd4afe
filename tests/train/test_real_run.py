"""From the archives of both real datasets to the scores of nine tasks."""

import jax
import numpy as np

from mtl_vision.check import check
from mtl_vision.data.prepare import look, prepare
from mtl_vision.data.survey import problems
from mtl_vision.evaluate import evaluate_run
from mtl_vision.results import report
from mtl_vision.train import folder, loop
from tests import archives as A
from tests import tiny
from tests.test_check import CONFIGS, load

COUNTS = {"train": 5, "val": 3}
QUIET = {"processes": 0, "quiet": True}


def test_archives_to_scores(tmp_path, monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)
    made = {
        "pascal_context": A.pascal(COUNTS, (30, 32), processes=0),
        "nyud_v2": A.nyud(COUNTS, (25, 36), processes=0),
    }
    for name, members in made.items():
        archive = A.write(members, tmp_path / f"{name}.tgz")
        # Only the counts keep it from being the whole dataset.
        assert all("ids, expected" in p for p in problems(look(name, archive, **QUIET)))
        prepare(name, archive, tmp_path / "data", partial=True, **QUIET)

    values = load(CONFIGS[0].parent / "joint_real_vit_b_conv.py")
    small = tiny.values(run__steps=2, schedule__warmup=1)
    parts = ("backbone", "decoder", "optim", "schedule", "mesh", "run", "loss_weights")
    values |= {part: small[part] for part in parts}
    values["data"] |= {"root": str(tmp_path / "data"), "batch": 4, "workers": 0}
    values["eval"] |= {"batch": 4, "workers": 0}
    for name, size in (("pascal_context", (32, 32)), ("nyud_v2", (28, 36))):
        values["data"][name] |= {"config": "partial", "size": size}
    cfg, workdir = check(values), tmp_path / "run"
    folder.claim(workdir, values, tiny.ROOT)
    final = loop.train(cfg, workdir)
    assert evaluate_run(cfg, workdir)["metrics"] == final["metrics"]
    assert final["images"] == {"pascal_context": 3, "nyud_v2": 3}
    scores = [line.split() for line in report(cfg, final).splitlines() if "better" in line]
    assert {row[0] for row in scores} == {
        *(f"pascal_context/{k}" for k in ("semseg", "normals", "edge", "sal", "human_parts")),
        *(f"nyud_v2/{k}" for k in ("semseg", "depth", "normals", "edge")),
    }
    assert np.isfinite([float(row[-2]) for row in scores]).all()
