"""`probe()` and `decode()`: sound files in memory, under limits.

`probe` is what the gateway calls: it reads headers only and needs no native code. `decode` turns the bytes into mono
float32 at the rate a model asks for; it runs in the worker's expendable decode processes and in the trainer, so that
there is one way from a file to a waveform.
"""

import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.containers import ACCEPTED, Header, read_header
from shared.errors import (
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

Waveform = NDArray[np.float32]

_BLOCK = 65_536  # frames decoded at a time: what bounds memory, whatever the file claims


@dataclass(frozen=True)
class AudioLimits:
    """What is accepted. The bounds on the rate keep resampling from inflating a small file."""

    min_seconds: float = 0.05
    max_seconds: float = 600.0
    max_channels: int = 8
    min_rate: int = 4_000  # Hz
    max_rate: int = 192_000  # Hz


def aac_available() -> bool:
    """Whether M4A can be decoded: the optional PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def accepted_formats() -> str:
    """The accepted formats in words, for messages and the OpenAPI page."""
    return f"{ACCEPTED}, M4A" if aac_available() else ACCEPTED


def probe(data: bytes, limits: AudioLimits | None = None) -> Header:
    """Check a file by its header and return what it says of itself.

    Raises an AudioError that says what was found and what is accepted.
    """
    limits = limits or AudioLimits()
    if not data:
        raise AudioEmpty(f"The upload is empty. Accepted: {accepted_formats()}.")
    header = read_header(data)
    if header.container == "M4A":
        if not aac_available():
            raise AudioUnsupported(f"M4A needs the optional PyAV package on this server. Accepted: {ACCEPTED}.")
        return header
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
    if seconds > limits.max_seconds:
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
    header = probe(data, limits)
    blocks: Iterator[Waveform]
    if header.container == "M4A":
        header, blocks = _open_aac(data, limits)
    else:
        header, blocks = _open_sndfile(data, header, limits)
    budget = int(limits.max_seconds * header.rate)
    resampler = soxr.ResampleStream(header.rate, rate, 1, dtype="float32") if header.rate != rate else None
    parts: list[Waveform] = []
    frames = 0
    for block in blocks:
        frames += len(block)
        if frames > budget:
            raise AudioTooLong(f"The sound lasts more than the {limits.max_seconds:g} s that are accepted.")
        if not np.isfinite(block).all():
            raise AudioNotFinite("The sound has samples that are NaN or infinite; all must be finite.")
        parts.append(resampler.resample_chunk(block) if resampler else block)
    if resampler:
        parts.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    _check_length(frames, header.rate, limits)
    if header.frames is not None and header.container in ("FLAC", "WAV", "AIFF") and frames < header.frames:
        raise AudioTruncated(f"The header announces {header.frames:,} samples a channel; {frames:,} can be decoded.")
    return Decoded(np.concatenate(parts), rate, header.rate, header.channels, header.container)


def _open_sndfile(data: bytes, header: Header, limits: AudioLimits) -> tuple[Header, Iterator[Waveform]]:
    import soundfile

    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        raise AudioCorrupt(f"The {header.container} file cannot be opened: {error.error_string}") from error
    # What libsndfile will produce is what counts from here on.
    seen = Header(header.container, header.codec, file.samplerate, file.channels, header.frames)
    _check(seen, limits)

    def blocks() -> Iterator[Waveform]:
        with file:
            while True:
                try:
                    block = file.read(_BLOCK, dtype="float32", always_2d=True)  # (frames, channels)
                except soundfile.LibsndfileError as error:
                    message = f"The {header.container} file cannot be decoded: {error.error_string}"
                    raise AudioCorrupt(message) from error
                if not len(block):
                    return
                yield _mono(block)

    return seen, blocks()


def _mono(block: NDArray[np.float32]) -> Waveform:
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def _open_aac(data: bytes, limits: AudioLimits) -> tuple[Header, Iterator[Waveform]]:
    import av

    try:
        # Only these two: no playlists, no network protocols, no other demuxer may be talked into opening anything.
        container = av.open(io.BytesIO(data), format="mp4", options={"protocol_whitelist": ""})
        stream = container.streams.audio[0]
        codec: str = stream.codec_context.name
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise AudioCorrupt(f"The M4A file cannot be opened: {error}") from error
    if codec not in ("aac", "alac"):
        raise AudioUnsupported(f"M4A with codec {codec} is not accepted; AAC and ALAC are.")
    header = Header("M4A", codec.upper(), stream.rate or 0, stream.channels, None)
    _check(header, limits)

    def blocks() -> Iterator[Waveform]:
        to_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=header.rate)
        try:
            with container:
                for frame in container.decode(stream):
                    yield from _planes(to_float.resample(frame))
                yield from _planes(to_float.resample(None))
        except av.FFmpegError as error:
            raise AudioCorrupt(f"The M4A file cannot be decoded: {error}") from error

    return header, blocks()


def _planes(frames: list[Any]) -> Iterator[Waveform]:
    for frame in frames:
        yield frame.to_ndarray().mean(axis=0, dtype=np.float32)  # (channels, frames) -> (frames,)
