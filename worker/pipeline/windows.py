"""A waveform as the windows that the network takes, and as the envelope that is drawn."""

import numpy as np
from numpy.typing import NDArray

from otoscope.results import Array

WAVEFORM_BUCKETS = 1_000  # pairs of minimum and maximum in an envelope


def split_windows(
    waveform: NDArray[np.float32], size: int, overlap: float = 0.5
) -> list[tuple[int, NDArray[np.float32]]]:
    """(samples,) -> (index of the first sample, window of (size,)) of each window.

    A sound that is shorter than a window is padded with zeros; in a longer one, windows overlap by that share. Codecs
    add a few samples to a clip of exactly one window. These do not get a window of their own: a window that would begin
    less than a fiftieth of a window before the last one is left out, and such a rest after a single window is cut off.
    """
    overhang = size // 50
    if len(waveform) <= size + overhang:
        padded = np.zeros(size, np.float32)
        padded[: len(waveform)] = waveform[:size]
        return [(0, padded)]
    last = len(waveform) - size
    step = max(1, round(size * (1 - overlap)))
    starts = [*range(0, last - overhang, step), last]
    return [(start, waveform[start : start + size]) for start in starts]


def envelope(waveform: NDArray[np.float32], buckets: int = WAVEFORM_BUCKETS) -> Array:
    """(samples,) -> (2, buckets): minimum and maximum of that many equal parts, so that no peak is lost.

    A sound with fewer samples than buckets has one bucket per sample.
    """
    buckets = min(buckets, len(waveform))
    edges = np.linspace(0, len(waveform), buckets, endpoint=False).astype(np.int64)
    extremes = np.stack([np.minimum.reduceat(waveform, edges), np.maximum.reduceat(waveform, edges)])
    largest = np.finfo(np.float16).max  # samples of a file of floats are not limited to -1..1
    return extremes.clip(-largest, largest).astype(np.float16)
