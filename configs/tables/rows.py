"""What the files of this folder share: how a row is chosen, and the real datasets."""

from collections.abc import Callable, Mapping

import ml_collections as mlc

from configs.joint_real_swin_t_hrnet import on_real_data
from mtl_vision.errors import ConfigError

Rows = Mapping[str, Callable[[], mlc.ConfigDict]]
IMAGES = {"pascal_context": 4998, "nyud_v2": 795}  # for training


def chosen(rows: Rows, file: str, row: str) -> mlc.ConfigDict:
    """Returns the config of a row.

    Raises:
      ConfigError: there is no such row, or none was given.
    """
    if row not in rows:
        raise ConfigError(
            f"configs/tables/{file}.py has no row {row!r}; write configs/tables/{file}.py:<row> "
            f"with one of {', '.join(rows)}."
        )
    return rows[row]()


def on_pascal(c: mlc.ConfigDict) -> mlc.ConfigDict:
    """Puts PASCAL-Context in the place of the synthetic dataset, and all four of its tasks."""
    c.data.synth_pascal.tasks = ("semseg", "normals", "sal", "human_parts")
    return epochs(on_real_data(c), 300, warmup=20)


def epochs(c: mlc.ConfigDict, count: int, *, warmup: int = 0) -> mlc.ConfigDict:
    """Makes a run last for epochs of its largest dataset, with a look at it every five."""
    steps = max(n for name, n in IMAGES.items() if name in c.data) // c.data.batch
    if warmup:
        c.schedule.warmup = warmup * steps
    c.run.update(steps=count * steps, eval_every=5 * steps, save_every=5 * steps)
    return c
