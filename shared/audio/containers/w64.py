"""The header reader of Wave64 (Sony): WAV with chunks named by 16 bytes, of 64-bit sizes."""

import re
from functools import partial
from struct import unpack_from

from otoscope.errors import AudioCorrupt, AudioTruncated
from shared.audio.containers.iff import extent_of_sound, is_stray
from shared.audio.containers.wav import header_of_sound
from shared.audio.headers import Header

_HEAD = 24  # bytes of a chunk's name and size, which the size includes
_MAX_CHUNKS = 10_000
_NEXT = re.compile(rb"riff\x2e\x91\xcf\x11")
_NAMES = bytes.fromhex("00c04f8edb8a")  # how the 16 bytes of all names end


def read_w64_header(data: bytes, start: int) -> Header:
    """Raises AudioCorrupt, AudioTruncated or AudioUnsupported."""
    at, fmt = start + 40, None
    for _ in range(_MAX_CHUNKS):
        name = data[at : at + 4]
        (size,) = unpack_from("<Q", data, at + 16)
        if name == b"fmt " and fmt is None:
            fmt = at + _HEAD, size - _HEAD
        elif name == b"data":
            if fmt is None:
                raise AudioCorrupt("The Wave64 file has its samples before its format chunk.")
            at += _HEAD
            unknown = size <= _HEAD or size >= 2**62
            claimed = 0 if unknown else size - _HEAD
            belongs = partial(_chunk_follows, data, -size % 8)
            whole = start + unpack_from("<Q", data, start + 16)[0]
            extent = extent_of_sound("W64", data, at, None if unknown else claimed, whole, belongs, _NEXT)
            return header_of_sound("W64", data, fmt, "<", at, extent, claimed)
        if size < _HEAD:
            raise AudioCorrupt(f"A Wave64 chunk claims a size of {size} bytes.")
        at += size + -size % 8
        if at >= len(data):
            raise AudioTruncated("The Wave64 file ends before its samples.")
    raise AudioCorrupt(f"The file has more than {_MAX_CHUNKS:,} chunks.")


def _chunk_follows(data: bytes, padding: int, at: int) -> bool:
    return data.startswith(_NAMES, at + padding + 10) or is_stray(data, at + padding)
