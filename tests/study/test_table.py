"""Tables of papers beside runs, and what runs say about claims."""

import csv
import dataclasses

import pytest

from mtl_vision.errors import ConfigError, DataError
from mtl_vision.report import runs
from mtl_vision.study import answers, entries, jobs, table, table_pages
from mtl_vision.tables import TABLES
from mtl_vision.tables.claims import CLAIMS, Claim
from mtl_vision.tables.entries import load
from mtl_vision.tables.mini import MINI, STUDIES
from tests.report import folders

# ml_collections loads config files with it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
NAME = "mtlora.main"


def finish(out, entry, seed, scores, *, tasks=("semseg", "normals"), trained=0, protocol="A"):
    """Writes a finished run of an entry; scores of mIoU and of normals' angle."""
    config = folders.CONFIG | {"protocol": protocol, "data": {"d": {"tasks": list(tasks)}}}
    at = out / entries.place(entry, seed)
    folders.write(at, config=config, scores=scores, trained=trained, pictures=False)


def test_an_entry_is_a_config_and_what_is_changed():
    path, changed = load("mini:swin.full@normals")
    assert path.endswith("configs/mini.py:swin.full")
    assert changed == ("data.synth_pascal.tasks=('normals',)",)
    with pytest.raises(ConfigError, match="0 datasets of mini:swin.full have the task 'depth'"):
        load("mini:swin.full@depth")
    with pytest.raises(ConfigError, match="mtlroa.*mtlora"):
        jobs.values(entries.of("mini:swin.mtlroa", 0, ()))


def test_backbones_come_first_and_once(tmp_path):
    wanted = ["mini:swin.full@semseg", "mini:swin.lora", "mini:swin.full@semseg", "mini:swin.joint"]
    first, then = entries.plan(wanted, range(2), tmp_path, ["run.steps=7"])
    assert [job.name for job in first] == ["mini.swin.backbone/seed0"]
    assert [job.name for job in then] == [
        f"mini.swin.{row}/seed{seed}" for row in ("full@semseg", "lora", "joint") for seed in (0, 1)
    ]
    found = jobs.values(then[1])
    assert found["init_from"] == str(tmp_path / "mini.swin.backbone/seed0")
    assert found["data"]["synth_pascal"]["tasks"] == ("semseg",)
    assert (found["seed"], found["run"]["steps"]) == (1, 7)
    assert jobs.values(then[-1])["init_from"] == ""


def test_rows_on_a_backbone_of_edges_start_from_it(tmp_path):
    (first,), (then,) = entries.plan(["mini:swin.edges.lora"], [0], tmp_path)
    assert first.name == "mini.swin.edges.backbone/seed0"
    base, row = jobs.values(first), jobs.values(then)
    assert {name: d["tasks"] for name, d in base["data"].items() if name.startswith("synth")} == {
        "synth_nyud": ("edge",)
    }
    assert row["init_from"] == str(tmp_path / first.name)
    assert (row["adapter"]["name"], row["decoder"]["name"]) == ("lora", "all_mlp")
    assert base["decoder"]["name"] == "conv"
    with pytest.raises(ConfigError, match="'joint' is not one of adapter, "):
        jobs.values(entries.of("mini:swin.edges.joint", 0, ()))


@pytest.mark.parametrize("name", MINI)
def test_rows_of_reduced_size_are_rows_of_the_table(name):
    ids = {row.id for row in table.published_rows(TABLES[name])}
    small = table.rows_of(name, TABLES[name], "mini_large")
    assert MINI[name].keys() <= ids
    assert all(e.startswith("mini:large.") for row in small.values() for e in row)


def test_tables_of_the_small_problem_have_all_its_rows():
    from configs import mini

    rows = {name: set(of_table.configs) for name, of_table in STUDIES.items()}
    assert rows["mini.adapters"] == set(mini.adapters())
    ends_in_relu = {"updecoder"}  # so it cannot predict normals
    for kind in ("swin", "vit"):
        assert rows[f"mini.decoders_{kind}"] == set(mini.decoders(kind)) - ends_in_relu
    with pytest.raises(ConfigError, match="mini.adapters is of the small problem; give --scale"):
        table.rows_of("mini.adapters", STUDIES["mini.adapters"], "paper")


def test_what_nobody_published_has_no_columns_of_a_paper(tmp_path):
    for seed, scores in enumerate([(20.0, 40.0), (10.0, 40.0)]):
        finish(tmp_path, "mini:swin.edges.decoders", seed, scores)
        finish(tmp_path, "mini:swin.edges.lora", seed, (scores[0] + 3, 40.0), trained=7168)
    name = "mini.adapters"
    found = table.collect(name, STUDIES[name], "mini", range(2), tmp_path)
    lines = [line.split(" | ") for line in table_pages.markdown(found).splitlines()]
    assert lines[0][3:] == ["Δm ↑", "encoder (M)", "decoders (M)", "seeds |"]
    lora = next(line for line in lines if line[0] == "| lora")
    assert lora[1:] == ["18.00 ± 7.07", "40.00 ± 0.00", "+10.00 ± 23.57", "0.007", "0.200", "2 |"]
    text = table_pages.html(found)
    assert "paper: as" not in text and ">paper<" not in text and ">ours<" not in text


def test_every_entry_of_reduced_size_can_be_run(tmp_path):
    wanted = [e for rows in MINI.values() for row in rows.values() for e in row]
    wanted += [e for study in STUDIES.values() for row in study.configs.values() for e in row]
    wanted += [e for claim in CLAIMS for row in claim.rows.values() for e in row]
    wanted += [e for row in CLAIMS[0].at("mini_large").rows.values() for e in row]
    # One of those that differ in their tasks and in what they start from.
    kinds = {e.partition("@")[0].replace("edges.", ""): e for e in wanted}
    stages = entries.plan(kinds.values(), [0], tmp_path)
    assert [len(jobs.check_all(stage, tmp_path)) for stage in stages] == [len(s) for s in stages]


def test_runs_of_single_tasks_are_one_row(tmp_path):
    finish(tmp_path, "a@semseg", 0, (50.0, 0.0), tasks=["semseg"], trained=5)
    finish(tmp_path, "a@normals", 0, (0.0, 20.0), tasks=["normals"], trained=7)
    finish(tmp_path, "a@semseg", 1, (52.0, 0.0), tasks=["semseg"])
    (run,) = entries.finished(["a@semseg", "a@normals"], range(2), tmp_path)
    assert run.final["trained"] == {"encoder": 12, "decoders": 400_000}
    assert {t.kind for t in run.tasks} == {"semseg", "normals"}
    assert run.scores["d/semseg"] == 50.0
    with pytest.raises(DataError, match="semseg"):
        runs.merged([run, run])


@pytest.fixture
def rebuilt(tmp_path):
    for seed in range(2):
        for kind in ("semseg", "normals"):
            scores = (50.0, 20.0 + seed)
            finish(tmp_path, f"mini:swin.full@{kind}", seed, scores, tasks=[kind])
        finish(tmp_path, "mini:swin.mtlora_r64", seed, (59.0 + 2 * seed, 20.0), trained=800_000)
    return lambda name=NAME: table.collect(name, TABLES[name], "mini", range(2), tmp_path), tmp_path


def test_gains_are_against_single_task_runs(rebuilt, tmp_path, monkeypatch):
    kinds = {"single_task": tuple(f"mini:swin.full@{kind}" for kind in ("semseg", "normals"))}
    monkeypatch.setitem(MINI, NAME, MINI[NAME] | kinds)
    found = rebuilt[0]()
    assert found.base == "single_task" and found.study.base == "single_task"
    line = next(x for x in found.study.lines if x.setting.name == "mtlora_r64")
    assert line.gain.mean == pytest.approx((20 + 100 * 0.5 / 20.5) / 2) and line.seeds == 2
    files = table_pages.write(found, tmp_path / "out")
    assert [f.name for f in files] == [f"{NAME}.mini.{end}" for end in ("md", "csv", "html")]
    rows = {row["row"]: row for row in csv.DictReader(files[1].read_text().splitlines())}
    ours = rows["MTLoRA (r=64)"]
    assert ours["semseg mIoU ↑, paper"] == "67.90" and ours["semseg mIoU ↑, ours"] == "60.00 ± 1.41"
    assert ours["Δm ↑, paper"] == "+2.55" and ours["Δm ↑, ours"].startswith("+11.22")
    assert ours["trained (M), ours"] == "1.000" and ours["seeds, ours"] == "2"
    assert rows["Polyhistor"]["Δm ↑, paper"] == "+2.34 (?)"
    assert not any("difference" in name for name in ours)
    assert "MTLoRA (r=64)" in files[2].read_text() and "://" not in files[2].read_text()


def test_results_have_the_rows_that_were_run(rebuilt, tmp_path):
    empty = table.collect("m3vit.pascal", TABLES["m3vit.pascal"], "mini", range(2), tmp_path)
    text = table_pages.results([rebuilt[0](), empty], [], 2)
    assert "| MTLoRA (r=64) | 67.90 |" in text and "| Polyhistor |" not in text
    assert "15 more rows were not run." in text and "M3ViT" not in text
    assert f"--table {NAME} --scale mini --seeds 2`" in text


def test_nothing_finished_is_a_table_of_the_paper(tmp_path):
    found = table.collect(NAME, TABLES[NAME], "mini", range(1), tmp_path)
    assert "| MTLoRA (r=64) | +2.55 | – | 8.34 | – | 0 |" in table_pages.markdown(found)


def test_at_the_papers_scale_differences_are_shown(tmp_path, monkeypatch):
    small = TABLES[NAME]
    for row in ("single_task", "mtlora_r64"):
        for entry in small.configs[row]:
            kinds = [entry.partition("@")[2]] if "@" in entry else ["semseg", "normals"]
            if kinds[0] in ("semseg", "normals"):
                finish(tmp_path, entry, 0, (68.0, 16.0), tasks=kinds)
    rows = dict(small.configs)
    rows["single_task"] = tuple(e for e in rows["single_task"] if e[-3:] in ("seg", "als"))
    monkeypatch.setattr(table, "rows_of", lambda *a: rows)
    found = table.collect(NAME, small, "paper", range(1), tmp_path)
    row = next(r for r in found.rows if r.id == "mtlora_r64")
    assert table_pages.cells(found, row)[:6] == [
        "67.90",
        "68.00",
        "+0.10",
        "16.60",
        "16.00",
        "-0.60",
    ]


CLAIM = Claim("c", "Is it <better>?", "Yes.", {"a": ("a",), "b": ("b",), "c": ("c",)}, ("a", "b"))


def test_a_claim_is_answered_against_the_best_of_its_bases(tmp_path):
    for seed, off in enumerate((-0.1, 0.0, 0.1)):
        finish(tmp_path, "a", seed, (50.0 + off, 20.0))
        finish(tmp_path, "b", seed, (55.0 + off, 20.0), trained=300_000)
        finish(tmp_path, "c", seed, (66.0 + off, 20.0), trained=50_000)
    found = answers.answer(CLAIM, range(3), tmp_path)
    assert (found.verdict, found.study.base) == ("yes", "b")
    assert found.sentences[0] == "Against b (0.500 M trained):"
    assert found.sentences[1].startswith("c: Δm +10.00 ± 0.09 %, p = ")
    assert found.sentences[1].endswith("3 seeds, 50% of its trained parameters: better.")
    files = table_pages.write_claims([found], tmp_path / "out")
    assert "Is it &lt;better&gt;?" in files[1].read_text()
    assert "**Here: yes.**" in files[0].read_text()


def test_a_difference_that_may_be_chance_is_not_one(tmp_path):
    for seed, off in enumerate((-5.0, 0.0, 5.0)):
        finish(tmp_path, "a", seed, (50.0 + off, 20.0))
        finish(tmp_path, "c", seed, (51.0 + off, 20.0))
    found = answers.answer(CLAIM, range(3), tmp_path)
    assert found.verdict == "not shown" and "no difference shown" in found.sentences[1]
    assert answers.answer(CLAIM, range(3), tmp_path / "none").verdict == "not run"


def test_what_stands_beside_a_claim_does_not_answer_it(tmp_path):
    claim = dataclasses.replace(CLAIM, beside=("b",), against=("a",))
    for seed, off in enumerate((-0.1, 0.0, 0.1)):
        finish(tmp_path, "a", seed, (50.0 + off, 20.0))
        finish(tmp_path, "b", seed, (66.0 + off, 20.0))
        finish(tmp_path, "c", seed, (44.0 + off, 20.0))
    found = answers.answer(claim, range(3), tmp_path)
    assert found.verdict == "no"
    assert [text.partition(":")[0] for text in found.sentences[1:]] == ["c", "b"]
    assert found.sentences[2].endswith("better.")


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (["better", "better"], "yes"),
        (["better", "worse"], "in part"),
        (["better", "no difference shown"], "in part"),
        (["worse", "no difference shown"], "not shown"),
        (["worse", "worse"], "no"),
        (["better", "no loss shown"], "no loss shown"),
        (["worse", "no loss shown"], "in part"),
        ([], "not run"),
    ],
)
def test_the_verdict_over_several_rows(rows, verdict):
    assert answers.overall(rows) == verdict
