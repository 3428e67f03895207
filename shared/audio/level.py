"""The level of a sound: how loud it is, whether it was clipped, and which part of the spectrum it uses.

Levels are in dBFS: 0 dBFS is full scale, so that a full-scale square wave has an RMS of 0 dBFS and a full-scale sine
one of -3 dBFS. Digital silence has no level; it is None in results.

What is heard is measured over frames of 0.1 s, each without the mean of its 20 ms blocks: an offset and rumble far
below 50 Hz are neither heard nor seen by a mel filter bank.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from otoscope.results import Level

Samples = NDArray[np.float32]

BLOCK_SECONDS = 0.02
FRAME_BLOCKS = 5  # a frame is 0.1 s; frames start at every block
FRAME_SECONDS = BLOCK_SECONDS * FRAME_BLOCKS
SILENCE_DB = -200.0  # dBFS, of a frame of zeros

CLIPPED_SAMPLE = 0.9998  # of full scale: the largest sample of 16 bits is 0.99997, of 12 bits 0.9995
CLIPPED_SHARE = 1e-3
"""More clipped samples than that are a warning: a single one is not heard, a thousandth of them is."""
DC_OFFSET = 0.01  # of full scale
"""A larger offset is removed, and is a warning. A smaller one is below -40 dBFS."""
QUIET_DBFS = -40.0
"""A sound whose loudest frame is below that is a warning."""
CANCELLED_DB = -13.0
"""Channels cancel if their mean has less than this, relative to the louder channel."""

_BANDWIDTH_FFT = 1_024
_BANDWIDTH_FRAMES = 32  # at most, spread over the sound
_BANDWIDTH_RANGE_DB = 75.0  # below the strongest band: where a sound ends and the rest of a codec's filter begins
_BANDWIDTH_KAISER = 12.0  # of the window: side lobes below the range
_BANDWIDTH_FLOOR_DB = -118.0  # dBFS per bin: above the rounding of 16 bits


def decibels(power: float) -> float | None:
    """dBFS of a mean square; None for zero."""
    return 10 * math.log10(power) if power > 0 else None


class LevelMeter:
    """Measures a sound block by block, before it is mixed to mono and resampled."""

    def __init__(self) -> None:
        self._samples, self._clipped = 0, 0
        self.peak = 0.0  # of full scale, of the samples as they are in the file
        self._sums: NDArray[np.float64] = np.zeros(0)
        self._squares: NDArray[np.float64] = np.zeros(0)
        self._mono_sum, self._mono_square = 0.0, 0.0

    def add(self, block: Samples, mono: Samples, peak: float) -> None:
        """`block` (frames, channels), its mono mix (frames,) and its `peak_of`."""
        if not self._sums.size:
            self._sums, self._squares = np.zeros(block.shape[1]), np.zeros(block.shape[1])
        self._samples += len(block)
        if peak >= CLIPPED_SAMPLE:
            self._clipped += int(np.count_nonzero(np.abs(block) >= CLIPPED_SAMPLE))
        self.peak = max(self.peak, peak)
        for channel, samples in enumerate(block.T):
            self._sums[channel] += samples.sum()
            self._squares[channel] += np.dot(samples, samples)
        if block.shape[1] > 1:
            self._mono_sum += float(mono.sum())
            self._mono_square += float(np.dot(mono, mono))

    @property
    def channels_cancel(self) -> bool:
        """Whether the mean of the channels loses nearly everything that the louder channel has; of neither the offset
        counts."""
        if self._squares.size < 2:
            return False
        loudest = float(self._varying.max())
        mono = self._mono_square - self._mono_sum**2 / max(self._samples, 1)
        # What rounding leaves of a constant is nothing.
        return loudest > 1e-6 * float(self._squares.max()) and mono < loudest * 10 ** (CANCELLED_DB / 10)

    @property
    def loudest_channel(self) -> int:
        """Its index."""
        return int(self._varying.argmax())

    @property
    def _varying(self) -> NDArray[np.float64]:
        """(channels,): sums of squares without the offset of each channel."""
        return self._squares - self._sums**2 / max(self._samples, 1)

    def level(self, bandwidth: float | None, scale: float = 1.0) -> Level:
        """The level of what was added so far; `bandwidth` is that of its mono mix, and `scale` the factor by which its
        samples were changed."""
        count = max(self._samples, 1)
        power = float(self._squares.mean()) / count * scale**2 if self._squares.size else 0.0
        peak = self.peak * scale
        offset = float(self._sums.mean()) / count * scale if self._sums.size else 0.0
        return Level(
            peak_dbfs=_rounded(decibels(peak**2)),
            rms_dbfs=_rounded(decibels(power)),
            clipped=round(self._clipped / (count * max(self._squares.size, 1)), 6) if scale == 1.0 else 0.0,
            dc_offset=round(offset, 6),
            bandwidth=bandwidth,
        )


def level_of(samples: Samples) -> Level:
    """The level of a part of a mono waveform, (samples,); without its bandwidth."""
    peak = peak_of(samples)
    power = float(np.dot(samples, samples)) / max(len(samples), 1)
    clipped = np.count_nonzero(np.abs(samples) >= CLIPPED_SAMPLE) / len(samples) if peak >= CLIPPED_SAMPLE else 0.0
    return Level(_rounded(decibels(peak**2)), _rounded(decibels(power)), round(clipped, 6), 0.0, None)


class FrameLevels:
    """`frame_levels` of a sound that comes block by block: of every length it keeps 50 numbers a second."""

    def __init__(self, rate: int) -> None:
        self._size = max(1, round(rate * BLOCK_SECONDS))
        self._powers: list[NDArray[np.float64]] = []
        self._rest: Samples = np.zeros(0, np.float32)  # samples of an unfinished block

    def add(self, samples: Samples) -> None:
        """The next samples, (samples,)."""
        joined = np.concatenate([self._rest, samples]) if self._rest.size else samples
        whole = len(joined) // self._size * self._size
        if whole:
            self._powers.append(_block_powers(joined[:whole], self._size))
        self._rest = joined[whole:].copy()  # a view would keep the whole block in memory

    def levels(self) -> NDArray[np.float64]:
        """(frames,): dBFS of each 0.1 s, one every 20 ms. A sound shorter than that has one frame."""
        powers = np.concatenate(self._powers) if self._powers else _block_powers(self._rest, self._size)
        width = min(FRAME_BLOCKS, len(powers))
        # Not the difference of cumulated sums: in a loud sound of hours their rounding is louder than a quiet frame.
        count = len(powers) - width + 1
        frames = powers[:count].copy()
        for offset in range(1, width):
            frames += powers[offset : offset + count]
        frames /= width
        levels: NDArray[np.float64] = 10 * np.log10(np.maximum(frames, 10 ** (SILENCE_DB / 10)))
        return levels


def frame_levels(samples: Samples, rate: int) -> NDArray[np.float64]:
    """(samples,) -> (frames,): the level of each 0.1 s in dBFS, one every 20 ms. A shorter sound has one frame."""
    frames = FrameLevels(rate)
    frames.add(samples)
    return frames.levels()


def _block_powers(samples: Samples, size: int) -> NDArray[np.float64]:
    """(blocks,): mean square of each block around its own mean."""
    whole = len(samples) // size
    blocks = samples[: whole * size].reshape(whole, size) if whole else samples.reshape(1, -1)
    means = np.einsum("ij->i", blocks).astype(np.float64) / blocks.shape[1]
    powers = _mean_squares(blocks)
    constant = means**2
    # Without a copy of the sound. Where the mean has nearly all of the power, the difference would be rounding.
    shifted = constant > 0.99 * powers
    powers -= constant
    if shifted.any():
        centred = _mean_squares(blocks[shifted] - means[shifted, None].astype(np.float32))
        # What is left of a constant by rounding is nothing: float32 has 24 bits.
        centred[centred < constant[shifted] * 1e-12] = 0.0
        powers[shifted] = centred
    return powers


def _mean_squares(blocks: Samples) -> NDArray[np.float64]:
    """(blocks, samples) -> (blocks,)."""
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", blocks, blocks).astype(np.float64)
    squares /= blocks.shape[1]
    return squares


def bandwidth(waveform: Samples, rate: int) -> float | None:
    """The highest frequency in Hz that a waveform (samples,) uses; None if it uses none."""
    return bandwidth_of_frames(spread_frames(waveform), rate)


def spread_frames(waveform: Samples, most: int = _BANDWIDTH_FRAMES) -> Samples:
    """(frames, samples): at most so many stretches for `bandwidth_of_frames`, evenly spread over a waveform."""
    size = min(_BANDWIDTH_FFT, len(waveform))
    count = min(most, max(1, len(waveform) // max(size, 1)))
    starts = np.arange(count) * (len(waveform) - size) // max(count - 1, 1)
    return np.lib.stride_tricks.sliding_window_view(waveform, size)[starts]


def bandwidth_of_frames(frames: Samples, rate: int) -> float | None:
    """The highest frequency in Hz that stretches (frames, samples) of a waveform use; None if they use none.

    That is the upper edge of the highest band of the mean power spectrum that is at most 75 dB below the strongest one.
    A file that was made from 8 kHz has 4 kHz, whatever its rate is now; one that was encoded as MP3 the codec's limit.
    """
    size = frames.shape[1]
    if size < 16:
        return None
    centred = frames - frames.mean(axis=1, keepdims=True)  # an offset leaks into the lowest bins
    spectrum = np.fft.rfft(centred * _kaiser(size), axis=1)  # (frames, bins)
    parts = spectrum.view(spectrum.real.dtype)  # (frames, 2 * bins)
    squares = np.einsum("ij,ij->j", parts, parts)
    powers = (squares[::2] + squares[1::2]) * (4 / size**2 / len(frames))  # (bins,)
    usable = powers[1:]  # without the constant
    if not usable.size or usable.max() <= 0:
        return None
    levels = 10 * np.log10(np.maximum(usable, 1e-30))
    used = np.flatnonzero(levels >= max(levels.max() - _BANDWIDTH_RANGE_DB, _BANDWIDTH_FLOOR_DB))
    return round(min(float(used[-1] + 2) * rate / size, rate / 2), 1) if used.size else None


@lru_cache(maxsize=4)
def _kaiser(size: int) -> Samples:
    """(size,): the analysis window."""
    return np.kaiser(size, _BANDWIDTH_KAISER).astype(np.float32)


def full_scale(peak: float) -> float:
    """What a file of floats takes for full scale, by its largest sample: 1, or the range of 16, 24 or 32 bits.

    Programs that write integers as floats without dividing them leave samples of tens of thousands. A peak of a few
    times full scale is what mixing leaves, and stays.
    """
    if peak <= 8.0:
        return 1.0
    return next((scale for scale in (2.0**15, 2.0**23) if peak <= scale * 1.001), 2.0**31)


def peak_of(samples: Samples) -> float:
    """The largest magnitude, or NaN if one is NaN; without an array of magnitudes."""
    return max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
