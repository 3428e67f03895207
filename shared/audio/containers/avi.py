"""The header reader of AVI, as trail cameras and older cameras record it: the first sound stream.

https://learn.microsoft.com/windows/win32/directshow/avi-riff-file-reference
"""

from struct import unpack_from

from otoscope.errors import AudioTruncated, AudioUnsupported, NotAudio
from shared.audio.containers.iff import iter_chunks
from shared.audio.containers.wave_codecs import CODECS, EXTENSIBLE, NAMES
from shared.audio.headers import Decoder, Header


def read_avi_header(data: bytes, start: int) -> Header:
    """Raises NotAudio, AudioUnsupported, AudioTruncated or AudioCorrupt."""
    claimed = unpack_from("<I", data, start + 4)[0]
    stop = min(start + 8 + claimed, len(data)) if claimed else len(data)
    others = 0
    for name, at, size in iter_chunks(data, start + 12, "<", stop):
        if name != b"LIST" or data[at : at + 4] != b"hdrl":
            continue
        if at + size > len(data):
            break
        for inner, begin, length in iter_chunks(data, at + 4, "<", at + size):
            if inner != b"LIST" or data[begin : begin + 4] != b"strl":
                continue
            end = min(begin + length, at + size)
            stream = {name: where for name, where, _ in iter_chunks(data, begin + 4, "<", end)}
            if data.startswith(b"auds", stream.get(b"strh", 0)) and b"strf" in stream:
                cut = f"The AVI file announces {claimed:,} bytes; it has {stop - start - 8:,}."
                return _sound(data, start, stream, cut if start + 8 + claimed > len(data) else "")
            others += 1
        raise NotAudio(f"The AVI file has no sound, only {others} streams of other kinds.")
    raise AudioTruncated("The AVI file ends inside its header.")


def _sound(data: bytes, start: int, stream: dict[bytes, int], truncated: str) -> Header:
    scale, per_scale, length = unpack_from("<II4xI", data, stream[b"strh"] + 20)
    tag, channels, rate = unpack_from("<HHI", data, stream[b"strf"])
    if tag == EXTENSIBLE:
        tag = unpack_from("<H", data, stream[b"strf"] + 24)[0]
    if tag not in CODECS:
        raise AudioUnsupported(f"AVI with sound of codec {tag:#06x} is not accepted; {NAMES} are.")
    frames = length * scale * rate // per_scale if length and per_scale and not truncated else None
    return Header("AVI", CODECS[tag], rate, channels, frames, start, decoder=Decoder.PYAV, truncated=truncated)
