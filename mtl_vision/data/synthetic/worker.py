"""Renders every n-th scene of a source and writes them to standard output.

Started by `source.render_all` as a program of its own: nothing of the parent is imported again,
copied or forked, so it does not matter what the parent has running or how it was started.
"""

import pickle
import sys

from mtl_vision.data.synthetic.source import rendered


def main() -> None:
    source, encode, first, step = pickle.load(sys.stdin.buffer)
    for index in range(first, len(source), step):
        pickle.dump(rendered(source, index, encode), sys.stdout.buffer, protocol=5)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
