"""`decode()` and `SoundStream`: sound files in memory, under limits.

A `SoundStream` turns a file into mono
float32 at the rate that a model requires, block by block, and `decode` collects its blocks. They run in the worker's
decode processes, which a hostile file may crash, and in the trainer, so that there is a single implementation from file
to waveform.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from otoscope.errors import (
    AudioChannels,
    AudioCorrupt,
    AudioError,
    AudioNotFinite,
    AudioTooLong,
    AudioTruncated,
)
from otoscope.results import Level, SoundWarning
from shared.audio.decoders import Block, Source, open_source
from shared.audio.formats import BY_NAME, identify, read_header
from shared.audio.headers import Decoder, Header, describe_seconds
from shared.audio.level import (
    DC_OFFSET,
    LevelMeter,
    bandwidth_of_frames,
    full_scale,
    peak_of,
    spread_frames,
)
from shared.audio.limits import HEAD_SECONDS, AudioLimits
from shared.audio.probe import LENGTH_TOLERANCE, check_header, check_length, probe
from shared.audio.resample import Resampler
from shared.audio.warnings import band_warnings, level_warnings

Waveform = NDArray[np.float32]

BLOCK_SAMPLES = 2**18  # of a block of a stream at most: 16 s at 16 kHz

_MAX_MISSING = 0.25  # seconds of what a lossy file announces that may be missing: encoders count their padding
_MAX_PLAIN = 4 * 2**20  # bytes of uncompressed sound that are decoded in a few milliseconds
_MAX_PEAK = 2.0**32  # full scale is 1; integers of 32 bits that are stored as floats are below this


Channel = int | Literal["mean", "left", "loudest"]
"""Which channel of a file is used: that number, from 1 on, the first, the one with the most energy, or their mean."""


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


def decode(
    data: bytes, rate: int, limits: AudioLimits | None = None, *, channel: Channel = "mean", strict: bool = False
) -> Decoded:
    """The whole sound of `SoundStream`. Raises an AudioError."""
    return collect(SoundStream(data, rate, limits, channel=channel, strict=strict))


class SoundStream:
    """A file as one channel at `rate` Hz with soxr's high-quality filter, block by block.

    By default that is the mean of the channels, and if they cancel each other the loudest one. A constant offset is
    removed; floats in the range of integers are scaled to full scale; sounds behind one another in the file are joined;
    what is missing or damaged is left out, unless the file is to be `strict`. Each of these is a warning. They are
    decided on the first ten minutes, which are kept in memory until then; the level is that of the whole sound. Stops
    at the limit, so that memory and time depend on the limits and not on the file.
    """

    def __init__(
        self,
        data: bytes,
        rate: int,
        limits: AudioLimits | None = None,
        *,
        channel: Channel = "mean",
        strict: bool = False,
        header: Header | None = None,
    ) -> None:
        """`header` is that of the file, where the caller has read it."""
        self._header = header
        self._data, self._rate, self._limits = data, rate, limits or AudioLimits()
        self._channel, self._strict = channel, strict
        self._info: FileInfo | None = None

    @property
    def info(self) -> FileInfo:
        """Known after the last block; RuntimeError before."""
        if self._info is None:
            raise RuntimeError("the file has not been decoded to its end")
        return self._info

    def __iter__(self) -> Iterator[Waveform]:
        """Blocks of at most BLOCK_SAMPLES. Raises an AudioError, also after the first block."""
        warnings: list[SoundWarning] = []
        chosen = self._channel if isinstance(self._channel, int) else 1 if self._channel == "left" else None
        file = self._open(chosen)
        head = file.read_head()
        cancelled = self._channel == "mean" and file.meter.channels_cancel
        if cancelled or self._channel == "loudest":
            channel = file.meter.loudest_channel + 1
            file = self._open(channel)
            head = file.read_head()
            if cancelled:
                detail = f"The {file.header.channels} channels cancel each other; channel {channel}, the loudest,"
                warnings.append(SoundWarning("channels_cancel", f"{detail} was used."))
        frames = [spread_frames(head)]  # of which the bandwidth is measured
        # Decoders of lossy codecs put out full scale as 1, however far a gain or damage takes them beyond it.
        scale = 1 / full_scale(file.meter.peak) if _holds_floats(file.header) else 1.0
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
        level = file.meter.level(
            bandwidth_of_frames(frames[0] if len(frames) == 1 else np.concatenate(frames), self._rate), scale
        )
        if file.header.tracks > 1:
            detail = f"The file has {file.header.tracks} sound tracks; the first one was used."
            warnings.append(SoundWarning("other_tracks", detail))
        if file.missing:
            warnings.append(SoundWarning("truncated", file.missing))
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

    def _open(self, channel: int | None) -> "_Pass":
        self._header = probe(self._data, self._limits, strict=self._strict, header=self._header)
        return _Pass(self._data, self._header, self._rate, self._limits, channel, self._strict)


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

    def __init__(
        self, data: bytes, header: Header, rate: int, limits: AudioLimits, channel: int | None, strict: bool
    ) -> None:
        """`header` is checked; `channel` counts from 1 on; None for the mean."""
        self._data, self._rate, self._limits, self._channel, self._strict = data, rate, limits, channel, strict
        first, *self._others = header.all
        self._source = open_source(data, first)
        self.header = self._source.header
        check_header(self.header, limits)
        if channel is not None and channel > self.header.channels:
            raise AudioChannels(f"Channel {channel} was requested; the file has {self.header.channels}.")
        self._seconds = 0.0  # decoded so far
        self.missing = ""  # what could not be read, in a sentence; known at the end
        self.meter = LevelMeter()  # of what was used of the channels so far
        self.parts = self._decode()

    def read_head(self) -> Waveform:
        """The first ten minutes, or a bit more, or the whole of a shorter sound; `parts` are then those after it."""
        parts: list[Waveform] = []
        for part in self.parts:
            parts.append(part)
            if self._seconds > HEAD_SECONDS + LENGTH_TOLERANCE:
                break
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _decode(self) -> Iterator[Waveform]:
        """Parts of the waveform: of each sound of the file, and where its rate changes."""
        resampler = Resampler(self._rate)
        for rate, mono in self._mono():
            yield from resampler.add(rate, mono)
        yield from resampler.finish()
        check_length(self._seconds, self._limits, self.missing)

    def _mono(self) -> Iterator[tuple[int, Waveform]]:
        """(rate, samples) of every sound of the file."""
        for rate, block in self._blocks():
            mono = self._measured(block)
            self._seconds += len(block) / rate
            if self._seconds > self._limits.max_seconds + LENGTH_TOLERANCE:
                limit = f"{self._limits.max_seconds:g} s"
                raise AudioTooLong(f"The sound lasts more than the {limit} that are accepted.")
            yield rate, mono

    def _blocks(self) -> Iterator[tuple[int, Block]]:
        """(rate, samples of all channels) of every sound of the file, up to what cannot be read."""
        source: Source | None = self._source
        while source is not None:
            began = self._seconds
            try:
                yield from source.blocks
                self._note(_lost(source, self._seconds - began))
                source = self._next_source()
            except AudioError as error:
                if self._strict or not self._seconds:
                    raise
                self._note(f"From {describe_seconds(self._seconds)} on the file cannot be read: {error.detail}")
                return

    def _next_source(self) -> Source | None:
        if not self._others:
            return None
        source = open_source(self._data, self._others.pop(0))
        check_header(source.header, self._limits)
        return source

    def _measured(self, block: Block) -> Waveform:
        """(samples,) of the channels that are used."""
        if block.shape[1] != self.header.channels:
            mean = block.mean(axis=1, keepdims=True, dtype=np.float32)
            block = np.broadcast_to(mean, (len(block), self.header.channels))
        if self._channel is not None:
            block = block[:, self._channel - 1 : self._channel]
        peak = peak_of(block)
        mono = np.ascontiguousarray(_mono(block, peak))
        self.meter.add(block, mono, peak)
        return mono

    def _note(self, missing: str) -> None:
        """Raises AudioTruncated where all must be there, or where nothing is."""
        if missing and (self._strict or not (self._seconds or self._others)):
            raise AudioTruncated(missing)
        self.missing = self.missing or missing


def _holds_floats(header: Header) -> bool:
    """Whether samples can be what a program wrote without dividing it by full scale."""
    return header.codec.startswith("float") or header.codec == "WavPack"


def _lost(source: Source, seconds: float) -> str:
    """What a decoded sound lacks, in a sentence; `seconds` of it were decoded."""
    header = source.header
    lost = header.frames / header.rate - seconds if header.frames is not None and header.rate else 0.0
    few = lost * header.rate < 0.5 if BY_NAME[header.container].lossless else lost < _MAX_MISSING
    if header.truncated or few or header.frames is None:
        return header.truncated or source.damage
    announced = describe_seconds(header.frames / header.rate)
    return f"The {header.container} file announces {announced} of sound; {describe_seconds(lost)} are missing."


def is_plain(data: bytes, rate: int) -> bool:
    """Whether there is a `plain_header`, whose errors it raises."""
    return plain_header(data, rate) is not None


def plain_header(data: bytes, rate: int) -> Header | None:
    """The header of a file of which `decode` would only convert samples to float: uncompressed, at this rate, and short
    enough to be quick; None for all others.

    Then no native code parses the file, and decoding it in place is cheaper than sending it to a decode process. Only a
    file that has the magic bytes of an uncompressed format is parsed: reading an MP3's header means to walk all of its
    frames, under the interpreter lock. Raises an AudioError for a broken file of an uncompressed format.
    """
    if len(data) > _MAX_PLAIN:
        return None
    found, _ = identify(data, plain=True)
    if found is None:
        return None
    header = read_header(data)
    return header if all(each.decoder is Decoder.PCM and each.rate == rate for each in header.all) else None


def _mono(block: Block, peak: float) -> Waveform:
    """`peak` is that of the block. Raises AudioNotFinite or AudioCorrupt."""
    if not math.isfinite(peak):
        raise AudioNotFinite("The sound has samples that are NaN or infinite; all must be finite.")
    if peak > _MAX_PEAK:
        raise AudioCorrupt(f"The sound has samples as large as {peak:.3g}, where full scale is 1.")
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
