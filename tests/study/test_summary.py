"""What a study found, against figures worked out by hand."""

import csv

import pytest

from mtl_vision.errors import DataError
from mtl_vision.study import axes, pages, summary
from tests.report import folders

SETTINGS = axes.grid(["rank=1,2", "lr=3,4"])
# mIoU and normals' angle of both seeds; the last setting has no run yet.
FOUND = {
    "rank=1,lr=3": [(50.0, 20.0), (52.0, 20.0)],
    "rank=1,lr=4": [(51.0, 20.0), (51.0, 20.0)],
    "rank=2,lr=3": [(61.2, 18.0), (61.3, 18.0)],
}
TRAINED = {"rank=1,lr=3": 100_000, "rank=1,lr=4": 100_000, "rank=2,lr=3": 900_000}


@pytest.fixture
def study(tmp_path):
    for name, runs in FOUND.items():
        for seed, scores in enumerate(runs):
            at = tmp_path / name / f"seed{seed}"
            folders.write(at, scores=scores, trained=TRAINED[name], pictures=False)
    return summary.collect(tmp_path, SETTINGS, range(2), "rank=1,lr=3")


def test_means_spreads_and_gains(study):
    first, second, third, none = study.lines
    assert first.scores["d/semseg"] == pytest.approx((51.0, 2**0.5))
    assert first.gain == pytest.approx((0.0, 100 * 2**0.5 / 51 / 2))
    assert second.gain == pytest.approx((0.0, 0.0))
    assert third.gain.mean == pytest.approx(100 * ((61.25 - 51) / 51 + 0.1) / 2)
    assert third.trained == (900_000, 200_000)
    assert (none.seeds, none.scores, none.gain, none.trained) == (0, {}, None, None)


def test_welch_by_hand():
    # Means 2 and 5, variances 1 and 4, n = 3: t = -3 / sqrt(5 / 3), 2.94 degrees of freedom.
    assert summary.welch([1.0, 2.0, 3.0], [3.0, 5.0, 7.0]) == pytest.approx(0.10448, abs=1e-5)
    assert summary.welch([1.0], [1.0, 2.0]) is None
    assert summary.welch([1.0, 1.0], [1.0, 1.0]) is None


def test_holm_by_hand():
    assert summary.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])


def test_the_front_and_the_effects(study):
    assert [line.setting.name for line in summary.front(study)] == ["rank=1,lr=3", "rank=2,lr=3"]
    found = summary.effects(study)
    gain = study.lines[2].gain.mean
    assert found["rank"] == {"1": (0.0, 0.0), "2": (gain, None)}
    assert found["lr"]["3"] == pytest.approx((gain / 2, gain / 2**0.5))


def test_tables_agree_with_the_figures(study, tmp_path):
    files = pages.write(study, tmp_path / "out", "A study <1>")
    assert [f.name for f in files] == ["summary.md", "summary.csv", "index.html"]
    rows = list(csv.DictReader(files[1].read_text().splitlines()))
    assert float(rows[2]["d/semseg"]) == pytest.approx(61.25)
    assert rows[3]["d/semseg"] == "" and rows[2]["encoder"] == "900000"
    assert (
        "| rank=2,lr=3 | 2 | 0.900 | 0.200 | 61.25 ± 0.07 | 18.00 ± 0.00 |" in files[0].read_text()
    )
    html = files[2].read_text()
    assert "A study &lt;1&gt;" in html and html.count("<circle") == 3 + 4
    assert pages.best_of(study, study.lines[2]) == [False] * 4 + [True, True, True]


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    folders.write(tmp_path / "rank=1,lr=3" / "seed0", pictures=False)
    other = folders.CONFIG | {"protocol": "B"}
    folders.write(tmp_path / "rank=2,lr=3" / "seed0", pictures=False, config=other)
    with pytest.raises(DataError, match="protocol"):
        summary.collect(tmp_path, SETTINGS, [0], "rank=1,lr=3")
    with pytest.raises(DataError, match="no run"):
        summary.collect(tmp_path / "empty", SETTINGS, [0], "rank=1,lr=3")
