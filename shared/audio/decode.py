"""`probe()` and `decode()`: sound files in memory, under limits.

`probe` is what the gateway calls: it reads headers only and needs no native code. `decode` turns the bytes into mono
float32 at the rate a model asks for; it runs in the worker's expendable decode processes and in the trainer, so that
there is one way from a file to a waveform.
"""

import importlib.util
from dataclasses import dataclass, field
from functools import cache

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
from shared.audio.headers import ACCEPTED, Header, read_header

Waveform = NDArray[np.float32]

_PADDING = 0.5  # seconds over the limit that are let pass: codecs pad sounds that were cut to measure
_ENOUGH = 0.5  # part of the announced samples that must come out of a lossy codec; players skip over damage too
_QUICK = 4 * 2**20  # bytes of uncompressed sound that are decoded in a few milliseconds
_LOUDEST = 2.0**32  # full scale is 1; integers stored as floats are far above it, and the network can still bear them


@cache
def aac_available() -> bool:
    """Whether M4A can be decoded here: the optional PyAV is installed."""
    return importlib.util.find_spec("av") is not None


@dataclass(frozen=True)
class AudioLimits:
    """What is accepted. The bounds on the rate keep resampling from inflating a small file."""

    min_seconds: float = 0.05
    max_seconds: float = 600.0
    max_channels: int = 8
    min_rate: int = 4_000  # Hz
    max_rate: int = 192_000  # Hz
    aac: bool = field(default_factory=lambda: aac_available())  # M4A; who only looks at headers needs no PyAV itself


def accepted_formats(aac: bool | None = None) -> str:
    """The accepted formats in words, for messages and the OpenAPI page; M4A where it can be decoded here, or `aac`."""
    return f"{ACCEPTED}, M4A" if aac or (aac is None and aac_available()) else ACCEPTED


def probe(data: bytes, limits: AudioLimits | None = None) -> Header:
    """Check a file by its header and return what it says of itself.

    Raises an AudioError that says what was found and what is accepted.
    """
    limits = limits or AudioLimits()
    if not data:
        raise AudioEmpty(f"The upload is empty. Accepted: {accepted_formats(limits.aac)}.")
    header = read_header(data, accepted_formats(limits.aac))
    if header.container == "M4A":
        if not limits.aac:
            raise AudioUnsupported(
                "M4A is not accepted here: what decodes lacks the optional package PyAV (docs/deployment.md#m4a)."
                f" Accepted: {ACCEPTED}."
            )
        if header.frames is not None:  # its header is often vague about rate and channels; decoding tells
            _check_length(header.frames, header.rate, limits)
    else:
        _check(header, limits)
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
    if seconds > limits.max_seconds + _PADDING:
        raise AudioTooLong(f"The sound lasts {seconds:,.1f} s; at most {limits.max_seconds:g} s are accepted.")


@dataclass(frozen=True)
class Decoded:
    """A decoded file: mono samples in -1..1 at `rate`, and what the file was."""

    waveform: Waveform  # (samples,)
    rate: int  # Hz, as asked for
    source_rate: int  # Hz, as in the file
    channels: int
    container: str

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.rate


def decode(data: bytes, rate: int, limits: AudioLimits | None = None) -> Decoded:
    """Decode to mono (mean of the channels) at `rate` Hz with soxr's high-quality filter.

    Reads block by block and stops at the sample budget, so that memory depends on the limits and not on the file.
    Raises an AudioError.
    """
    import soxr

    limits = limits or AudioLimits()
    claimed = probe(data, limits)
    header, blocks = open_blocks(data, claimed)
    _check(header, limits)
    budget = int((limits.max_seconds + _PADDING) * header.rate)
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
        needed = header.frames * (1 if header.container in ("WAV", "AIFF", "FLAC") else _ENOUGH)
        if frames < needed:
            raise AudioTruncated(
                f"The {header.container} file announces {header.frames:,} samples a channel;"
                f" only {frames:,} can be decoded."
            )
    _check_length(frames, header.rate, limits)
    return Decoded(np.concatenate(parts), rate, header.rate, header.channels, header.container)


def is_plain(data: bytes, rate: int) -> bool:
    """Whether `decode` would only turn numbers into floats: no native code meets the file, and it is over in no time.

    Raises an AudioError.
    """
    header = read_header(data, accepted_formats())
    return bool(header.sample) and header.rate == rate and len(data) <= _QUICK


def _mono(block: Block) -> Waveform:
    """Raises AudioNotFinite or AudioCorrupt."""
    peak = np.abs(block).max()  # NaN and infinity come through
    if not np.isfinite(peak):
        raise AudioNotFinite("The sound has samples that are NaN or infinite; all must be finite.")
    if peak > _LOUDEST:
        raise AudioCorrupt(f"The sound has samples as large as {peak:.3g}, where full scale is 1.")
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
