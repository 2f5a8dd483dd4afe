"""A thread that speaks up when nothing has happened for too long."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable


class Watchdog:
    """Dumps the stacks of all threads to standard error where no `beat` came for too long.

    It starts over after that, or ends the process, where `leave` does.
    """

    def __init__(self, seconds: float, what: str, leave: Callable[[], None] | None = None):
        """Speaks of `what` after so many `seconds`, 0 for never; then calls `leave`."""
        self.seconds, self.what, self.leave = seconds, what, leave
        self._last, self._ended = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """Says that something has happened."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._ended.wait(max(self._last + self.seconds - time.monotonic(), 0)):
            if time.monotonic() < self._last + self.seconds:
                continue
            print(f"error: {self.what} for {self.seconds:g} s. Stacks:", file=sys.stderr)
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
            sys.stderr.flush()
            if self.leave:
                self.leave()
            self.beat()

    def __enter__(self) -> "Watchdog":
        self.beat()
        if self.seconds:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self.seconds:
            self._thread.join()
