"""Keeps glibc from returning the memory of every large tensor to the kernel and faulting it in again a moment later.

On two CPU cores that took 13 % of a training step of the recipe esc50-best (bench/epoch.py), and half of the time of a
batch of log-mel spectrograms.
"""

import ctypes
import sys
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # parameters of mallopt(3)
_KEEP = 2**31 - 1  # bytes, the largest value that it accepts


def keep_freed_memory(most: int | None = None) -> None:
    """For the rest of the process, or at most so many bytes of it (up to 32 MB). Without glibc this does nothing."""
    if mallopt := _of_glibc("mallopt"):
        if most is None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, _KEEP)
        else:
            mallopt(_M_MMAP_THRESHOLD, most)
            mallopt(_M_TRIM_THRESHOLD, most)


def release_freed_memory() -> None:
    """Returns to the kernel what has been kept so far. Without glibc this does nothing."""
    if malloc_trim := _of_glibc("malloc_trim"):
        malloc_trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function of the C library; None if that is not glibc."""
    try:
        return getattr(ctypes.CDLL(None), name) if sys.platform.startswith("linux") else None
    except (OSError, AttributeError):  # another C library
        return None
