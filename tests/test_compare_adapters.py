"""The table of adapters on one problem."""

import json

from scripts.adapters_table import config, table
from tests import tiny


def finished(folder, loss, scores):
    folder.mkdir()
    metrics = {
        f"synth_pascal/{kind}/{key}": value
        for (kind, key), value in zip(
            (("semseg", "mIoU"), ("normals", "mean")), scores, strict=True
        )
    }
    (folder / "final_metrics.json").write_text(json.dumps({"metrics": metrics}))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 6, "loss/total": loss}) + "\n")


def test_a_row_is_compared_with_the_heads_alone(tmp_path):
    values = tiny.values(data__synth_pascal__tasks=("semseg", "normals"))
    del values["data"]["synth_nyud"]
    assert config(values, "mtlora")["adapter"] == dict(name="mtlora", rank=16)
    finished(tmp_path / "decoders", 3.0, (20.0, 40.0))
    finished(tmp_path / "lora", 2.5, (22.0, 40.0))
    finished(tmp_path / "ia3", 3.5, (20.0, 44.0))
    head, _, decoders, lora, ia3 = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table(values, tmp_path).splitlines()
    ]
    assert head[4:6] == ["semseg mIoU ↑", "normals mean ↓"]
    assert decoders[:2] == ["decoders", "0"] and decoders[3:] == "3.00 20.00 40.00 +0.00 -".split()
    assert lora[0] == "lora" and lora[3:] == "2.50 22.00 40.00 +5.00 yes".split()
    assert ia3[3:] == "3.50 20.00 44.00 -5.00 no".split()
    assert decoders[2] == lora[2] and int(lora[1].replace(",", "")) > 0
