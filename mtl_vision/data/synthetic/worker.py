"""Renders every n-th scene of a source and writes them to standard output.

Started by `source.render_all` as a program of its own: nothing of the parent is imported again,
copied or forked, so it does not matter what the parent has running or how it was started.
"""

import contextlib
import os
import pickle
import signal
import sys

from mtl_vision.data.synthetic.source import rendered


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    source, encode, first, step = pickle.load(sys.stdin.buffer)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    with contextlib.suppress(BrokenPipeError), output:
        for index in range(first, len(source), step):
            pickle.dump(rendered(source, index, encode), output, protocol=5)
            output.flush()


if __name__ == "__main__":
    main()
