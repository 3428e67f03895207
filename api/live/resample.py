"""Resampling of a sound that arrives block by block, in numpy: the gateway runs no native decoder.

Each sample is resampled once. In the worker it would be resampled with every window that contains it, ten times for
windows of 5 s that begin every 0.5 s.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

_CROSSINGS = 16  # zero crossings of the sinc on each side of a sample, at the lower of the two rates
_KAISER = 8.0  # side lobes at -80 dB
_PASSED = 0.94  # share of the band of the lower rate: the rest is the filter's transition


class Resampler:
    """From `source` to `target` Hz by a polyphase filter, whose delay is compensated."""

    def __init__(self, source: int, target: int) -> None:
        common = math.gcd(source, target)
        self._up, self._down = target // common, source // common
        self._filters = _filters(self._up, self._down)
        self._reach = self._filters.shape[1] // 2
        # Zeros in front of the first sample; `_next` counts output samples, `_first` is the input sample of `_kept[0]`.
        self._kept: Samples = np.zeros(self._reach, np.float32)
        self._first, self._next = -self._reach, 0

    def add(self, samples: Samples) -> Samples:
        """(samples,) -> (resampled,): what is complete with them; the last millisecond follows with the next block."""
        if self._up == self._down:
            return samples
        kept = np.concatenate([self._kept, samples])
        width = self._filters.shape[1]
        # An output sample lies between two input samples, of which the filter needs `reach` on each side.
        last = self._first + len(kept) - self._reach - 1  # the latest left neighbour that has all of them
        stop = max(self._next, (last * self._up + self._up - 1) // self._down + 1)
        positions = np.arange(self._next, stop, dtype=np.int64) * self._down
        begins, phases = positions // self._up - self._reach + 1 - self._first, positions % self._up
        windows = np.lib.stride_tricks.sliding_window_view(kept, width)[begins] if len(begins) else kept[:0]
        resampled = np.einsum("ij,ij->i", windows, self._filters[phases]) if len(begins) else windows
        self._next = stop
        unused = max(0, stop * self._down // self._up - self._reach + 1 - self._first)
        self._kept, self._first = kept[unused:].copy(), self._first + unused
        return resampled.astype(np.float32, copy=False)


@lru_cache(maxsize=32)
def _filters(up: int, down: int) -> Samples:
    """(up, taps): a windowed sinc for each place that an output sample can have between two input samples."""
    cutoff = _PASSED * min(1.0, up / down)  # of the band of the input
    reach = math.ceil(_CROSSINGS * max(1.0, down / up))
    offsets = np.arange(-reach + 1, reach + 1)[None, :] - np.arange(up)[:, None] / up  # (up, taps), in input samples
    window = np.i0(_KAISER * np.sqrt(np.clip(1 - (offsets / reach) ** 2, 0, 1))) / np.i0(_KAISER)
    filters = cutoff * np.sinc(cutoff * offsets) * window
    filters /= filters.sum(axis=1, keepdims=True)  # a constant stays as it is
    return filters.astype(np.float32)
