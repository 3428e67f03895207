"""The decoders, from checked bytes to blocks of samples: numpy for uncompressed sound, else libsndfile or FFmpeg.

Each gets only what a header reader (`shared.audio.formats`) has accepted. So that decoder and reader cannot disagree
about what a file is, what stands in front of a stream is removed, and WAV and AIFF, whose headers can name rare codecs,
never reach libsndfile. Blocks are of bounded size whatever the file claims. Used by `shared.audio.decode` alone; the
native libraries are imported at the first use.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otoscope.errors import AudioCorrupt
from otoscope.pcm import to_float
from shared.audio.ffmpeg import Packets, open_container
from shared.audio.formats import BY_NAME
from shared.audio.headers import Decoder, Header

Block = NDArray[np.float32]  # (frames, channels); full scale is 1

_BLOCK = 65_536  # frames of up to eight channels per block; bounds memory
_BOTH = ("FLAC", "Ogg", "MP3")  # containers that libsndfile decodes, and FFmpeg where libsndfile gives up
_MAX_LOST = 0.25  # seconds that an MP3 may be shorter than its frames: encoders count their padding


@dataclass
class Source:
    """A sound that is decoded while `blocks` are iterated, once."""

    header: Header  # as the decoder found it
    blocks: Iterator[tuple[int, Block]]  # (rate in Hz, samples); both may change on the way
    damage: str = ""  # what could not be decoded so far, in a sentence


def open_source(data: bytes, header: Header) -> Source:
    """Opening and iterating raise AudioUnsupported or AudioCorrupt."""
    match header.decoder:
        case Decoder.PCM:
            return Source(header, _pcm(data, header))
        case Decoder.SNDFILE:
            return _open_sndfile(data, header)
        case Decoder.PYAV:
            return _open_ffmpeg(data, header)


# --- uncompressed ---------------------------------------------------------------------------------------------------


def _pcm(data: bytes, header: Header) -> Iterator[tuple[int, Block]]:
    frame = header.channels * header.sample_bytes
    size = max(_BLOCK * 8 // max(header.channels, 8), 1)
    for first in range(0, header.frames or 0, size):
        count = min(size, (header.frames or 0) - first)
        raw = np.frombuffer(data, np.uint8, count * frame, header.offset + first * frame)
        yield header.rate, to_float(raw, header.sample_format).reshape(-1, header.channels)


# --- libsndfile: FLAC, Ogg, MP3 -------------------------------------------------------------------------------------


class _Bytes(io.BytesIO):
    """Clamps seeks to positions before the beginning, which damaged files cause: each would print a traceback."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return super().seek(max(offset, 0) if whence == io.SEEK_SET else offset, whence)


@cache
def _forward_only() -> Any:
    """A soundfile.SoundFile that is not seekable. Else soundfile seeks to the current position after every block, which
    garbles Opus (https://github.com/libsndfile/libsndfile/issues/794,
    https://github.com/bastibe/python-soundfile/pull/330).
    """
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return Forward


def _open_sndfile(data: bytes, header: Header) -> Source:
    import soundfile

    try:
        file = _forward_only()(_Bytes(header.stream(data)))
    except soundfile.SoundFileError as error:
        raise AudioCorrupt(f"The {header.container} file cannot be opened: {_reason(error)}") from error
    same = (file.format, file.samplerate, file.channels) == (header.container.upper(), header.rate, header.channels)
    # A second check, in case libsndfile recognises something else than the header reader.
    if not same or file.subtype not in BY_NAME[header.container].sndfile_subtypes:
        file.close()
        raise AudioCorrupt(f"The {header.container} file's header and its sound disagree about what it is.")

    def blocks() -> Iterator[tuple[int, Block]]:
        count = 0
        with file:
            while header.container != "FLAC" or header.frames is None or count < header.frames:
                try:
                    block = file.read(_BLOCK, dtype="float32", always_2d=True)
                except soundfile.SoundFileError as error:
                    if header.container not in _BOTH:
                        raise AudioCorrupt(
                            f"The {header.container} file cannot be decoded: {_reason(error)}"
                        ) from error
                    break
                if not len(block):
                    if header.container != "MP3" or (header.frames or 0) - count <= header.rate * _MAX_LOST:
                        return
                    break
                count += len(block)
                yield header.rate, block
            else:
                return
        # libsndfile stops at damage and drops the block in which it is; FFmpeg goes on behind it.
        rest = _open_ffmpeg(data, replace(header, decoder=Decoder.PYAV))
        yield from _skip(rest.blocks, count / header.rate)
        source.damage = rest.damage

    source = Source(header, blocks())
    return source


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error))


# --- FFmpeg: everything else ----------------------------------------------------------------------------------------


def _open_ffmpeg(data: bytes, header: Header) -> Source:
    packets = Packets()
    found, frames = open_container(header.stream(data), header, packets)

    def blocks() -> Iterator[tuple[int, Block]]:
        yield from _join(frames)
        source.damage = packets.damage

    source = Source(found, blocks())
    return source


def _join(frames: Iterator[tuple[int, Block]]) -> Iterator[tuple[int, Block]]:
    """Frames, of which a second has dozens, as blocks of a second or so."""
    kept: list[Block] = []
    size, kind = 0, (0, 0)  # kind: rate, channels
    for rate, frame in frames:
        if kept and ((rate, frame.shape[1]) != kind or size >= _BLOCK):
            yield kind[0], np.concatenate(kept)
            kept, size = [], 0
        kept.append(frame)
        size, kind = size + len(frame), (rate, frame.shape[1])
    if kept:
        yield kind[0], np.concatenate(kept)


def _skip(blocks: Iterator[tuple[int, Block]], seconds: float) -> Iterator[tuple[int, Block]]:
    """The blocks without so many seconds at their beginning."""
    for rate, block in blocks:
        first = round(seconds * rate)
        if len(block) > first:
            yield rate, block[first:]
        seconds = max(seconds - len(block) / rate, 0.0)
