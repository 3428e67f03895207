"""Keeps glibc from returning the memory of every large tensor to the kernel and faulting it in again a moment later.

On two CPU cores that took 13 % of a training step of the recipe esc50-best (bench/epoch.py), and half of the time of a
batch of log-mel spectrograms.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # parameters of mallopt(3)
_KEEP = 2**31 - 1  # bytes, the largest value that it accepts


def keep_freed_memory(most: int | None = None) -> None:
    """For the rest of the process, or at most so many bytes of it (up to 32 MB). Without glibc this does nothing."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    if most is None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEEP)
    else:
        mallopt(_M_MMAP_THRESHOLD, most)
        mallopt(_M_TRIM_THRESHOLD, most)
