"""How the C library keeps what is freed."""

import ctypes

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_memory() -> None:
    """Lets this process keep freed memory for the next array, where the C library is glibc's.

    By default glibc hands arrays of 128 KiB to 32 MiB and more back to the system. The next ones
    then cost a page fault per 4 KiB, which takes several times as long as a pass over them, in
    every step on a CPU and for every image. A process never gets smaller from then on.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # Other arenas than the first one map large arrays whatever the limit says.
    for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1)):
        mallopt(parameter, value)
