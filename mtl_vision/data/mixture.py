"""How several datasets make up the steps of one run.

A mixture is frozen and knows two things: which datasets a step's program sees, and how their
streams become the batches of the steps. All of them are functions of the step, so that a run goes
on exactly by its step number, and every host takes the same turn.
"""

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtl_vision.data.pipeline import closing, paired
from mtl_vision.errors import ConfigError

Open = Callable[[str, int], Iterator[Any]]  # (dataset, first step of its own stream) -> batches
BLOCK = 1024  # turns drawn from one generator
TURNS = zlib.crc32(b"turns")  # sets them apart from the orders of the datasets


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Every step takes a sub-batch of every dataset, each at its own size."""

    def programs(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """The datasets of each program that is compiled."""
        return [tuple(names)]

    def batches(
        self, stream: Open, lengths: Mapping[str, int], *, seed: int, first: int
    ) -> Iterator[dict[str, Any]]:
        """Yields ``{dataset: batch}`` of step `first` and all that follow.

        Args:
          stream: opens the batches of one dataset, from a step of its own on.
          lengths: images of every dataset, in the order of the config.
          seed: of the run.
          first: step to begin with.
        """
        del seed
        return paired({name: stream(name, first) for name in lengths})


@dataclass(frozen=True, kw_only=True)
class MixedCanvas(Paired):
    """As `Paired`, but the backbone sees all images at once, on one canvas that holds them all.

    Attributes:
      mask_pad_tokens: whether attention leaves out the tokens beyond a dataset's own canvas.
    """

    mask_pad_tokens: bool = True


@dataclass(frozen=True, kw_only=True)
class Alternate:
    """Every step takes a batch of one dataset, drawn with probability ``n_d^(1/t) / sum``.

    Attributes:
      temperature: t; 1 is in proportion to the images, larger is more even, 0 stands for infinity:
        equal shares (Hyperformer's sampler, arXiv 2106.04489).

    Raises:
      ConfigError: a negative temperature.
    """

    temperature: float = 0.0

    def __post_init__(self):
        if self.temperature < 0:
            raise ConfigError(
                f"config.mixture.temperature={self.temperature} is negative; 0.0 gives equal "
                "shares, 1.0 shares in proportion to the images."
            )

    def programs(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """The datasets of each program that is compiled."""
        return [(name,) for name in names]

    def batches(
        self, stream: Open, lengths: Mapping[str, int], *, seed: int, first: int
    ) -> Iterator[dict[str, Any]]:
        """Yields ``{dataset: batch}`` with one dataset; see `Paired.batches`.

        A dataset's stream moves on with its own turns, so every epoch still holds each image once.
        """
        names = tuple(lengths)
        turns = Turns(shares(tuple(lengths.values()), self.temperature), seed)
        before = turns.counts(first)
        streams = {n: stream(n, int(k)) for n, k in zip(names, before, strict=True)}
        with closing(streams.values()):
            step = first
            while True:
                name = names[turns.turn(step)]
                yield {name: next(streams[name])}
                step += 1


MIXTURES: dict[str, Callable[..., Any]] = {
    "paired": Paired,
    "alternate": Alternate,
    "mixed_canvas": MixedCanvas,
}


def shares(lengths: Sequence[int], temperature: float) -> tuple[float, ...]:
    """Probabilities ``n_d^(1/t) / sum_j n_j^(1/t)``; equal ones for t = 0, which is infinity."""
    weights = [(n / max(lengths)) ** (1 / temperature) if temperature else 1.0 for n in lengths]
    return tuple(w / sum(weights) for w in weights)


@dataclass(frozen=True)
class Turns:
    """Whose turn it is at each step: a function of (shares, seed, step) alone."""

    shares: tuple[float, ...]
    seed: int

    def turn(self, step: int) -> int:
        """Number of the dataset of a step."""
        block, place = divmod(step, BLOCK)
        return int(_drawn(self, block)[place])

    def counts(self, step: int) -> np.ndarray:
        """How many of the steps before `step` were each dataset's: int64 ``[D]``."""
        block, place = divmod(step, BLOCK)
        parts = [*(_drawn(self, b) for b in range(block)), _drawn(self, block)[:place]]
        return sum(np.bincount(p, minlength=len(self.shares)) for p in parts)


@functools.lru_cache(maxsize=8)
def _drawn(turns: Turns, block: int) -> np.ndarray:
    rng = np.random.default_rng((turns.seed, TURNS, block))
    return np.searchsorted(np.cumsum(turns.shares)[:-1], rng.random(BLOCK), side="right")
