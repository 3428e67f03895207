"""The header reader of Wave64 (Sony): WAV with chunks named by 16 bytes, of 64-bit sizes."""

from struct import unpack_from

from otoscope.errors import AudioCorrupt, AudioTruncated
from shared.audio.containers.wav import header_of_sound
from shared.audio.headers import Header

_HEAD = 24  # bytes of a chunk's name and size, which the size includes
_MAX_CHUNKS = 10_000


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
            held = len(data) - at
            unknown = size <= _HEAD or size >= 2**62
            claimed = 0 if unknown else size - _HEAD
            return header_of_sound("W64", data, fmt, "<", at, held if unknown else min(claimed, held), claimed)
        if size < _HEAD:
            raise AudioCorrupt(f"A Wave64 chunk claims a size of {size} bytes.")
        at += size + -size % 8
        if at >= len(data):
            raise AudioTruncated("The Wave64 file ends before its samples.")
    raise AudioCorrupt(f"The file has more than {_MAX_CHUNKS:,} chunks.")
