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
from shared.audio.decoders import Block, open_blocks
from shared.audio.formats import BY_NAME, Decoder, describe_formats, identify, read_header
from shared.audio.headers import Header
from shared.audio.limits import AudioLimits

Waveform = NDArray[np.float32]

_TOLERANCE = 0.5  # seconds above the limit that are accepted: codecs pad sounds that were cut to its length
_MIN_DECODED = 0.5  # share of the announced samples that a lossy codec must yield; players skip damaged parts, too
_MAX_PLAIN = 4 * 2**20  # bytes of uncompressed sound that are decoded in a few milliseconds
_MAX_PEAK = 2.0**32  # full scale is 1; integers stored as floats are far above it and still accepted


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

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.rate


def decode(data: bytes, rate: int, limits: AudioLimits | None = None) -> Decoded:
    """Decode to mono (mean of the channels) at `rate` Hz with soxr's high-quality filter.

    Reads block by block and stops at the limit, so that memory depends on the limits and not on the file. Raises an
    AudioError.
    """
    import soxr

    limits = limits or AudioLimits()
    claimed = probe(data, limits)
    header, blocks = open_blocks(data, claimed)
    _check(header, limits)
    budget = int((limits.max_seconds + _TOLERANCE) * header.rate)
    resampler = soxr.ResampleStream(header.rate, rate, 1, dtype="float32") if header.rate != rate else None
    parts: list[Waveform] = []
    frames = 0
    for block in blocks:
        frames += len(block)
        if frames > budget:
            raise AudioTooLong(f"The sound lasts more than the {limits.max_seconds:g} s that are accepted.")
        mono = _mono(block)
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
    return Decoded(np.concatenate(parts), rate, header.rate, header.channels, header.container)


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
