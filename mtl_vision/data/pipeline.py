"""Streams of batches, read in parallel and put on the devices.

A batch is a function of the step (`order` says why), so a run resumes by its step number, and
threads, processes and the number of hosts change nothing. grain only reads ahead; without workers
it is not imported. Batches are numpy on this side; `to_device` makes them global arrays.
"""

import contextlib
import functools
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mtl_vision.allocator import keep_memory
from mtl_vision.data.order import Order
from mtl_vision.errors import ConfigError, DataError, UserError

Batch = dict[str, Any]
Source = Sequence[Mapping[str, Any]]

ENDLESS = sys.maxsize


@dataclass(frozen=True)
class Head:
    """The first `length` examples of a source."""

    source: Source
    length: int

    def __len__(self) -> int:
        return min(self.length, len(self.source))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.source[range(len(self))[index]]


@dataclass(frozen=True)
class Reader:
    """How one host reads a dataset: what, for which rows of the global batch, in which order.

    Hosts take contiguous blocks of rows, ``[p * b / P, (p + 1) * b / P)``, so that the order of
    rows, and with it dropout, does not depend on the number of hosts.
    """

    source: Source
    transform: Callable[..., Mapping[str, Any]]
    name: str
    batch: int
    process_index: int = 0
    process_count: int = 1

    def positions(self, step: int) -> range:
        """This host's positions in the stream at `step`."""
        rows = self.batch // self.process_count
        first = step * self.batch + self.process_index * rows
        return range(first, first + rows)

    def read(self, index: int, *rng: np.random.Generator) -> Mapping[str, Any]:
        """Returns one transformed record.

        Raises:
          DataError: the record cannot be decoded or transformed; it names dataset and record.
        """
        _set_up_process()
        try:
            return self.transform(self.source[index], *rng)
        except UserError:
            raise
        except Exception as error:
            raise DataError(
                f"{self.name}: record {index} of {len(self.source)} is damaged: "
                f"{type(error).__name__}: {error}. Prepare the dataset again."
            ) from error


@dataclass(frozen=True)
class TrainBatches:
    """Random access to a host's training batches; item k belongs to step k."""

    reader: Reader
    order: Order

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> Batch:
        batch, order, positions = {}, self.order, self.reader.positions(step)
        for row, n in enumerate(positions):
            example = self.reader.read(order.record(n), order.rng(n))
            batch = batch or _zeros(example, len(positions))
            _put(batch, row, example)
        return batch


@dataclass(frozen=True)
class EvalBatches:
    """Random access to a host's evaluation batches, in the order of the source."""

    reader: Reader

    def __len__(self) -> int:
        return -(-len(self.reader.source) // self.reader.batch)

    def __getitem__(self, step: int) -> tuple[Batch, dict]:
        batch, info = {}, {"id": [], "size": []}
        positions, end = self.reader.positions(step), len(self.reader.source)
        for row, n in enumerate(positions):
            example = self.reader.read(min(n, end - 1))
            batch = batch or _zeros(example, len(positions))
            if n >= end:
                break
            _put(batch, row, example)
            for name, values in info.items():
                values.append(example[name])
        return batch, info


def train_batches(
    source: Source,
    transform: Callable[[Mapping[str, Any], np.random.Generator], Mapping[str, Any]],
    *,
    name: str,
    batch: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 0,
    processes: int = 0,
) -> Iterator[Batch]:
    """Yields this host's part of every global batch, for ever, from `start_step` on.

    Args:
      source: examples by index; thread-safe, and picklable if there are processes.
      transform: ``(example, rng) -> transformed``, see `transforms.train_transform`.
      name: of the dataset, part of the seed and of messages.
      batch: global batch size.
      seed: of the run, 0 or larger.
      start_step: 0, or the step to go on with: the stream goes on as if it had not been stopped.
      process_index, process_count: this host and how many there are.
      threads: batches read at once in this process, or in each worker process; 0 reads when asked.
      processes: worker processes; they need a main guard in the script.

    Returns: an iterator of ``{"image", "labels", "masks", "valid"}`` with numpy arrays.

    Raises:
      ConfigError: hosts do not divide the batch.
      DataError: the source is empty; from the iterator, a damaged record, which ends it.
    """
    reader = _reader(source, transform, name, batch, process_index, process_count)
    batches = TrainBatches(reader, Order(name, len(source), seed))
    return _iterate(batches, start_step, threads, processes)


def eval_batches(
    source: Source,
    transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    name: str,
    batch: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 0,
    processes: int = 0,
) -> Iterator[tuple[Batch, dict]]:
    """Yields every record once, in order; arguments and errors as in `train_batches`.

    The last batch is filled with rows whose `valid` and masks are False, so that all batches have
    one shape, and all hosts yield the same number of them.

    Returns: an iterator of (batch, info); ``info["id"]`` and ``info["size"]``, native (H, W), are
    lists over this host's valid rows, which come first.
    """
    reader = _reader(source, transform, name, batch, process_index, process_count)
    return _iterate(EvalBatches(reader), 0, threads, processes)


def paired(streams: Mapping[str, Iterator[Any]]) -> Iterator[dict[str, Any]]:
    """Yields ``{dataset: batch}`` from one stream per dataset; closes all when it ends."""
    with closing(streams.values()):
        for parts in zip(*streams.values(), strict=False):
            yield dict(zip(streams, parts, strict=True))


@contextlib.contextmanager
def closing(streams: Iterable[Any]) -> Iterator[None]:
    """Closes all streams in the end."""
    try:
        yield
    finally:
        for stream in streams:
            _close(stream)


def to_device(batches: Iterable[Any], shardings: Any, *, depth: int = 2) -> Iterator[Any]:
    """Yields the batches as global device arrays, put there ahead of time by a thread.

    An exception of the stream is raised here, after the batches before it. Closing the iterator
    ends the thread and closes the stream.

    Args:
      batches: pytrees of host arrays, this process's rows of each; what is not a numpy array
        passes as it is.
      shardings: a sharding, or a tree of them that is a prefix of the batch's.
      depth: batches ready on the devices beyond the one in use.
    """
    import jax

    def place(sharding, part):
        return jax.tree.map(
            lambda x: (
                jax.make_array_from_process_local_data(sharding, x)
                if isinstance(x, np.ndarray)
                else x
            ),
            part,
        )

    stop, ready = threading.Event(), queue.Queue(max(depth - 1, 1))
    worker = threading.Thread(
        target=_feed,
        args=(batches, lambda batch: jax.tree.map(place, shardings, batch), ready, stop),
        name="to_device",
        daemon=True,
    )
    worker.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, _Failed):
                raise item.error
            yield item
    finally:
        stop.set()
        worker.join()


@dataclass(frozen=True)
class _Failed:
    error: BaseException


def _feed(batches, place, ready: queue.Queue, stop: threading.Event) -> None:
    """Body of the thread of `to_device`: batches, then None or what went wrong."""

    def put(item):
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.05)
            except queue.Full:
                continue

    try:
        for batch in batches:
            put(place(batch))
            if stop.is_set():
                break
        put(None)
    except BaseException as error:
        put(_Failed(error))
    finally:
        _close(batches)


def _iterate(batches, start: int, threads: int, processes: int) -> Iterator[Any]:
    """Yields ``batches[start:]`` in order, read ahead by grain's workers if there are any."""
    if not threads and not processes:
        yield from map(batches.__getitem__, range(start, len(batches)))
        return
    import grain

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    dataset = grain.MapDataset.source(batches)[start:].to_iter_dataset(options)
    if processes:
        _mark_flags_as_parsed()
        workers = grain.multiprocessing.MultiprocessingOptions(num_workers=processes)
        dataset = dataset.mp_prefetch(workers)
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()


def _reader(source, transform, name, batch, process_index, process_count) -> Reader:
    if not len(source):
        raise DataError(f"{name}: there are no records in this split; prepare the dataset.")
    if batch < 1 or batch % process_count:
        raise ConfigError(
            f"batch={batch} of {name} does not divide among {process_count} hosts; "
            f"use a multiple of {process_count}."
        )
    return Reader(source, transform, name, batch, process_index, process_count)


def _zeros(example: Mapping[str, Any], rows: int) -> Batch:
    """A batch of filler rows with the shapes of a transformed example."""

    def zeros(x):
        return np.zeros((rows, *x.shape), x.dtype)

    parts = {p: {kind: zeros(x) for kind, x in example[p].items()} for p in ("labels", "masks")}
    return {"image": zeros(example["image"]), **parts, "valid": np.zeros(rows, bool)}


def _put(batch: Batch, row: int, example: Mapping[str, Any]) -> None:
    """Copies a transformed example into its row; at once, so that its memory is used again."""
    batch["valid"][row] = True
    batch["image"][row] = example["image"]
    for part in ("labels", "masks"):
        for kind, x in example[part].items():
            batch[part][kind][row] = x


@functools.cache
def _set_up_process() -> None:
    """Once per process: OpenCV without threads of its own, and an allocator that keeps memory.

    Without the latter an image costs 2,700 page faults, a quarter of its time.
    """
    cv2.setNumThreads(1)
    keep_memory()


def _mark_flags_as_parsed() -> None:
    """grain's processes read absl's flags, which only `absl.app` parses."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _close(stream: Any) -> None:
    if close := getattr(stream, "close", None):
        close()
