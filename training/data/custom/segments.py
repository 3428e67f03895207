"""How a decoded sound becomes pieces of one length, and which of them are silence."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.audio.decode import Waveform

Int16Samples = NDArray[np.int16]

SILENCE_DBFS = -60.0  # dBFS; 0.1 s with a lower RMS count as silence
FULL_SCALE = 32_768  # int16 samples over this are in -1..1

_BLOCK_SECONDS = 0.1  # seconds over which loudness is measured
_MIN_POWER = 1e-10  # power that counts as none


@dataclass(frozen=True)
class Segment:
    """A row of `waves.npy`: `seconds` from `start_seconds` of a file on, and zeros behind them."""

    file: str  # as in items.csv
    start_seconds: float
    seconds: float
    label: str
    source: str


def segment_slices(samples: int, window: int, overlap: float = 0.0) -> Iterator[slice]:
    """Windows of that many samples; the last may be shorter.

    The first is always there, however short the sound. What lies behind the last whole window is kept when it is at
    least half a window of something that no other window has.
    """
    step = max(round(window * (1 - overlap)), 1)
    last_start = max(samples - window, 0) // step * step  # where the last whole window begins, or the only one
    for start in range(0, last_start + 1, step):
        yield slice(start, min(start + window, samples))
    if 2 * (samples - last_start - window) >= window:
        yield slice(last_start + step, samples)


def rms_dbfs(waveform: Waveform, rate: int) -> NDArray[np.float64]:
    """RMS of each 0.1 s in dBFS, where a square wave of full scale has 0 and a sine -3."""
    block = max(round(_BLOCK_SECONDS * rate), 1)
    whole = len(waveform) // block * block
    parts = [waveform[:whole].reshape(-1, block)] if whole else []
    if len(waveform) > whole:
        parts.append(waveform[whole:][None])
    power = np.concatenate([np.square(part, dtype=np.float64).mean(axis=1) for part in parts])
    return np.asarray(10 * np.log10(np.maximum(power, _MIN_POWER)))


def to_int16(waveform: Waveform) -> Int16Samples:
    """A sound above full scale is turned down to it as a whole, since cutting off its peaks would distort it."""
    peak = max(float(np.abs(waveform).max(initial=0.0)), 1.0)
    scaled = np.rint(waveform * np.float32(FULL_SCALE / peak))
    samples: Int16Samples = np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    return samples
