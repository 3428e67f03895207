"""A waveform as the windows that the network takes, and as the envelope that is drawn; also while it is decoded."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from otoscope.results import Array

WAVEFORM_BUCKETS = 1_000  # pairs of minimum and maximum in an envelope
_STEP = 256  # samples of a sound of unknown length whose minimum and maximum are kept


def fill_window(waveform: NDArray[np.float32], size: int, pause: int | None) -> NDArray[np.float32]:
    """A sound (samples,) that is shorter than a window as a window (size,): repeated, with `pause` samples of silence
    in between, or with None only once, in front of silence.

    Mean and maximum over a window say little about a bark of half a second in front of silence: networks that were
    trained on fuller windows name few such sounds, and most of them if they are repeated (docs/answers.md).
    """
    silence = size - len(waveform) if pause is None else pause
    return np.resize(np.concatenate([waveform, np.zeros(silence, np.float32)]), size)


def repetition_period(samples: int, size: int, pause: int | None) -> int | None:
    """After how many samples a sound begins again in its window; None where it is there once."""
    return None if pause is None or samples + pause >= size else samples + pause


def split_windows(
    waveform: NDArray[np.float32], size: int, overlap: float = 0.5, pause: int | None = None
) -> list[tuple[int, NDArray[np.float32]]]:
    """(samples,) -> (index of the first sample, window of (size,)) of each window.

    A sound that is shorter than a window fills it as in `fill_window`; in a longer one, windows overlap by that share.
    Codecs add a few samples to a clip of exactly one window. These do not get a window of their own: a window that
    would begin less than a fiftieth of a window before the last one is left out, and such a rest after a single window
    is cut off.
    """
    overhang = size // 50
    if size <= len(waveform) <= size + overhang:
        return [(0, waveform[:size])]
    if len(waveform) < size:
        return [(0, fill_window(waveform, size, pause))]
    last = len(waveform) - size
    starts = [*range(0, last - overhang, _step(size, overlap)), last]
    return [(start, waveform[start : start + size]) for start in starts]


def count_windows(samples: int, size: int, overlap: float = 0.5) -> int:
    """How many windows `split_windows` makes of so many samples."""
    overhang = size // 50
    return len(range(0, samples - size - overhang, _step(size, overlap))) + 1 if samples > size + overhang else 1


def _step(size: int, overlap: float) -> int:
    return max(1, round(size * (1 - overlap)))


class WindowCutter:
    """The windows of `split_windows` for a waveform that comes block by block, as soon as each is complete.

    Keeps the samples of less than two windows and a block.
    """

    def __init__(self, size: int, overlap: float = 0.5, pause: int | None = None) -> None:
        self._size, self._step, self._overhang, self._pause = size, _step(size, overlap), size // 50, pause
        self._kept: NDArray[np.float32] = np.zeros(0, np.float32)
        self._first = 0  # index of the first sample that is kept
        self._next = 0  # index of the first sample of the next window
        self.samples = 0  # so far

    def add(self, block: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The windows that a block, (samples,), completes. To be iterated to its end before the next call."""
        self._kept = np.concatenate([self._kept, block])
        self.samples += len(block)
        # A window is not the last one if the sound has more than an overhang behind it.
        while self.samples > self._next + self._size + self._overhang:
            yield self._next, self._window(self._next)
            self._next += self._step
        # The last window may begin anywhere behind the one before.
        unused = min(max(self._next - self._step, 0), self.samples) - self._first
        self._kept, self._first = self._kept[unused:], self._first + unused

    def finish(self) -> tuple[int, NDArray[np.float32]]:
        """The last window, after the last block."""
        if self.samples <= self._size + self._overhang:
            ((start, window),) = split_windows(self._kept, self._size, pause=self._pause)
            return start, window
        last = self.samples - self._size
        return last, self._window(last)

    def _window(self, start: int) -> NDArray[np.float32]:
        at = start - self._first
        return self._kept[at : at + self._size]


def envelope(waveform: NDArray[np.float32], buckets: int = WAVEFORM_BUCKETS) -> Array:
    """(samples,) -> (2, buckets): minimum and maximum of that many equal parts, so that no peak is lost.

    A sound with fewer samples than buckets has one bucket per sample.
    """
    buckets = min(buckets, len(waveform))
    edges = np.linspace(0, len(waveform), buckets, endpoint=False).astype(np.int64)
    return _half(np.stack([np.minimum.reduceat(waveform, edges), np.maximum.reduceat(waveform, edges)]))


class EnvelopeMeter:
    """The envelope of a waveform that comes block by block; each bucket ends within 256 samples of its place."""

    def __init__(self) -> None:
        self._extremes: list[NDArray[np.float32]] = []  # each (2, steps)
        self._rest: NDArray[np.float32] = np.zeros(0, np.float32)  # samples of an unfinished step

    def add(self, block: NDArray[np.float32]) -> None:
        """The next samples, (samples,)."""
        joined = np.concatenate([self._rest, block])
        whole = len(joined) // _STEP * _STEP
        steps = joined[:whole].reshape(-1, _STEP)
        self._extremes.append(np.stack([steps.min(axis=1), steps.max(axis=1)]))
        self._rest = joined[whole:].copy()

    def envelope(self, buckets: int = WAVEFORM_BUCKETS) -> Array:
        """(2, buckets), or one bucket for each 256 samples of a shorter sound."""
        last = [np.array([[self._rest.min()], [self._rest.max()]])] if self._rest.size else []
        low, high = np.concatenate([*self._extremes, *last], axis=1)
        buckets = min(buckets, len(low))
        edges = np.linspace(0, len(low), buckets, endpoint=False).astype(np.int64)
        return _half(np.stack([np.minimum.reduceat(low, edges), np.maximum.reduceat(high, edges)]))


def _half(extremes: NDArray[np.float32]) -> Array:
    largest = np.finfo(np.float16).max  # samples of a file of floats are not limited to -1..1
    return extremes.clip(-largest, largest).astype(np.float16)
