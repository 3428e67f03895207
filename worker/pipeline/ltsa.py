"""The long-term spectral average: the spectrogram of a sound of any length in a bounded number of columns."""

import numpy as np
from numpy.typing import NDArray

from otoscope.results import LTSA_COLUMNS, Array

_LEAST = 1e-10  # power of what has no level in float16


class LtsaMeter:
    """Averages the spectrograms of the windows of a sound, which come in order; keeps that of one window.

    Where windows overlap, each counts up to the middle of the overlap: there the padding of the front end affects
    neither.
    """

    def __init__(self, hop: int, mels: int, columns: int = LTSA_COLUMNS) -> None:
        """`hop` in samples; `columns` is even."""
        self._hop, self._most = hop, columns
        self._power: NDArray[np.float64] = np.zeros((mels, columns))  # sums
        self._frames: NDArray[np.int64] = np.zeros(columns, np.int64)  # in each of these sums
        self._hops = 1  # that make a column
        self._next = 0  # index of the first frame of the sound that is not in the sums yet
        self._last = 0, np.zeros((mels, 0), np.float16)  # the window before: its first frame, and (mels, frames)

    def add(self, start: int, spectrogram: Array) -> None:
        """The next window: its first sample, and (mels, frames) in dB."""
        first = round(start / self._hop)
        begin, values = self._last
        self._take(begin, values, max((begin + values.shape[1] + first + 1) // 2, first))
        self._last = first, spectrogram

    def finish(self) -> Array:
        """(mels, columns) in dB, after the last window."""
        begin, values = self._last
        self._take(begin, values, begin + values.shape[1])
        columns = -(-self._next // self._hops)
        frames = self._frames[:columns]
        mean = self._power[:, :columns] / np.maximum(frames, 1)
        # Without overlap a front end that does not pad leaves a frame or two between windows.
        filled = np.maximum.accumulate(np.where(frames > 0, np.arange(columns), 0))
        average: Array = (10 * np.log10(np.maximum(mean[:, filled], _LEAST))).astype(np.float16)
        return average

    def _take(self, begin: int, values: Array, end: int) -> None:
        """Add the frames of a window, the first of which is the frame `begin` of the sound, from `_next` to `end`."""
        first = max(self._next, begin)
        taken = values[:, first - begin : end - begin]
        if not taken.shape[1]:
            return
        while first + taken.shape[1] > self._most * self._hops:
            self._halve()
        power = 10 ** (taken.astype(np.float64) / 10)
        column = (first + np.arange(taken.shape[1])) // self._hops
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        self._power[:, column[starts]] += np.add.reduceat(power, starts, axis=1)
        self._frames[column[starts]] += np.diff(starts, append=len(column))
        self._next = first + taken.shape[1]

    def _halve(self) -> None:
        """Join each two columns."""
        joined = self._power[:, ::2] + self._power[:, 1::2]
        self._power = np.pad(joined, ((0, 0), (0, self._most // 2)))
        self._frames = np.pad(self._frames[::2] + self._frames[1::2], (0, self._most // 2))
        self._hops *= 2
