"""Weights in single files: released checkpoints read; adapters and heads written and read."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mtl_vision import files, rules
from mtl_vision.errors import ConfigError, DataError
from mtl_vision.models import exported, mtl, released
from mtl_vision.models.convert import convert, unfit
from mtl_vision.train import integrity
from mtl_vision.train.state import TrainState
from mtl_vision.train.step import best_params

FORMAT = "mtl_vision/1"
WHOLE = ("trainable", "frozen", "stats")


def config_of(path: pathlib.Path) -> dict[str, Any]:
    """Returns the config in a file that `export` wrote.

    Raises:
      ConfigError: the file has none.
      DataError: it cannot be read.
    """
    _, metadata = files.read(path)
    if metadata.get("format") != FORMAT:
        raise ConfigError(f"{path} holds no config; give one, such as configs/mtlora_r64.py.")
    return _described(path, metadata)[2]


def _described(path: pathlib.Path, metadata: Mapping[str, str]) -> tuple[str, int, dict[str, Any]]:
    """Returns what `export` wrote beside the arrays: digest, step and config."""
    try:
        config, step = json.loads(metadata["config"]), int(metadata["step"])
        if not isinstance(config, dict) or not 0 <= step < 2**31:
            raise ValueError("its config or step is none")
        return metadata["frozen"], step, config
    except (KeyError, ValueError, RecursionError) as e:
        raise DataError(f"{path} does not say what it holds: {e}. Export it again.") from e


def export(path: pathlib.Path, state: TrainState, config: Mapping[str, Any]) -> None:
    """Writes what a run trained as one safetensors file: whole, or not at all.

    It holds the trained parameters, or their moving average if there is one, and the statistics;
    its metadata the config and the digest of the frozen parameters that these belong to.

    Args:
      path: of the file.
      state: of the run.
      config: plain values, for whoever reads the file.
    """
    kept = {"trainable": state.ema or state.trainable, "stats": state.stats}
    arrays = {name: np.asarray(x) for name, x in rules.flatten(kept).items()}
    metadata = {
        "format": FORMAT,
        "frozen": str(_digest(state)),
        "step": str(int(state.step)),
        "config": json.dumps(config),
    }
    files.write(path, arrays, metadata)


def export_backbone(
    path: pathlib.Path, graphdef: Any, state: TrainState, library: str, added: Sequence[str]
) -> str:
    """Writes the backbone as others name it: whole, or not at all.

    Args:
      path: of the file.
      graphdef: the structure of the model.
      state: of the run; of a moving average that is taken.
      library: see `exported.export`.
      added: names of the adapters.

    Returns: the format.

    Raises:
      ConfigError: adapters cannot be folded in, or no format has a place for all parameters.
    """
    model = mtl.merge(graphdef, *best_params(state))
    tree = exported.parameters(model.backbone, added)
    key, arrays = exported.export(tree, library)
    files.write(path, arrays, {"format": "pt"})  # what transformers asks for
    return key


def load(path: pathlib.Path, state: TrainState, tasks: Sequence[str]) -> TrainState:
    """Returns `state` with the weights of a file.

    Args:
      path: what `export` wrote, for a model with the same frozen parameters; or in any format of
        `files.read` a checkpoint, for one dataset, of scale-lab/MTLoRA with its hrnet heads, or
        with an unscanned ViT of InvPT or TaskPrompter (prismformore/Multi-Task-Transformer), of
        MLoRE (YuqiYang213/MLoRE), or of M3ViT (VITA-Group/M3ViT) with a gate per task or one for
        all.
      state: of the model, at its start.
      tasks: their names, ``dataset/kind``, in the order of the model.

    Raises:
      DataError: the file cannot be read, belongs to other frozen parameters, or does not fit; all
        unused and missing arrays are named.
    """
    arrays, metadata = files.read(path)
    if metadata.get("format") != FORMAT:
        return _load_released(path, arrays, state, tasks)
    frozen, step, _ = _described(path, metadata)
    if frozen != str(_digest(state)):
        raise DataError(
            f"{path} was trained on other frozen parameters than those of this model. Use the "
            f"config in the file; its init_from must be the same run's."
        )
    mine = rules.flatten({name: getattr(state, name) for name in ("trainable", "stats")})
    faults = [f"{p} is missing" for p in mine if p not in arrays]
    faults += [f"{p} is not in the model" for p in arrays if p not in mine]
    faults += [f for p, x in mine.items() if p in arrays for f in unfit(p, arrays[p], x.shape)]
    if faults:
        raise DataError(f"{path} does not fit the model: {'; '.join(faults)}.")
    step = jax.device_put(np.asarray(step, state.step.dtype), state.step.sharding)
    return dataclasses.replace(_filled(state, arrays), step=step)


def _load_released(path, arrays, state, tasks):
    datasets = {name.rpartition("/")[0] for name in tasks}
    if len(datasets) != 1:
        raise DataError(
            f"{path} holds heads of one dataset, but the config has {', '.join(sorted(datasets))}."
        )
    fields = [rules.flatten(getattr(state, name)) for name in WHOLE]
    whole = {p: x for field in fields for p, x in field.items()}
    table = released.checkpoint(arrays, [n.rpartition("/")[2] for n in tasks], *datasets)
    tree = traverse_util.unflatten_dict(whole, sep="/")
    found = rules.flatten(convert(arrays, table, tree, zero=released.LACKING))
    return _filled(
        state, {f"{n}/{p}": found[p] for n, f in zip(WHOLE, fields, strict=True) for p in f}
    )


def _filled(state: TrainState, arrays: Mapping[str, np.ndarray]) -> TrainState:
    """Returns `state` with arrays in their places, in the dtypes and shardings there."""

    def place(path: str, old: Any) -> Any:
        name = path.replace("ema/", "trainable/", 1) if path.startswith("ema/") else path
        if name not in arrays:
            return old
        return jax.device_put(arrays[name].astype(old.dtype), old.sharding)

    return rules.map_with_path(place, state)


def _digest(state: TrainState) -> int:
    frozen = {path: x for path, x in rules.flatten({"frozen": state.frozen}).items() if x.size}
    return integrity.digest(integrity.table(frozen))
