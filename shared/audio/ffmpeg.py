"""FFmpeg, through PyAV: one sound stream of a file in memory, as arrays of samples.

A file can reach only the demuxer and the decoders that the table of formats names for its container; it can open no
other file and no address. Used by `shared.audio.decoders` alone; PyAV is imported at the first use.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otoscope.errors import AudioCorrupt, AudioUnsupported, cause
from shared.audio.formats import BY_NAME
from shared.audio.headers import Header

Samples = NDArray[np.float32]  # (frames, channels); full scale is 1

_MAX_STREAMS = 64  # tracks of a file, sound or not
_MAX_BARREN = 20_000  # packets in a row that yield no sound: no encoder produces so many
_MAX_RETRIES = 10_000  # gaps in a transport stream, of 64 KB or up to the end
_MIN_PACKET = 4  # bytes: no codec has a smaller one that can be damaged
_PROBE = {
    "probesize": str(2**21),
    "analyzeduration": str(10**7),
}  # bytes and microseconds that are read to find streams
_BETTER = {"amrnb": "libopencore_amrnb", "amrwb": "libopencore_amrwb"}
"""Decoders to replace FFmpeg's own, which refuse the frames that telephones send during pauses."""
_KINDS: dict[str, tuple[type[np.generic], float]] = {  # by sample format without the "p" of planes: type, full scale
    "u8": (np.uint8, 2.0**7), "s16": (np.int16, 2.0**15), "s32": (np.int32, 2.0**31), "s64": (np.int64, 2.0**63),
    "flt": (np.float32, 1.0), "dbl": (np.float64, 1.0),
}  # fmt: skip
_POINTERS = 8  # planes of a frame that PyAV finds


@dataclass
class Packets:
    """What became of the packets of a stream."""

    decoded: int = 0
    damaged: int = 0
    stopped: str = ""  # why reading ended before the end of the file

    @property
    def damage(self) -> str:
        """In a sentence; "" if there was none."""
        if self.damaged:
            return f"{self.damaged:,} of {self.damaged + self.decoded:,} packets are damaged and were left out."
        return self.stopped


def open_container(data: bytes, header: Header, packets: Packets) -> tuple[Header, Iterator[tuple[int, Samples]]]:
    """(header as FFmpeg found it, (rate, samples) of each frame). Raises AudioUnsupported or AudioCorrupt, and so does
    the iterator, which counts the packets."""
    import av

    entry = BY_NAME[header.container]
    allowed = {
        "codec_whitelist": ",".join(entry.ffmpeg_codecs), "format_whitelist": entry.demuxer, "protocol_whitelist": "",
        "max_streams": str(_MAX_STREAMS), **_PROBE,
    }  # fmt: skip
    name = entry.demuxer.partition(",")[0]
    try:
        container = av.open(io.BytesIO(data), "r", format=name, options=allowed, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise AudioCorrupt(f"The {header.container} file cannot be opened: {cause(error)}") from error
    try:
        stream = next(iter(container.streams.audio), None)
        codec: Any = stream.codec_context if stream is not None else None
        if stream is None or codec is None or codec.name not in entry.ffmpeg_codecs:
            kind = (
                "no sound that is accepted" if codec is None else f"sound of codec {codec.name}, which is not accepted"
            )
            raise AudioUnsupported(f"The {header.container} file has {kind}; {', '.join(entry.codecs)} are.")
        codec.thread_count = 1
        contexts = [each.codec_context for each in container.streams.audio]
        tracks = sum(each is not None and each.name in entry.ffmpeg_codecs for each in contexts)
        found = replace(
            header, rate=codec.sample_rate or header.rate, channels=codec.channels or header.channels, tracks=tracks
        )
        if codec.name in _BETTER:
            rate = codec.sample_rate
            codec = av.CodecContext.create(_BETTER[codec.name], "r")
            codec.sample_rate, codec.layout, codec.thread_count = rate, "mono", 1
    except BaseException:
        container.close()
        raise
    whole = av.Packet(data[len(header.prefix) :]) if header.unframed else None
    return found, _frames(
        container, [whole, av.Packet()] if whole else _demux(container, stream, packets), codec, packets
    )


def _frames(container: Any, demuxed: Iterable[Any], codec: Any, packets: Packets) -> Iterator[tuple[int, Samples]]:
    import av

    barren = 0
    with container:
        for packet in demuxed:
            try:
                frames = codec.decode(packet)
            except MemoryError:
                raise
            except av.FFmpegError:
                packets.damaged += packet.size >= _MIN_PACKET  # a smaller one is padding
                frames = []
            packets.decoded += bool(frames)
            barren = 0 if frames else barren + 1
            if barren > _MAX_BARREN:
                packets.stopped = f"Decoding stopped: {_MAX_BARREN:,} packets in a row have no sound."
                return
            for frame in frames:
                if frame.samples:
                    yield frame.sample_rate, _samples(frame)


def _demux(container: Any, stream: Any, packets: Packets) -> Iterator[Any]:
    import av

    demuxed, retries = container.demux(stream), 0
    while True:
        try:
            packet = next(demuxed)
        except StopIteration:
            return
        except av.BlockingIOError as error:  # bytes that are no packet of a transport stream: it reads on behind them
            demuxed, retries = container.demux(stream), retries + 1
            if retries > _MAX_RETRIES:
                packets.stopped = f"The file cannot be read any further: {cause(error)}"
                return
            continue
        except (av.FFmpegError, ValueError, IndexError) as error:  # IndexError: a stream that begins on the way
            packets.stopped = f"The file cannot be read any further: {cause(error)}"
            return
        yield packet


def _samples(frame: Any) -> Samples:
    """(samples, channels) of a decoded frame; a codec bounds its size, at most 65,536 samples.

    PyAV's `to_ndarray` (18.1) counts planes up to a null pointer. FFmpeg's array of pointers has eight entries
    (AV_NUM_DATA_POINTERS) and no null behind them: for a frame with eight channels it reads out of bounds and crashes.
    """
    name, channels = frame.format.name, frame.layout.nb_channels
    kind = _KINDS.get(name.removesuffix("p"))
    if kind is None or (name.endswith("p") and channels > _POINTERS):
        raise AudioUnsupported(f"Sound of {channels} channels as {name!r} cannot be decoded.")
    dtype, full_scale = kind
    if name.endswith("p"):
        planes = [np.frombuffer(plane, dtype, frame.samples) for plane in frame.planes[:channels]]
        whole = np.stack(planes, axis=1).astype(np.float32)
    else:
        flat = np.frombuffer(frame.planes[0], dtype, frame.samples * channels)
        whole = flat.reshape(-1, channels).astype(np.float32)
    if dtype is np.uint8:
        whole -= np.float32(full_scale)
    return whole if full_scale == 1.0 else whole / np.float32(full_scale)
