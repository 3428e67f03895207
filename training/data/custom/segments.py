"""Cuts decoded sounds into segments of one length, and measures which of them are silent."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.audio.decode import Waveform

Int16Samples = NDArray[np.int16]

SILENCE_DBFS = -60.0  # blocks of 0.1 s with a lower RMS level are silent
FULL_SCALE = 32_768  # divisor that maps int16 samples to -1..1

_BLOCK_SECONDS = 0.1  # block length of the level measurement
_MIN_POWER = 1e-10  # lower bound that avoids log10(0)


@dataclass(frozen=True)
class Segment:
    """A row of `waveforms.npy`: `seconds` of a file from `start_seconds` on, zero-padded."""

    file: str  # as in items.csv
    start_seconds: float
    seconds: float
    label: str
    source: str


def segment_slices(samples: int, window: int, overlap: float = 0.0) -> Iterator[slice]:
    """Slices of `window` samples with the given overlap (0 to less than 1); the last one may be shorter.

    The first slice always exists, however short the sound is. The rest behind the last whole window is kept if it has
    at least half a window of new samples.
    """
    step = max(round(window * (1 - overlap)), 1)
    last_start = max(samples - window, 0) // step * step  # start of the last whole window, or of the only one
    for start in range(0, last_start + 1, step):
        yield slice(start, min(start + window, samples))
    if 2 * (samples - last_start - window) >= window:
        yield slice(last_start + step, samples)


def rms_dbfs(waveform: Waveform, rate: int) -> NDArray[np.float64]:
    """RMS level of each block of 0.1 s (blocks,), in dB relative to a full-scale square wave; a sine of full scale has
    -3 dB."""
    block = max(round(_BLOCK_SECONDS * rate), 1)
    whole = len(waveform) // block * block
    parts = [waveform[:whole].reshape(-1, block)] if whole else []
    if len(waveform) > whole:
        parts.append(waveform[whole:][None])
    power = np.concatenate([np.square(part, dtype=np.float64).mean(axis=1) for part in parts])
    return np.asarray(10 * np.log10(np.maximum(power, _MIN_POWER)))


def cut_spans(blocks: Iterable[Waveform], spans: Iterable[slice]) -> Iterator[tuple[slice, Waveform]]:
    """The samples of each span of a waveform that comes block by block; spans in order of their starts.

    Keeps the samples of a span and a block.
    """
    source = iter(blocks)
    kept: Waveform = np.zeros(0, np.float32)
    first = 0  # index of the first sample that is kept
    for span in spans:
        while first + len(kept) < span.stop and (block := next(source, None)) is not None:
            unused = min(max(span.start - first, 0), len(kept))
            kept, first = np.concatenate([kept[unused:], block]), first + unused
        yield span, kept[span.start - first : span.stop - first]


def to_int16(waveform: Waveform, peak: float | None = None) -> Int16Samples:
    """Quantise a waveform to int16. A sound above full scale is attenuated as a whole: clipping would distort it.

    `peak` is the largest magnitude of the whole sound; by default that of the waveform.
    """
    peak = max(float(np.abs(waveform).max(initial=0.0)) if peak is None else peak, 1.0)
    scaled = np.rint(waveform * np.float32(FULL_SCALE / peak))
    samples: Int16Samples = np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    return samples
