"""`probe()`, `decode()` and `SoundStream`: sound files in memory, under limits.

The gateway calls `probe`: it reads headers only and needs no native code. A `SoundStream` turns a file into mono
float32 at the rate that a model requires, block by block, and `decode` collects its blocks. They run in the worker's
decode processes, which a hostile file may crash, and in the trainer, so that there is a single implementation from file
to waveform.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

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
from shared.audio.level import (
    DC_OFFSET,
    LevelMeter,
    bandwidth_of_frames,
    full_scale,
    spread_frames,
)
from shared.audio.limits import HEAD_SECONDS, AudioLimits
from shared.audio.warnings import band_warnings, level_warnings

Waveform = NDArray[np.float32]

BLOCK_SAMPLES = 2**18  # of a block of a stream at most: 16 s at 16 kHz

_TOLERANCE = 0.5  # seconds above the limit that are accepted: codecs pad sounds that were cut to its length
_MIN_DECODED = 0.5  # share of the announced samples that a lossy codec must yield; players skip damaged parts, too
_MAX_PLAIN = 4 * 2**20  # bytes of uncompressed sound that are decoded in a few milliseconds
_MAX_PEAK = 2.0**32  # full scale is 1; integers of 32 bits that are stored as floats are below this


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


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """Properties of a decoded file."""

    rate: int  # Hz, that of the waveform
    source_rate: int  # Hz, that of the file
    channels: int
    container: str
    level: Level  # of the file: before its samples were changed for one of the warnings
    warnings: tuple[SoundWarning, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decoded(FileInfo):
    """A decoded file: mono samples at `rate`, full scale -1..1."""

    waveform: Waveform  # (samples,)

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.rate


class BlockStream(Protocol):
    """A file as blocks of mono samples, (samples,), that are decoded while they are iterated, once."""

    def __iter__(self) -> Iterator[Waveform]:
        """Raises an AudioError, also after the first block."""

    @property
    def info(self) -> FileInfo:
        """Known after the last block."""


def collect(stream: BlockStream) -> Decoded:
    """The whole sound of a stream. Raises an AudioError."""
    blocks = list(stream)
    waveform = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return Decoded(waveform=waveform, **vars(stream.info))


def decode(data: bytes, rate: int, limits: AudioLimits | None = None) -> Decoded:
    """The whole sound of `SoundStream`. Raises an AudioError."""
    return collect(SoundStream(data, rate, limits))


class SoundStream:
    """A file as mono (mean of the channels) at `rate` Hz with soxr's high-quality filter, block by block.

    If the channels cancel each other, the loudest is used instead of their mean; a constant offset is removed; floats
    in the range of integers are scaled to full scale. Each of these is a warning. They are decided on the first ten
    minutes, which are kept in memory until then; the level is that of the whole sound. Stops at the limit, so that
    memory and time depend on the limits and not on the file.
    """

    def __init__(self, data: bytes, rate: int, limits: AudioLimits | None = None) -> None:
        self._data, self._rate, self._limits = data, rate, limits or AudioLimits()
        self._info: FileInfo | None = None

    @property
    def info(self) -> FileInfo:
        """Known after the last block; RuntimeError before."""
        if self._info is None:
            raise RuntimeError("the file has not been decoded to its end")
        return self._info

    def __iter__(self) -> Iterator[Waveform]:
        """Blocks of at most BLOCK_SAMPLES. Raises an AudioError, also after the first block."""
        file = _Pass(self._data, self._rate, self._limits)
        head = file.read_head()
        warnings: list[SoundWarning] = []
        if file.meter.channels_cancel:
            channel = file.meter.loudest_channel
            file = _Pass(self._data, self._rate, self._limits, channel)
            head = file.read_head()
            detail = f"The {file.header.channels} channels cancel each other; channel {channel + 1}, the loudest,"
            warnings.append(SoundWarning("channels_cancel", f"{detail} was used."))
        frames = [spread_frames(head)]  # of which the bandwidth is measured
        scale = 1 / full_scale(file.meter.peak)
        if scale != 1.0:
            head = head * np.float32(scale)
        offset = file.meter.level(None, scale).dc_offset
        removed = np.float32(head.mean(dtype=np.float64) if abs(offset) > DC_OFFSET else 0.0)
        for block in _split(head):
            yield block - removed if removed else block
        del head
        for block in _cut(file.parts):
            if len(block) >= frames[0].shape[1]:
                frames.append(spread_frames(block, 1))
            if scale != 1.0:
                block = block * np.float32(scale)
            yield block - removed if removed else block
        level = file.meter.level(bandwidth_of_frames(np.concatenate(frames), self._rate), scale)
        warnings += level_warnings(file.header, level, file.meter.peak, scale, offset if removed else 0.0)
        warnings += band_warnings(file.header, level, self._rate)
        self._info = FileInfo(
            rate=self._rate,
            source_rate=file.header.rate,
            channels=file.header.channels,
            container=file.header.container,
            level=level,
            warnings=tuple(warnings),
        )


def _split(waveform: Waveform) -> Iterator[Waveform]:
    """Views of BLOCK_SAMPLES, the last one shorter."""
    return (waveform[at : at + BLOCK_SAMPLES] for at in range(0, len(waveform), BLOCK_SAMPLES))


def _cut(parts: Iterable[Waveform]) -> Iterator[Waveform]:
    """Parts of any length as blocks of BLOCK_SAMPLES, the last one shorter."""
    kept: list[Waveform] = []
    size = 0
    for part in parts:
        kept.append(part)
        size += len(part)
        if size >= BLOCK_SAMPLES:
            joined = np.concatenate(kept)
            whole = size // BLOCK_SAMPLES * BLOCK_SAMPLES
            yield from _split(joined[:whole])
            kept, size = [joined[whole:]], size - whole
    if size:
        yield np.concatenate(kept)


class _Pass:
    """One pass over a file: the mean of its channels, or one channel, at `rate` Hz. Raises an AudioError."""

    def __init__(self, data: bytes, rate: int, limits: AudioLimits, channel: int | None = None) -> None:
        claimed = probe(data, limits)
        self.header, self._blocks = open_blocks(data, claimed)
        _check(self.header, limits)
        self._rate, self._limits, self._channel = rate, limits, channel
        self._frames = 0  # decoded so far
        self.meter = LevelMeter()  # of all channels so far
        self.parts = self._decode()

    def read_head(self) -> Waveform:
        """The first ten minutes, or a bit more, or the whole of a shorter sound; `parts` are then those after it."""
        parts: list[Waveform] = []
        most = (HEAD_SECONDS + _TOLERANCE) * self.header.rate
        for part in self.parts:
            parts.append(part)
            if self._frames > most:
                break
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _decode(self) -> Iterator[Waveform]:
        import soxr

        header, limits = self.header, self._limits
        budget = int((limits.max_seconds + _TOLERANCE) * header.rate)
        resample = header.rate != self._rate
        resampler = soxr.ResampleStream(header.rate, self._rate, 1, dtype="float32") if resample else None
        for block in self._blocks:
            self._frames += len(block)
            if self._frames > budget:
                raise AudioTooLong(f"The sound lasts more than the {limits.max_seconds:g} s that are accepted.")
            mono = _mono(block) if self._channel is None else np.ascontiguousarray(block[:, self._channel])
            self.meter.add(block, mono)
            yield resampler.resample_chunk(mono) if resampler else mono
        if header.frames is not None:
            needed = header.frames * (1 if BY_NAME[header.container].exact_length else _MIN_DECODED)
            if self._frames < needed:
                raise AudioTruncated(
                    f"The {header.container} file announces {header.frames:,} samples a channel;"
                    f" only {self._frames:,} can be decoded."
                )
        _check_length(self._frames, header.rate, limits)
        if resampler:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


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
