"""Pages about runs: what they read, show, escape and never do."""

import base64
import html.parser
import json
import pathlib
import re

import pytest

from mtl_vision.errors import DataError
from mtl_vision.report import charts, page, runs
from tests.report import folders


@pytest.fixture
def two(tmp_path):
    other = folders.CONFIG | {"optim": {"lr": 0.01}, "note": "<script>alert(1)</script>"}
    folders.write(tmp_path / "a")
    folders.write(tmp_path / "b" / "<b>", scores=(55.0, 18.0), config=other)
    return runs.read_all([tmp_path / "a", tmp_path / "b" / "<b>"])


def test_reads_what_a_run_left(two):
    run = two[0]
    assert [r.name for r in two] == ["a", "b/<b>"]
    assert [t.name for t in run.tasks] == ["d/semseg", "d/normals"]
    assert run.scores == {"d/semseg": 50.0, "d/normals": 20.0}
    assert run.curves["eval/d/semseg/mIoU"] == [(10, 19.0), (20, 29.0), (30, 39.0)]
    assert list(run.maps) == ["conflicts"] and [s for s, _ in run.maps["conflicts"]] == [10, 30]
    assert set(run.pictures["d"]["000"]) == {"image", "semseg_prediction", "semseg_label"}


def test_delta_m_needs_the_same_tasks_and_protocol(two):
    assert runs.gains(two[1], two[0]) == pytest.approx(100 * (5 / 50 + 2 / 20) / 2)
    two[1].config["protocol"] = "B"
    assert runs.gains(two[1], two[0]) is None
    two[1].config["protocol"] = "A"
    del two[1].final["metrics"]["d/semseg/mIoU"]
    assert runs.gains(two[1], two[0]) is None


def test_marks_the_best_and_counts_delta_m(two):
    rows = {row["name"]: row["cells"] for row in page.score_table(two, two[0])}
    assert rows["d/semseg"] == [("50.00", False), ("55.00", True)]
    assert rows["d/normals"] == [("20.00", False), ("18.00", True)]
    assert rows["Δm"] == [("+0.00", False), ("+10.00", False)]


def test_shows_where_configs_differ(two):
    found = page.differences(two)
    assert [(f, cells) for f, cells, _ in found["differ"]] == [
        ("optim.lr", ["0.001", "0.01"]),
        ("note", ["(absent)", "<script>alert(1)</script>"]),
    ]
    assert "protocol" in {field for field, _, _ in found["agree"]}


class Tags(html.parser.HTMLParser):
    """Collects the start tags."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_is_self_contained_and_escaped(two):
    text = page.render(two, two[0])
    tags = Tags(text).found
    assert sum(tag == "script" for tag, _ in tags) == 1 and not any(tag == "b" for tag, _ in tags)
    sources = [attrs["src"] for _, attrs in tags if "src" in attrs]
    assert len(sources) == 6 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert not re.search(r"(https?:)?//\w+\.", text)
    links = [attrs["href"] for tag, attrs in tags if "href" in attrs]
    assert links and all(link.startswith("#") for link in links)
    image = (two[0].folder / "final_pictures/d/000_image.png").read_bytes()
    assert base64.b64encode(image).decode() in sources[0]
    values = next(a["data-values"] for t, a in tags if t == "polyline" and a["data-name"] == "a")
    assert [v[2:] for v in json.loads(values)] == [[10, 0.3], [20, 0.15], [30, 0.1]]


def test_a_run_that_goes_on_has_a_page(tmp_path):
    folder = folders.write(tmp_path / "a", pictures=False)
    (folder / "final_metrics.json").unlink()
    (folder / "metrics.jsonl").unlink()
    text = page.render(runs.read_all([folder]))
    assert "not finished" in text and 'id="pictures"' not in text


def test_writes_a_whole_file(two, tmp_path):
    file = tmp_path / "pages" / "x.html"
    page.write(file, two)
    assert file.read_text().rstrip().endswith("</html>")
    assert [f.name for f in file.parent.iterdir()] == ["x.html"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"config": {}, "environment": {}}'])
def test_what_is_no_run_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        runs.read(pathlib.Path(tmp_path))


def test_a_folder_given_twice_is_refused(tmp_path):
    folders.write(tmp_path / "a")
    with pytest.raises(DataError, match="twice"):
        runs.read_all([tmp_path / "a", tmp_path / "b" / ".." / "a"])


def test_ticks_are_round_and_inside():
    assert charts.ticks(0.0, 1.0, 4) == [0.0, 0.5, 1.0]
    assert charts.ticks(-3.0, 41.0, 4) == [0.0, 20.0, 40.0]
    assert charts.ticks(2.0, 2.0, 4) == [2.0]


def test_curves_stay_in_the_drawing_and_are_thinned():
    points = [(s, (-1.0) ** s * s) for s in range(10_000)] + [(10_000, float("nan"))]
    drawn = charts.chart("x", {"run": points}, {"run": "red"})
    placed = drawn.lines[0].values
    assert len(placed) <= charts.MOST and placed[-1][2] == 9_999
    assert all(
        charts.LEFT <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y, _, _ in placed
    )
