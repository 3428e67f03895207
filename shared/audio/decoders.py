"""The decoders, from checked bytes to blocks of samples: numpy for uncompressed sound, else libsndfile or PyAV.

Each gets only what a header reader (`shared.audio.formats`) has accepted. So that decoder and reader cannot disagree
about what a file is, tags before a stream are removed, and WAV and AIFF, whose headers can name rare codecs, never
reach libsndfile. Blocks are of bounded size whatever the file claims. Used by `shared.audio.decode` alone; the native
libraries are imported at the first use.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otoscope.errors import AudioCorrupt, AudioTruncated, AudioUnsupported
from shared.audio.formats import BY_NAME, Decoder
from shared.audio.headers import Header

Block = NDArray[np.float32]  # (frames, channels); full scale is 1

_BLOCK = 65_536  # frames per block; bounds memory


def open_blocks(data: bytes, header: Header) -> tuple[Header, Iterator[Block]]:
    """(header as the decoder found it, samples block by block).

    Opening and iterating raise AudioUnsupported, AudioTruncated or AudioCorrupt.
    """
    match BY_NAME[header.container].decoder:
        case Decoder.PCM:
            return header, _pcm(data, header)
        case Decoder.PYAV:
            return _open_av(data)
        case Decoder.SNDFILE:
            return header, _open_sndfile(data, header)


# --- uncompressed ---------------------------------------------------------------------------------------------------


def _pcm(data: bytes, header: Header) -> Iterator[Block]:
    frame = header.channels * header.sample_bytes
    for first in range(0, header.frames or 0, _BLOCK):
        count = min(_BLOCK, (header.frames or 0) - first)
        raw = np.frombuffer(data, np.uint8, count * frame, header.offset + first * frame)
        yield _to_float(raw, header.sample_format).reshape(-1, header.channels)


def _to_float(raw: NDArray[np.uint8], sample_format: str) -> Block:
    """(samples,) of a `Header.sample_format`, scaled to -1..1; floats are left as they are."""
    sample = sample_format
    if sample in _G711:
        return _G711[sample][raw]
    if sample == "u1":
        return (raw.astype(np.float32) - np.float32(128)) / np.float32(128)
    if sample[1] == "f":
        with np.errstate(over="ignore", invalid="ignore"):  # out of float32's range becomes infinite: refused
            return raw.view(sample).astype(np.float32)
    if sample[1:] == "i3":
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, slice(1, 4) if sample[0] == "<" else slice(0, 3)] = raw.reshape(-1, 3)
        raw, sample = padded.reshape(-1), f"{sample[0]}i4"
    whole = raw.view(sample)
    return whole.astype(np.float32) / np.float32(2 ** (8 * whole.itemsize - 1))


def _alaw() -> Block:
    code = np.arange(256) ^ 0x55
    exponent, size = code >> 4 & 7, (code & 15) * 16 + 8
    size = np.where(exponent > 0, size + 256 << np.maximum(exponent - 1, 0), size)
    return (np.where(code & 128, size, -size) / 32_768).astype(np.float32)


def _ulaw() -> Block:
    code = np.arange(256) ^ 0xFF
    size = ((code & 15) * 8 + 132 << (code >> 4 & 7)) - 132
    return (np.where(code & 128, -size, size) / 32_768).astype(np.float32)


_G711 = {"alaw": _alaw(), "ulaw": _ulaw()}


# --- libsndfile: FLAC, Ogg, MP3 -------------------------------------------------------------------------------------


class _Bytes(io.BytesIO):
    """Clamps seeks to positions before the beginning, which damaged files cause: each would print a traceback."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return super().seek(max(offset, 0) if whence == io.SEEK_SET else offset, whence)


def _open_sndfile(data: bytes, header: Header) -> Iterator[Block]:
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        """Not seekable. Else soundfile seeks to the current position after every block, which garbles Opus

        (https://github.com/libsndfile/libsndfile/issues/794, https://github.com/bastibe/python-soundfile/pull/330).
        """

        def seekable(self) -> bool:
            return False

    source = _Bytes(header.prefix + data[header.offset :])
    try:
        file = Forward(source)
    except soundfile.SoundFileError as error:
        raise AudioCorrupt(f"The {header.container} file cannot be opened: {_reason(error)}") from error
    same = (file.format, file.samplerate, file.channels) == (header.container.upper(), header.rate, header.channels)
    # A second check, in case libsndfile recognises something else than the header reader.
    if not same or file.subtype not in BY_NAME[header.container].sndfile_subtypes:
        file.close()
        raise AudioCorrupt(f"The {header.container} file's header and its sound disagree about what it is.")

    def blocks() -> Iterator[Block]:
        with file:
            while True:
                try:
                    block = file.read(_BLOCK, dtype="float32", always_2d=True)
                except soundfile.SoundFileError as error:
                    if header.container == "FLAC" and not source.read(1):  # it reads a few KB ahead
                        raise AudioTruncated("The FLAC file is cut short, or damaged near its end.") from error
                    raise AudioCorrupt(f"The {header.container} file cannot be decoded: {_reason(error)}") from error
                if not len(block):
                    return
                yield block

    return blocks()


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error))


# --- PyAV: M4A ------------------------------------------------------------------------------------------------------

# No file can make FFmpeg use another demuxer, decode a video track, or open a file or URL by its name.
_ALLOWED = {"codec_whitelist": "aac,alac", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2", "protocol_whitelist": ""}


def _open_av(data: bytes) -> tuple[Header, Iterator[Block]]:
    import av

    try:
        container = av.open(io.BytesIO(data), "r", format="mp4", options=_ALLOWED)
        stream = container.streams.audio[0]
        codec = stream.codec_context
        name: str = codec.name
        codec.thread_count = 1
        header = Header("M4A", name.upper(), codec.sample_rate or 0, codec.channels, None)
    except (av.FFmpegError, IndexError, AttributeError, ValueError) as error:
        raise AudioCorrupt(f"The M4A file cannot be opened: {error}") from error
    if name not in ("aac", "alac"):
        container.close()
        raise AudioUnsupported(f"M4A with codec {name} is not accepted; AAC and ALAC are.")

    def blocks() -> Iterator[Block]:
        try:
            with container:
                for frame in container.decode(stream):
                    if (frame.sample_rate, frame.layout.nb_channels) != (header.rate, header.channels):
                        raise AudioCorrupt("The M4A file changes its rate or its channels in mid-stream.")
                    yield _planes(frame)
        except (av.FFmpegError, ValueError) as error:
            raise AudioCorrupt(f"The M4A file cannot be decoded: {error}") from error

    return header, blocks()


_PLANAR: dict[str, type[np.float32 | np.int16 | np.int32]] = {"fltp": np.float32, "s16p": np.int16, "s32p": np.int32}


def _planes(frame: Any) -> Block:
    """(samples, channels) of a decoded frame; the codecs bound it: at most 2,048 samples of AAC, 16,384 of ALAC.

    PyAV's `to_ndarray` (18.1) counts planes up to a null pointer. FFmpeg's array of pointers has eight entries
    (AV_NUM_DATA_POINTERS) and no null behind them: for a frame with eight channels it reads out of bounds and crashes.
    """
    kind = _PLANAR.get(frame.format.name)
    if kind is None:
        raise AudioCorrupt(f"The M4A file has samples of an unknown format, {frame.format.name}.")
    planes = frame.planes[: frame.layout.nb_channels]
    samples = np.stack([np.frombuffer(plane, kind, frame.samples) for plane in planes], axis=1)
    whole = samples.astype(np.float32)
    return whole if kind is np.float32 else whole / np.float32(2 ** (8 * samples.itemsize - 1))
