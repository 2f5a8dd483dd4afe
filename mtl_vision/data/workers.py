"""A function over many things on all cores, in order, holding only a few at a time."""

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2

from mtl_vision.errors import DataError

FEW = 256  # things done in this process before others are started


def parallel(
    function: Callable[[Any], Any],
    things: Iterable[Any],
    *,
    label: Callable[[Any], str],
    processes: int | None = None,
) -> Iterator[Any]:
    """Yields ``function(thing)`` in the order of the things.

    Args:
      function: picklable, as its results are.
      things: read only as fast as they are worked off.
      label: of a thing, for messages.
      processes: workers; 0 stays in this process, None takes one per core if there are many things.

    Raises:
      DataError: a worker ended, for want of memory for example.
    """
    count = len(os.sched_getaffinity(0)) if processes is None else processes
    things = iter(things)
    if count < 2:
        yield from map(function, things)
        return
    yield from map(function, itertools.islice(things, FEW if processes is None else 0))
    first = list(itertools.islice(things, 1))
    if first:
        yield from _pooled(function, itertools.chain(first, things), label, count)


def _pooled(function, things, label, count: int) -> Iterator[Any]:
    context = multiprocessing.get_context("spawn")
    waiting: collections.deque[tuple[str, Future]] = collections.deque()
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_set_up)
    try:
        for thing in things:
            waiting.append((label(thing), pool.submit(function, thing)))
            if len(waiting) > 4 * count:
                yield waiting[0][1].result()
                waiting.popleft()
        while waiting:
            yield waiting[0][1].result()
            waiting.popleft()
    except BrokenProcessPool as error:
        names = ", ".join(name for name, _ in waiting)
        raise DataError(
            f"a worker process ended while it worked on one of {names}; is there enough memory?"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _set_up() -> None:
    """Leaves interrupts to the parent, and ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
