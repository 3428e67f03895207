"""Waveforms of any rate, one behind another, at one rate. soxr is imported at the first use."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]  # (samples,)


class Resampler:
    """Waveforms of any rate, one behind another, at one rate."""

    def __init__(self, rate: int) -> None:
        self._rate, self._from = rate, rate
        self._stream: Any = None  # of soxr; None where there is nothing to resample

    def add(self, rate: int, mono: Waveform) -> Iterator[Waveform]:
        import soxr

        if rate != self._from:
            yield from self.finish()
            self._from = rate
            same = rate == self._rate
            self._stream = None if same else soxr.ResampleStream(rate, self._rate, 1, dtype="float32")
        yield mono if self._stream is None else self._stream.resample_chunk(mono)

    def finish(self) -> Iterator[Waveform]:
        """The end of the sound so far."""
        if self._stream is not None:
            yield self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
            self._stream = None
