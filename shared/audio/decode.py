"""`probe()` and `decode()`: sound files in memory, under limits.

The gateway calls `probe`: it reads headers only and needs no native code. `decode` turns a file into mono float32 at
the rate that a model requires. It runs in the worker's decode processes, which a hostile file may crash, and in the
trainer, so that there is a single implementation from file to waveform.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otoscope.errors import (
    AudioChannels,
    AudioCorrupt,
    AudioEmpty,
    AudioNotFinite,
    AudioRate,
    AudioTooLong,
    AudioTooShort,
    AudioTruncated,
    AudioUnsupported,
)
from otoscope.results import Level, SoundWarning
from shared.audio.decoders import Block, open_blocks
from shared.audio.formats import BY_NAME, Decoder, describe_formats, identify, read_header
from shared.audio.headers import Header
from shared.audio.level import CLIPPED_SHARE, DC_OFFSET, LevelMeter, full_scale
from shared.audio.limits import AudioLimits

Waveform = NDArray[np.float32]

_TOLERANCE = 0.5  # seconds above the limit that are accepted: codecs pad sounds that were cut to its length
_MIN_DECODED = 0.5  # share of the announced samples that a lossy codec must yield; players skip damaged parts, too
_MAX_PLAIN = 4 * 2**20  # bytes of uncompressed sound that are decoded in a few milliseconds
_MAX_PEAK = 2.0**32  # full scale is 1; integers of 32 bits that are stored as floats are below this
_NARROW = 0.55  # of the model's band: telephones and some recorders use less
_BAND_PEAK_DBFS = -30.0  # of a quieter sound the upper frequencies may lie below the rounding of 16 bits
_ULTRASONIC = 5  # times the model's rate: recorders for bats, 192 kHz and more


def probe(data: bytes, limits: AudioLimits | None = None) -> Header:
    """Check a file by its header, and return the header. Raises an AudioError: what was found and what is accepted."""
    limits = limits or AudioLimits()
    if not data:
        raise AudioEmpty(f"The upload is empty. Accepted: {describe_formats(limits.formats)}.")
    header = read_header(data, limits.formats)
    found = BY_NAME[header.container]
    if header.container not in limits.formats:
        missing = found.package
        why = f"the decoder lacks the optional package {missing.name} ({missing.docs})" if missing else "it is disabled"
        accepted = describe_formats(limits.formats)
        raise AudioUnsupported(f"{header.container} is not accepted here: {why}. Accepted: {accepted}.")
    if not found.vague_header:
        _check(header, limits)
    elif header.frames is not None:
        _check_length(header.frames, header.rate, limits)
    return header


def _check(header: Header, limits: AudioLimits) -> None:
    if not 1 <= header.channels <= limits.max_channels:
        raise AudioChannels(f"The file has {header.channels} channels; 1 to {limits.max_channels} are accepted.")
    if not limits.min_rate <= header.rate <= limits.max_rate:
        raise AudioRate(
            f"The file's sample rate is {header.rate:,} Hz; {limits.min_rate:,} to {limits.max_rate:,} are accepted."
        )
    if header.frames is not None:
        _check_length(header.frames, header.rate, limits)


def _check_length(frames: int, rate: int, limits: AudioLimits) -> None:
    if frames == 0:
        raise AudioEmpty("The file holds no samples.")
    seconds = frames / rate
    if seconds < limits.min_seconds:
        raise AudioTooShort(
            f"The sound lasts {seconds * 1_000:.3g} ms; at least {limits.min_seconds * 1_000:g} ms are needed."
        )
    if seconds > limits.max_seconds + _TOLERANCE:
        raise AudioTooLong(f"The sound lasts {seconds:,.1f} s; at most {limits.max_seconds:g} s are accepted.")


@dataclass(frozen=True)
class Decoded:
    """A decoded file: mono samples at `rate`, full scale -1..1, and properties of the file."""

    waveform: Waveform  # (samples,)
    rate: int  # Hz, that of the waveform
    source_rate: int  # Hz, that of the file
    channels: int
    container: str
    level: Level  # of the file: before its samples were changed for one of the warnings
    warnings: tuple[SoundWarning, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.rate


def decode(data: bytes, rate: int, limits: AudioLimits | None = None) -> Decoded:
    """Decode to mono (mean of the channels) at `rate` Hz with soxr's high-quality filter.

    If the channels cancel each other, the loudest is used instead of their mean; a constant offset is removed; floats
    in the range of integers are scaled to full scale. Each of these is a warning. Reads block by block and stops at the
    limit, so that memory depends on the limits and not on the file. Raises an AudioError.
    """
    limits = limits or AudioLimits()
    waveform, header, meter = _read(data, rate, limits)
    warnings: list[SoundWarning] = []
    if meter.channels_cancel:
        channel = meter.loudest_channel
        waveform, header, _ = _read(data, rate, limits, channel)
        detail = f"The {header.channels} channels cancel each other; channel {channel + 1}, the loudest, was used."
        warnings.append(SoundWarning("channels_cancel", detail))
    scale = 1 / full_scale(meter.peak)
    level = meter.level(waveform, rate, scale)
    if scale != 1.0:
        waveform = waveform * np.float32(scale)
        detail = f"Samples as large as {meter.peak:.6g}, where full scale is 1: they were divided by {1 / scale:,.0f}."
        warnings.append(SoundWarning("beyond_full_scale", detail))
    elif meter.peak > 1.0 and BY_NAME[header.container].exact_length:  # lossy codecs overshoot
        detail = f"Samples as large as {meter.peak:.3g}, where full scale is 1."
        warnings.append(SoundWarning("beyond_full_scale", detail))
    if abs(level.dc_offset) > DC_OFFSET:
        waveform = waveform - np.float32(waveform.mean(dtype=np.float64))
        detail = f"A constant offset of {level.dc_offset:.3g} of full scale was removed."
        warnings.append(SoundWarning("dc_offset", detail))
    if level.clipped > CLIPPED_SHARE:
        detail = f"{level.clipped:.2%} of the samples are at full scale: the recording was too loud."
        warnings.append(SoundWarning("clipped", detail))
    loud_enough = level.peak_dbfs is not None and level.peak_dbfs > _BAND_PEAK_DBFS
    warnings += _band_warnings(header.rate, rate, level.bandwidth if loud_enough else None)
    return Decoded(waveform, rate, header.rate, header.channels, header.container, level, tuple(warnings))


def _band_warnings(source_rate: int, rate: int, bandwidth: float | None) -> list[SoundWarning]:
    """Whether the sound has less than a model at `rate` Hz listens to, or far more."""
    if source_rate < rate * 0.99:
        detail = f"The file's sample rate is {source_rate:,} Hz; the model listens at {rate:,} Hz."
        return [SoundWarning("resampled_up", detail)]
    if source_rate >= _ULTRASONIC * rate:
        detail = f"The file has frequencies up to {source_rate // 2:,} Hz; the model listens up to {rate // 2:,} Hz."
        return [SoundWarning("narrow_band", detail)]
    if bandwidth is not None and bandwidth < _NARROW * rate / 2:
        detail = f"The sound has nothing above {bandwidth:,.0f} Hz; the model listens up to {rate // 2:,} Hz."
        return [SoundWarning("narrow_band", detail)]
    return []


def _read(
    data: bytes, rate: int, limits: AudioLimits, channel: int | None = None
) -> tuple[Waveform, Header, LevelMeter]:
    """The mean of the channels, or one channel, at `rate` Hz; the header, and the level of all channels."""
    import soxr

    claimed = probe(data, limits)
    header, blocks = open_blocks(data, claimed)
    _check(header, limits)
    budget = int((limits.max_seconds + _TOLERANCE) * header.rate)
    resampler = soxr.ResampleStream(header.rate, rate, 1, dtype="float32") if header.rate != rate else None
    parts: list[Waveform] = []
    meter = LevelMeter()
    frames = 0
    for block in blocks:
        frames += len(block)
        if frames > budget:
            raise AudioTooLong(f"The sound lasts more than the {limits.max_seconds:g} s that are accepted.")
        mono = _mono(block) if channel is None else block[:, channel]
        meter.add(block, mono)
        parts.append(resampler.resample_chunk(mono) if resampler else mono)
    if resampler:
        parts.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    if header.frames is not None:
        needed = header.frames * (1 if BY_NAME[header.container].exact_length else _MIN_DECODED)
        if frames < needed:
            raise AudioTruncated(
                f"The {header.container} file announces {header.frames:,} samples a channel;"
                f" only {frames:,} can be decoded."
            )
    _check_length(frames, header.rate, limits)
    return np.concatenate(parts), header, meter


def is_plain(data: bytes, rate: int) -> bool:
    """Whether `decode` would only convert samples to float: uncompressed, at this rate, and short enough to be quick.

    Then no native code parses the file, and decoding it in place is cheaper than sending it to a decode process. Only a
    file that has the magic bytes of an uncompressed format is parsed: reading an MP3's header means to walk all of its
    frames, under the interpreter lock. Raises an AudioError for a broken file of an uncompressed format.
    """
    if len(data) > _MAX_PLAIN:
        return False
    found, _ = identify(data, only=Decoder.PCM)
    return found is not None and read_header(data).rate == rate


def _mono(block: Block) -> Waveform:
    """Raises AudioNotFinite or AudioCorrupt."""
    peak = np.abs(block).max()  # NaN and infinity come through
    if not np.isfinite(peak):
        raise AudioNotFinite("The sound has samples that are NaN or infinite; all must be finite.")
    if peak > _MAX_PEAK:
        raise AudioCorrupt(f"The sound has samples as large as {peak:.3g}, where full scale is 1.")
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
