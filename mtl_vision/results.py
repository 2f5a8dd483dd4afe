"""What an evaluation leaves: figures, pictures, a table."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from mtl_vision import build
from mtl_vision.config import Config
from mtl_vision.train import plan
from mtl_vision.train.log import table, write_json
from mtl_vision.viz import panels


class Result(NamedTuple):
    """What an evaluation found.

    metrics: ``{"dataset/kind/key": value}``.
    constant: the same for the best constant prediction of each task; empty unless asked for.
    images: number of images by dataset.
    drawn: by dataset, the images asked for: of each, pictures by name, see `viz.panels.pictures`.
    maps: pictures of the gates by name; empty unless images are asked for.
    gates: mean gates, and how often each expert is chosen, by layer and expert:
      ``{"gates/part/dataset/kind": [L, n], "chosen/part/dataset/kind": [L, n]}``, where a part
      (``backbone`` or ``decoder``) has them.
    """

    metrics: dict[str, float]
    constant: dict[str, float]
    images: dict[str, int]
    drawn: dict[str, list[dict[str, np.ndarray]]]
    maps: dict[str, np.ndarray]
    gates: dict[str, np.ndarray]


def write_result(
    workdir: pathlib.Path, cfg: Config, step: int, split: str, result: Result, name: str
) -> dict[str, Any]:
    """Writes and returns ``<name>_metrics.json``, and pictures of predictions beside it.

    They are ``<name>_<dataset>.png`` and, one by one, ``<name>_pictures/<dataset>/000_image.png``,
    ``000_semseg_prediction.png``, ``000_semseg_label.png`` and so on.
    """
    found = {
        "step": step,
        "split": split,
        "protocol": cfg.protocol,
        "images": result.images,
        "trained": dict(zip(("encoder", "decoders"), plan.trained(cfg), strict=True)),
        "metrics": result.metrics,
        "constant": result.constant,
    }
    if result.gates:
        found["gates"] = {name: x.tolist() for name, x in result.gates.items()}
    if jax.process_index() == 0:
        write_json(workdir / f"{name}_metrics.json", found)
        for what, picture in result.maps.items():
            Image.fromarray(picture).save(workdir / f"{name}_{what}.png")
        for dataset, images in result.drawn.items():
            sheet = panels.prediction_sheet(images)
            Image.fromarray(sheet).save(workdir / f"{name}_{dataset}.png")
            _save(workdir / f"{name}_pictures" / dataset, images)
    return found


def _save(folder: pathlib.Path, images: Sequence[Mapping[str, np.ndarray]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        for what, picture in image.items():
            Image.fromarray(picture).save(folder / f"{i:03d}_{what}.png")


def report(cfg: Config, final: Mapping[str, Any]) -> str:
    """Returns the table of an evaluation: each task's score beside the best constant prediction."""
    rows = [["task", "metric", "", "score", "best constant"]]
    for group in build.groups(cfg).values():
        for task in group:
            key = f"{task.name}/{task.score}"
            arrow = "higher is better" if task.sign > 0 else "lower is better"
            values = (final[part].get(key) for part in ("metrics", "constant"))
            shown = ["-" if v is None else f"{v:.3f}" for v in values]
            rows.append([task.name, task.score, arrow, *shown])
    images = ", ".join(f"{n} images of {name}" for name, n in final["images"].items())
    head = f"step {final['step']}, split {final['split'] or 'of the papers'}: {images}"
    return f"{head}\n\n{table(rows, right=(3, 4))}"
