"""A sound as the windows that the network takes, and as the outline that people look at."""

import numpy as np
from numpy.typing import NDArray

from otoscope.results import Array

WAVEFORM_BUCKETS = 1_000


def split_windows(waveform: NDArray[np.float32], size: int) -> list[tuple[int, NDArray[np.float32]]]:
    """(first sample, window) of each window: zero-padded when the sound is shorter, half overlapping when longer.

    Codecs add a few samples to a clip that was cut to measure. Those are not worth a window: one that would begin less
    than a fiftieth of a window before the last is left out, and what a single window cannot hold is cut off.
    """
    overhang = size // 50
    if len(waveform) <= size + overhang:
        padded = np.zeros(size, np.float32)
        padded[: len(waveform)] = waveform[:size]
        return [(0, padded)]
    last = len(waveform) - size
    starts = [*range(0, last - overhang, size // 2), last]
    return [(start, waveform[start : start + size]) for start in starts]


def envelope(waveform: NDArray[np.float32], buckets: int = WAVEFORM_BUCKETS) -> Array:
    """(2, buckets): minimum and maximum of each of that many equal stretches, so that no peak is lost."""
    buckets = min(buckets, len(waveform))
    edges = np.linspace(0, len(waveform), buckets, endpoint=False).astype(np.int64)
    extremes = np.stack([np.minimum.reduceat(waveform, edges), np.maximum.reduceat(waveform, edges)])
    largest = np.finfo(np.float16).max  # samples of a float file may be anything
    return extremes.clip(-largest, largest).astype(np.float16)
