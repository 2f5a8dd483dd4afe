"""The table of rows on one problem."""

from configs.mini import adapters, changed, decoders
from scripts.compare_table import folder, table
from tests import tiny
from tests.report import folders


def finish(run, loss, scores):
    config = folders.CONFIG | {"data": {"synth_pascal": {"tasks": ["semseg", "normals"]}}}
    folders.write(run, config=config, scores=scores, loss=loss, pictures=False)


def test_a_row_is_compared_with_the_base_of_its_seed(tmp_path):
    values = tiny.values(data__synth_pascal__tasks=("semseg", "normals"))
    del values["data"]["synth_nyud"]
    rows = {name: changed(values, change) for name, change in adapters().items()}
    assert rows["mtlora"]["adapter"] == dict(name="mtlora", rank=16)
    finish(tmp_path / "decoders", 3.0, (20.0, 40.0))
    finish(tmp_path / "decoders.1", 3.0, (10.0, 40.0))
    finish(tmp_path / "lora", 2.5, (22.0, 40.0))
    finish(tmp_path / "lora.1", 2.7, (12.0, 40.0))
    finish(tmp_path / "ia3", 3.5, (20.0, 44.0))
    finish(tmp_path / "ssf.1", 3.5, (9.0, 38.0))
    finish(tmp_path / "ssf", 3.5, (20.0, 36.0))
    head, _, base, lora, ssf, ia3 = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table(rows, tmp_path).splitlines()
    ]
    assert head[5:7] == ["semseg mIoU ↑", "normals mean ↓"] and head[-1] == "beats decoders"
    assert base[:2] == ["decoders", "0"] and base[4:7] == ["3.00", "15.00", "40.00"]
    assert base[7:] == ["+0.00 (+0.00, +0.00)", "-"]
    assert lora[4:] == ["2.60", "17.00", "40.00", "+7.50 (+5.00, +10.00)", "yes"]
    assert ssf[7:] == ["+1.25 (+5.00, -2.50)", "unclear"]
    assert ia3[7:] == ["-5.00", "no"]
    assert base[2] == lora[2] and int(lora[1].replace(",", "")) > 0


def test_ablations_of_task_expert_are_rows_and_folders(tmp_path):
    rows = decoders("swin")
    assert next(iter(rows)) == "conv" and "task_prompter" not in rows
    plain, other = rows["task_expert"]["decoder"], rows["task_expert_no_memory"]["decoder"]
    assert other == plain | dict(memory=False)
    assert folder(tmp_path, "task_expert_no_memory", 1).name == "task_expert_no_memory.1"
