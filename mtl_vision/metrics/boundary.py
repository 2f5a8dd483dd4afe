"""Boundary detection as SEISM measures it: odsF without MATLAB. numpy and scipy only.

After jponttuset/seism and prismformore/Boundary-Detection-Evaluation-Tools. Where the numbers go,
say what computed them: the matching here is a largest one-to-one matching (`MATCHING`), where SEISM
solves for the cheapest one with a price on unmatched pixels of 100 times the largest distance. Only
sizes of matchings count, and the cheapest one is a largest one unless it would have to move more
than a hundred pairs to gain one.
"""

import contextlib
import os
import pathlib
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np

from mtl_vision.errors import RunError
from mtl_vision.metrics.contours import READERS, TRUTHS
from mtl_vision.metrics.matching import matching_sizes
from mtl_vision.metrics.thinning import thin

MATCHING = "max_cardinality"

# probability, truth, valid, as `match_counts` takes them.
Pair = tuple[np.ndarray | None, np.ndarray, np.ndarray | None]


def match_counts(
    probability: np.ndarray | None,
    truth: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    max_dist: float,
    kind: str = "edge",
    reader: str = "cont",
) -> np.ndarray:
    """Counts matched pixels of one image at every threshold.

    Args:
      probability: uint8 ``[H, W]``, 255 times the probability, rounded towards zero. None means an
        edge everywhere: of the constant predictions the only one that can score more than 0.
      truth: ``[H, W]``, see `kind`.
      valid: bool ``[H, W]``; the image is cropped to the smallest box that holds all True pixels,
        which removes padding. None takes all.
      max_dist: the largest distance of two matched pixels, as a share of the diagonal: 0.0075 on
        PASCAL-Context, 0.011 on NYUD-v2.
      kind: ``edge``: truth is not 0 on boundaries, which are thinned. ``labels``: the boundaries
        are where truth changes, thinned; SEISM does this with PASCAL's label maps and also with
        NYUD's 0/255 edge maps.
      reader: ``cont`` (InvPT and its successors: suppression, 101 thresholds) or ``plain``
        (Vandenhende et al.: neither, 99 thresholds).

    Returns: int64 ``[thresholds, 4]``: matched true pixels, true pixels, matched predicted pixels,
      predicted pixels. All 0 for an image without valid pixels.
    """
    if valid is not None:
        box = _box(valid)
        truth = np.where(valid[box], truth[box], 0)
        if probability is not None:
            probability = np.where(valid[box], probability[box], 0)
    T = len(READERS[reader].thresholds)
    if min(truth.shape) < 2:
        return np.zeros((T, 4), np.int64)
    if probability is None:
        pixels, there = _everywhere(truth.shape, reader)
    else:
        pixels, there = _lines(probability, reader)
    true = np.argwhere(TRUTHS[kind](truth))
    matched = matching_sizes(pixels, there, true, max_dist * float(np.hypot(*truth.shape)))
    return np.stack([matched, np.full(T, len(true)), matched, there.sum(1)], 1)


def _lines(probability: np.ndarray, reader: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels ``[P, 2]`` and in which thinned contours they are, bool ``[T, P]``."""
    thresholds, contours = READERS[reader]
    thinned = thin(contours(probability))
    pixels = np.argwhere(thinned.any(-1))
    words = thinned[pixels[:, 0], pixels[:, 1]].view(np.uint8)
    there = np.unpackbits(words, axis=1, count=len(thresholds), bitorder="little")
    return pixels, there.T.astype(bool)


@lru_cache(maxsize=256)
def _everywhere(shape: tuple[int, int], reader: str) -> tuple[np.ndarray, np.ndarray]:
    return _lines(np.full(shape, 255, np.uint8), reader)


def _box(valid: np.ndarray) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(valid.any(axis)) for axis in (1, 0))
    if not rows.size:
        return slice(0), slice(0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def ods(counts: np.ndarray) -> dict[str, float]:
    """Boundary scores from the counts of all images.

    Args:
      counts: ``[images, thresholds, 4]``, see `match_counts`.

    Returns: in percent, ``odsF``: best F of the pooled counts over thresholds; ``oisF``: F of the
      counts pooled at each image's own best threshold; ``AP``: mean precision at recalls 0 to 1.
      NaN without images.
    """
    if not len(counts):
        return dict.fromkeys(("odsF", "oisF", "AP"), float("nan"))
    precision, recall, f = _curve(counts.sum(0))
    best = _curve(counts)[2].argmax(1)
    own = _curve(counts[np.arange(len(counts)), best].sum(0))
    scores = {"odsF": f.max(), "oisF": own[2], "AP": _area(precision, recall)}
    return {name: 100 * float(x) for name, x in scores.items()}


def _curve(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F; without true pixels R = 1, P = 0, without predicted the reverse."""
    hit_true, true, hit, predicted = np.moveaxis(counts.astype(np.float64), -1, 0)
    recall = np.where(true > 0, hit_true / np.maximum(true, 1), 1)
    precision = np.where(predicted > 0, hit / np.maximum(predicted, 1), 1)
    precision = np.where(true > 0, precision, 0)
    both = precision + recall
    return precision, recall, 2 * precision * recall / np.where(both > 0, both, 1)


def _area(precision: np.ndarray, recall: np.ndarray) -> float:
    """Precision interpolated at recalls 0, 0.01, ..., 1; outside of the curve it counts as 0."""
    recall, first = np.unique(recall, return_index=True)
    if len(recall) < 2:
        return 0.0
    at = np.arange(101) / 100
    return float(np.interp(at, recall, precision[first], left=0, right=0).sum() / 100)


def evaluate(pairs: Iterable[Pair], *, workers: int = 0, **options: Any) -> np.ndarray:
    """Counts matches of many images, if asked in other processes.

    Args:
      pairs: (probability, truth, valid) per image, see `match_counts`; read as they are needed.
      workers: number of processes, each a program that imports numpy and scipy only; 0 for none.
      **options: of `match_counts`.

    Returns: int64 ``[images, thresholds, 4]``, in order, for `ods`.

    Raises:
      RunError: a worker ended early.
    """
    with contextlib.ExitStack() as stack:
        if workers:
            found = list(_spread(stack, pairs, workers, options))
        else:
            found = [match_counts(*pair, **options) for pair in pairs]
    T = len(READERS[options.get("reader", "cont")].thresholds)
    return np.stack(found) if found else np.zeros((0, T, 4), np.int64)


def _spread(
    stack: contextlib.ExitStack, pairs: Iterable[Pair], workers: int, options: dict[str, Any]
) -> Iterator[np.ndarray]:
    """Yields the counts in order; a thread per worker hands it one image at a time."""
    idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
    for _ in range(workers):
        process = _start()
        stack.callback(_end, process)
        idle.put(process)

    def ask(pair: Pair) -> np.ndarray:
        process = idle.get()
        try:
            pickle.dump((pair, options), process.stdin, protocol=5)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError) as e:
            raise RunError("a process that matched boundaries ended early.") from e
        finally:
            idle.put(process)

    pool = stack.enter_context(ThreadPoolExecutor(workers))
    waiting: deque = deque()
    for pair in pairs:
        waiting.append(pool.submit(ask, pair))
        if len(waiting) > 2 * workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _start() -> subprocess.Popen:
    """Starts a worker as a program of its own, so that nothing of the parent is imported again."""
    root = str(pathlib.Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, "-m", "mtl_vision.metrics.boundary"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )


def _end(process: subprocess.Popen) -> None:
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stdout.close()
    process.wait()


def main() -> None:
    """A worker: (pair, options) from standard input, counts to standard output."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the parent ends its workers
    with contextlib.suppress(EOFError):
        while True:
            pair, options = pickle.load(sys.stdin.buffer)
            pickle.dump(match_counts(*pair, **options), sys.stdout.buffer, protocol=5)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
