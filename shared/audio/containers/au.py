"""The header reader of AU (Sun, NeXT): 24 bytes or more, then samples, big-endian; those of DEC are little-endian."""

import re
from dataclasses import replace
from struct import unpack_from

from otoscope.errors import AudioCorrupt, AudioUnsupported
from shared.audio.containers.iff import UNFINISHED, extent_of_sound, is_stray
from shared.audio.headers import Decoder, Header, missing

_ENCODINGS = {  # by the number in the header: codec, sample format
    1: ("µ-law 8 bit", "ulaw"), 2: ("PCM 8 bit", "i1"), 3: ("PCM 16 bit", "i2"), 4: ("PCM 24 bit", "i3"),
    5: ("PCM 32 bit", "i4"), 6: ("float 32 bit", "f4"), 7: ("float 64 bit", "f8"), 27: ("A-law 8 bit", "alaw"),
}  # fmt: skip
_COMPRESSED = {  # codec, bits per sample, decoder
    23: ("G.721 ADPCM", 4, Decoder.SNDFILE), 24: ("G.722 ADPCM", 4, Decoder.PYAV),
    25: ("G.723 ADPCM", 3, Decoder.SNDFILE), 26: ("G.723 ADPCM", 5, Decoder.SNDFILE),
}  # fmt: skip
"""FFmpeg decodes those of G.721 and G.723 with more noise than libsndfile, by a factor of 2 to 30."""
MAGIC = rb"(?:\.snd|\.sd\x00)\x00\x00|(?:dns\.|\x00ds\.)..\x00\x00"
"""Of Sun and of DEC, big-endian and little-endian."""
_NEXT = re.compile(MAGIC, re.DOTALL)


def read_au_header(data: bytes, start: int) -> Header:
    """Raises AudioCorrupt or AudioUnsupported."""
    order = ">" if data[start : start + 1] == b"." else "<"
    offset, size, encoding, rate, channels = unpack_from(f"{order}5I", data, start + 4)
    if encoding not in _ENCODINGS and encoding not in _COMPRESSED:
        raise AudioUnsupported(f"AU of encoding {encoding} is not accepted; PCM, float, A-law, µ-law and ADPCM are.")
    if offset < 24:
        raise AudioCorrupt(f"The AU header states that it has {offset} bytes; it has at least 24.")
    at = start + offset
    unknown = size >= UNFINISHED or size == 0
    stated = None if unknown else size
    extent = extent_of_sound("AU", data, at, stated, None, lambda end: is_stray(data, end), _NEXT)
    present = extent.size
    if encoding in _COMPRESSED:
        codec, bits, decoder = _COMPRESSED[encoding]
        frame = max(channels * bits, 1) / 8
        header = Header("AU", codec, rate, channels, None, start, decoder=decoder)
    else:
        codec, sample_format = _ENCODINGS[encoding]
        if sample_format[1:].isdigit() and sample_format != "i1":
            sample_format = order + sample_format
        header = Header("AU", codec, rate, channels, None, at, sample_format=sample_format)
        frame = max(channels * header.sample_bytes, 1)
        header = replace(header, frames=present // frame)
    truncated = extent.doubt
    if present < size and not unknown:
        lost = (size - present) / (frame * rate) if rate else None
        truncated = missing("AU", size, present, "bytes of samples", lost)
    return replace(header, end=at + present, truncated=truncated)
