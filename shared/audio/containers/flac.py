"""The header reader of FLAC: the STREAMINFO block, and the number of the last frame. See RFC 9639, sections 8.2 and
9.1."""

import re
from typing import NamedTuple

from otoscope.errors import AudioCorrupt, AudioTruncated
from shared.audio.containers.tags import strip_tags
from shared.audio.headers import Decoder, Header, step

_FIRST_FRAME = re.compile(rb"\xff[\xf8\xf9][\x10-\xfe][\x00-\xae]\x00", re.DOTALL)  # its number is 0
_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_ALONE = b"fLaC\x80\x00\x00\x22"  # of a file without further metadata
_MAX_FRAMES = (1 << 36) - 1  # that the STREAMINFO block can state
_MAX_CANDIDATES = 1_000  # places that could be the last frame, from the end on
_STEPS_OF_FRAME = 16  # for its checksum
_SIZES = (0, 192, 576, 1_152, 2_304, 4_608, 0, 0, *(256 << power for power in range(8)))  # of blocks, by their code


class _FlacFrame(NamedTuple):
    """What the header of a frame states."""

    fixed: bool  # all frames have the same size, but for the last one
    number: int  # of the frame if they do, else of its first sample
    samples: int  # per channel
    kind: tuple[int, int]  # the codes of rate and bits


def read_flac_header(data: bytes, start: int) -> Header:
    """Raises AudioCorrupt or AudioTruncated."""
    if len(data) < start + 42:
        raise AudioTruncated("The FLAC file ends inside its stream information.")
    if data[start + 4] & 0x7F != 0 or data[start + 5 : start + 8] != b"\x00\x00\x22":
        raise AudioCorrupt("The FLAC file does not begin with its stream information.")
    packed = int.from_bytes(data[start + 18 : start + 26], "big")
    bits = (packed >> 36 & 31) + 1
    frames = packed & _MAX_FRAMES
    sound = _skip_metadata(data, start + 4)
    following = _START.search(data, sound or start + 42)
    end = following.start() if following else strip_tags(data, sound or start + 42)
    prefix = b""
    if sound:
        # The length is written last: without it, or with that of an earlier moment, the frames themselves have it.
        frames = min(max(frames, _samples(data, sound, end)), _MAX_FRAMES)
        counted = (packed & ~_MAX_FRAMES | frames).to_bytes(8, "big")
        prefix = _ALONE + data[start + 8 : start + 18] + counted + data[start + 26 : start + 42]
    return Header(
        "FLAC", f"FLAC {bits} bit", packed >> 44, (packed >> 41 & 7) + 1, frames or None, sound or start, prefix,
        decoder=Decoder.SNDFILE if bits in (8, 16, 24) else Decoder.PYAV, end=end,
    )  # fmt: skip


def _skip_metadata(data: bytes, at: int) -> int | None:
    """The position of the first frame: decoders do not get pictures, comments and seek tables, of which some are
    damaged. None where it is not found. Raises AudioTruncated."""
    begin, last = at, 0
    while not last and at + 4 <= len(data):
        step()
        last, size = data[at] & 0x80, int.from_bytes(data[at + 1 : at + 4])
        at += 4 + size
    if at == len(data) or data[at : at + 1] == b"\xff":
        return at
    # A wrong size hides it, as that of a picture of more than 16 MB.
    starts = (match.start() for match in _FIRST_FRAME.finditer(data, begin + 38))
    first = next((start for start in starts if _frame(data, start)), None)
    if first is None and at > len(data):
        raise AudioTruncated("The FLAC file ends inside its metadata, before its sound.")
    return first


def _samples(data: bytes, sound: int, end: int) -> int:
    """Samples per channel from the first frame to the last one; 0 where these are not found."""
    first, at = _frame(data, sound), end - 1
    if first is None:
        return 0
    for _ in range(_MAX_CANDIDATES):
        at = data.rfind(data[sound : sound + 2], sound, at + 1)
        last = _frame(data, at)
        if last and last.kind == first.kind and last.number >= first.number:
            return (last.number - first.number) * (first.samples if first.fixed else 1) + last.samples
    return 0


def _frame(data: bytes, at: int) -> _FlacFrame | None:
    """The frame that begins there; None where the checksum of its header is wrong."""
    head = data[at : at + 16]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8:
        return None
    step(_STEPS_OF_FRAME)
    (block, rate), extra = divmod(head[2], 16), f"{head[4]:08b}0".index("0")  # as in UTF-8, of up to seven bytes
    number = head[4] & 0x7F >> extra
    at = 4 + max(extra, 1)
    for byte in head[5:at]:
        number = number << 6 | byte & 0x3F
    width = {6: 1, 7: 2}.get(block, 0)
    samples = int.from_bytes(head[at : at + width]) + 1 if width else _SIZES[block]
    at += width + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    crc = 0
    for byte in head[:at]:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 0x80 else 0)
    if head[at : at + 1] != bytes([crc]):
        return None
    return _FlacFrame(head[1] == 0xF8, number, samples, (rate, head[3] & 15))
