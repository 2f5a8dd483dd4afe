"""Run folders as a run leaves them, without a run."""

import json

import numpy as np
from PIL import Image

CONFIG = {
    "seed": 0,
    "protocol": "A",
    "data": {"batch": 2, "d": {"tasks": ["normals", "semseg"]}},
    "optim": {"lr": 0.001},
}


def write(
    folder, *, scores=(50.0, 20.0), config=CONFIG, color=128, pictures=True, trained=0, loss=1.0
):
    """Writes a finished run with two tasks of the dataset ``d`` and pictures of one image."""
    (folder / "panels").mkdir(parents=True)
    environment = {"python": "3", "commit": "abc"}
    (folder / "config.json").write_text(json.dumps({"config": config, "environment": environment}))
    lines = [
        {"step": s, "loss/d/semseg": 3 / s, "eval/d/semseg/mIoU": 9.0 + s, "gates/d": [[0.1]]}
        | {"loss/total": loss}
        for s in (10, 20, 30)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 4')
    name = next(k for k, v in config["data"].items() if isinstance(v, dict))
    keys = ("semseg/mIoU", "normals/mean", "normals/rmse")
    metrics = {f"{name}/{key}": x for key, x in zip(keys, (*scores, 3.0), strict=True)}
    final = dict(step=30, split="val", protocol="A", images={"d": 7}, metrics=metrics, constant={})
    final["trained"] = dict(encoder=trained, decoders=200_000)
    (folder / "final_metrics.json").write_text(json.dumps(final))
    if pictures:
        cells = folder / "final_pictures" / "d"
        cells.mkdir(parents=True)
        for i, what in enumerate(("image", "semseg_prediction", "semseg_label")):
            picture = np.full((12, 16, 3), (color + i) % 256, np.uint8)
            Image.fromarray(picture).save(cells / f"000_{what}.png")
        for name in ("conflicts_000010", "conflicts_000030", "d_000030"):
            Image.fromarray(picture).save(folder / "panels" / f"{name}.png")
    return folder
