"""Decoders made of one head per task, or of one decoder per dataset."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from mtl_vision.errors import ConfigError, nearest
from mtl_vision.models.layers import split

Outputs = Mapping[str, Mapping[str, int]]  # channels by dataset and kind


def check_dataset(dataset: str, known: Iterable[str]) -> None:
    """Raises ConfigError if there are no heads for `dataset`."""
    if dataset not in known:
        raise ConfigError(
            f"dataset {dataset!r} has no heads; the model was built for "
            f"{', '.join(known)}.{nearest(dataset, known)}"
        )


class PerDataset(nnx.Module):
    """Runs the decoder of one dataset.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      make: makes the decoder of a dataset from its name and its ``{kind: channels}``: a module
        ``(trunk, streams, key=...)`` that returns what `__call__` does.
    """

    def __init__(self, outputs: Outputs, make: Callable[[str, Mapping[str, int]], nnx.Module]):
        self.heads = nnx.Dict({dataset: make(dataset, kinds) for dataset, kinds in outputs.items()})

    def __call__(
        self,
        trunk: Sequence[jax.Array] | None,
        streams: Sequence[jax.Array] | None,
        *,
        dataset: str,
        key: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Decodes the tasks of `dataset`; arguments and errors as in `PerTask`.

        Returns: ``{kind: [B, h', w', K]}``; with a key the values may be tuples, see `MultiTask`.
        """
        check_dataset(dataset, self.heads)
        return self.heads[dataset](trunk, streams, key=key)


class PerTask(nnx.Module):
    """Runs the heads of one dataset, each on its task's stream, or on the trunk without streams.

    Args:
      outputs: ``{dataset: {kind: channels}}``.
      head: makes the head of a task with that many channels: a module
        ``[[B, h, w, C], ...] -> [B, h', w', K]``.
    """

    def __init__(self, outputs: Outputs, head: Callable[[int], nnx.Module]):
        self.heads = nnx.Dict(
            {
                dataset: nnx.Dict({kind: head(out) for kind, out in kinds.items()})
                for dataset, kinds in outputs.items()
            }
        )
        self.kinds = {dataset: tuple(kinds) for dataset, kinds in outputs.items()}

    def __call__(
        self,
        trunk: Sequence[jax.Array] | None,
        streams: Sequence[jax.Array] | None,
        *,
        dataset: str,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Decodes the tasks of `dataset`.

        Args:
          trunk: ``[B, h, w, C]`` per level, or None.
          streams: ``[T, B, h, w, C]`` per level, T in the order of the kinds, or None.
          dataset: whose tasks.
          key: None in evaluation.

        Returns: ``{kind: [B, h', w', K]}``.

        Raises:
          ConfigError: a `dataset` without heads.
        """
        check_dataset(dataset, self.kinds)
        kinds = self.kinds[dataset]
        out = {}
        for t, (kind, head_key) in enumerate(zip(kinds, split(key, len(kinds)), strict=True)):
            levels = trunk if streams is None else [x[t] for x in streams]
            out[kind] = self.heads[dataset][kind](levels, key=head_key)
        return out
