"""Which record stands where in training, and the random numbers that go with the place.

Both are functions of (seed, dataset, position) alone.
"""

import functools
import zlib
from dataclasses import dataclass

import numpy as np

EPOCH, ELEMENT = 0, 1  # what a random stream is for


@dataclass(frozen=True)
class Order:
    """The endless order in which one dataset is trained on.

    Every epoch is a new permutation of all records; batches run across its end.

    Attributes:
      name: of the dataset; datasets with one seed are shuffled independently.
      length: number of records.
      seed: 0 or larger.
    """

    name: str
    length: int
    seed: int

    def record(self, position: int) -> int:
        """Index of the record at `position` of the stream, 0, 1, 2, ..."""
        epoch, place = divmod(position, self.length)
        return int(_permutation(self, epoch)[place])

    def rng(self, position: int) -> np.random.Generator:
        """Random numbers for the augmentation of the element at `position`."""
        return self._generator(ELEMENT, position)

    def _generator(self, purpose: int, n: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, zlib.crc32(self.name.encode()), purpose, n))


@functools.lru_cache(maxsize=8)
def _permutation(order: Order, epoch: int) -> np.ndarray:
    return order._generator(EPOCH, epoch).permutation(order.length)
