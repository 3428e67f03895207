"""The header reader of FLAC: the STREAMINFO block. See RFC 9639, section 8.2."""

import re

from otoscope.errors import AudioCorrupt, AudioTruncated
from shared.audio.containers.tags import strip_tags
from shared.audio.headers import Decoder, Header

_FIRST_FRAME = re.compile(rb"\xff[\xf8\xf9][\x10-\xfe][\x00-\xae]\x00", re.DOTALL)  # its number is 0
_START = b"fLaC\x00\x00\x00\x22"  # of a file with further metadata, as encoders write it
_ALONE = b"fLaC\x80\x00\x00\x22"  # of one without


def read_flac_header(data: bytes, start: int) -> Header:
    """Raises AudioCorrupt or AudioTruncated."""
    if len(data) < start + 42:
        raise AudioTruncated("The FLAC file ends inside its stream information.")
    if data[start + 4] & 0x7F != 0 or data[start + 5 : start + 8] != b"\x00\x00\x22":
        raise AudioCorrupt("The FLAC file does not begin with its stream information.")
    packed = int.from_bytes(data[start + 18 : start + 26], "big")
    bits = (packed >> 36 & 31) + 1
    frames = packed & (1 << 36) - 1
    sound = _skip_metadata(data, start + 4)
    following = data.find(_START, sound or start + 42)
    return Header(
        "FLAC", f"FLAC {bits} bit", packed >> 44, (packed >> 41 & 7) + 1, frames or None, sound or start,
        prefix=_ALONE + data[start + 8 : start + 42] if sound else b"",
        decoder=Decoder.SNDFILE if bits in (8, 16, 24) else Decoder.PYAV,
        end=following if following >= 0 else strip_tags(data, sound or start + 42),
    )  # fmt: skip


def _skip_metadata(data: bytes, at: int) -> int | None:
    """The position of the first frame: decoders do not get pictures, comments and seek tables, of which some are
    damaged. None where it is not found. Raises AudioTruncated."""
    begin, last = at, 0
    while not last and at + 4 <= len(data):
        last, size = data[at] & 0x80, int.from_bytes(data[at + 1 : at + 4])
        at += 4 + size
    if at == len(data) or data[at : at + 1] == b"\xff":
        return at
    # A wrong size hides it, as that of a picture of more than 16 MB.
    starts = (match.start() for match in _FIRST_FRAME.finditer(data, begin + 38))
    first = next((start for start in starts if _has_frame_header(data, start)), None)
    if first is None and at > len(data):
        raise AudioTruncated("The FLAC file ends inside its metadata, before its sound.")
    return first


def _has_frame_header(data: bytes, at: int) -> bool:
    """Whether the checksum of a frame header is right there. See RFC 9639, section 9.1."""
    size = 5 + {6: 1, 7: 2}.get(data[at + 2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(data[at + 2] & 15, 0)
    crc = 0
    for byte in data[at : at + size]:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 0x80 else 0)
    return len(data) > at + size and crc == data[at + size]
