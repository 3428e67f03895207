"""The header reader of MPEG audio, layers II and III (MP3): it walks the frames, which have no index.

Frame layout: ISO/IEC 11172-3 and 13818-3 (MPEG-2 LSF). Xing and Info tags:
http://gabriel.mp3-tech.org/mp3infotag.html.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from struct import pack, unpack_from

from otoscope.errors import NotAudio
from shared.audio.containers.tags import tag_size
from shared.audio.headers import Decoder, Header, missing, step

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # Hz, by version bits
_KBITS = {  # by layer and whether it is version 1
    (3, True): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, True): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, False): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, False): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_CODECS = {3: "MPEG layer III", 2: "MPEG layer II"}

_MAX_JUNK = 65_536  # bytes outside of frames that are searched before the rest counts as no sound
_MAX_LEAD_IN = 65_536  # the same before the first frame
_MAX_GAP = 1_000  # bytes between frames of one stream: mpg123 gives up behind more
_MAX_FREE = 8_192  # bytes of a frame of free format, whose header does not state its size
_MIN_FREE = 24
_STEPS_OF_FREE = 4  # for a size that such a frame may have
_MAX_ATTEMPTS = 64  # places that are searched for frames of free format, which takes long
_SYNC = re.compile(rb"\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]")  # how frames of layers II and III of all versions begin
_CHAIN = 3  # consecutive frames: random bytes look like one every 16 KB, and like three practically never


@dataclass(frozen=True)
class _Frame:
    size: int  # bytes
    samples: int
    rate: int  # Hz
    channels: int
    layer: int = 3

    def same_stream(self, other: "_Frame") -> bool:
        return (self.samples, self.rate, self.channels, self.layer) == (
            other.samples, other.rate, other.channels, other.layer,
        )  # fmt: skip


@lru_cache(4_096)
def _parse_frame(head: bytes) -> _Frame | None:
    """The frame that begins with these four bytes; None where they are not a frame header, or one of free format."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    kbit_index, rate_index, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer not in _CODECS or kbit_index in (0, 15) or rate_index == 3:
        return None
    kbits = _KBITS[layer, version == 3][kbit_index]
    samples = 1_152 if version == 3 or layer == 2 else 576
    rate = _RATES[version][rate_index]
    size = samples // 8 * kbits * 1_000 // rate + padding
    return _Frame(size, samples, rate, 1 if head[3] >> 6 == 3 else 2, layer)


def find_frames(data: bytes, start: int) -> int | None:
    """The position of the first of several consecutive frames within _MAX_LEAD_IN bytes; None where there are none."""
    at, attempts = start, 0
    while 0 <= at < start + _MAX_LEAD_IN:
        if _is_chain(data, at):
            return at
        if attempts < _MAX_ATTEMPTS and _is_free(data[at : at + 4]):
            attempts += 1
            if _free_size(data, at):
                return at
        at = _next_sync(data, at + 1)
    return None


def _next_sync(data: bytes, start: int) -> int:
    """Where the next frame header could begin; -1 where none could."""
    match = _SYNC.search(data, start)
    return match.start() if match else -1


def _is_chain(data: bytes, at: int) -> bool:
    step()
    first = frame = _parse_frame(data[at : at + 4])
    for link in range(1, _CHAIN):
        if first is None or frame is None:
            return False
        at += frame.size
        if at >= len(data):  # a sound of two frames, or its last two
            return link > 1
        frame = _parse_frame(data[at : at + 4])
        if frame is None or not frame.same_stream(first):
            return link > 1 and _is_trailing_tag(data, at)
    return True


def _is_trailing_tag(data: bytes, at: int) -> bool:
    return data[at : at + 3] == b"TAG" or data[at : at + 8] == b"APETAGEX"


def _free_size(data: bytes, at: int) -> int:
    """Bytes, without padding, of the frames of free format that begin there; 0 where none do.

    All of them have the same size, which is the distance to the next header.
    """
    following = at
    while (following := data.find(data[at : at + 2], following + 1, at + _MAX_FREE)) >= 0:
        step(_STEPS_OF_FREE)
        size = following - at - (data[at + 2] >> 1 & 1)
        same = [_same_free(data, at, place) for place in _free_places(data, at, size)] if size > _MIN_FREE else []
        if len(same) > 1 and all(same):
            return size
    return 0


def _is_free(head: bytes) -> bool:
    """Whether these four bytes are a frame header of free format."""
    return len(head) == 4 and not head[2] >> 4 and _parse_frame(_with_size(head)) is not None


def _with_size(head: bytes) -> bytes:
    """A header of free format, changed to one that states a size."""
    return bytes([head[0], head[1], head[2] | 0x10, head[3]])


def _free_places(data: bytes, at: int, size: int) -> Iterator[int]:
    """Where the next headers of frames of free format are."""
    for _ in range(_CHAIN):
        at += size + (data[at + 2] >> 1 & 1)
        if at + 4 > len(data):
            return
        yield at


def _same_free(data: bytes, one: int, other: int) -> bool:
    """Whether the header there is of the same free format."""
    return data[one : one + 2] == data[other : other + 2] and not (data[one + 2] ^ data[other + 2]) & 0xFC


def _read_free_format(data: bytes, offset: int, size: int) -> Header:
    like = _parse_frame(_with_size(data[offset : offset + 4]))
    assert like is not None  # nosec B101  # `_free_size` has parsed it
    at, count = offset, 0
    while at + 4 <= len(data) and _same_free(data, offset, at):
        if at > offset and _InfoTag.read(data, at, like):  # another file: libsndfile stops at the count of the first
            break
        at += size + (data[at + 2] >> 1 & 1)
        count += at <= len(data)
    cut = "The MP3 file ends inside a frame." if at > len(data) else ""
    info = _InfoTag.read(data, offset, like)
    if info and count > info.count + 1:  # the same for frames behind those that the tag counts
        offset += size + (data[offset + 2] >> 1 & 1)
        count -= 1
    return Header(
        "MP3", _CODECS[like.layer], like.rate, like.channels, count * like.samples, offset, decoder=Decoder.SNDFILE,
        end=min(at, len(data)), truncated=cut,
    )  # fmt: skip


def read_mp3_header(data: bytes, start: int) -> Header:
    """Counts all frames up to the end, or to where rate or channels change. Raises NotAudio."""
    offset = find_frames(data, start)
    if offset is None:
        raise NotAudio("The upload has no consecutive MPEG layer II or III frames.")
    first = _parse_frame(data[offset : offset + 4])
    if first is None:
        return _read_free_format(data, offset, _free_size(data, offset))
    end, count, broken = _walk(data, offset, first)
    codec, decoder = _CODECS[first.layer], Decoder.SNDFILE if first.layer == 3 else Decoder.PYAV
    info = _InfoTag.read(data, offset, first)
    count -= info is not None  # the frame with the tag contains no sound
    header = Header(
        "MP3", codec, first.rate, first.channels, count * first.samples, offset, decoder=decoder, end=end,
        truncated=broken,
    )  # fmt: skip
    if info is not None and count < info.count - (0 if broken else max(1, info.count // 20)):  # a few may be damaged
        lost = (info.count - count) * first.samples / first.rate
        header = replace(header, truncated=missing("MP3", info.count, count, "frames", lost))
    if info is not None and count <= info.count and not header.truncated:
        return replace(header, frames=max(count * first.samples - info.padding, 0))
    if first.layer != 3:
        return header
    # Without a tag libsndfile estimates the length and stops there, which can lose a third of the sound
    # (https://github.com/libsndfile/libsndfile/pull/943, https://github.com/libsndfile/libsndfile/issues/1001). So such
    # a stream gets a tag with the true count, and so do concatenated files, whose tag describes the first part only.
    sound = offset if info is None else offset + first.size
    tag = _InfoTag.write(data[sound : sound + 4], first, count)
    return replace(header, offset=sound, prefix=tag)


def _walk(data: bytes, at: int, first: _Frame) -> tuple[int, int, str]:
    """(end of the stream, its frames, what is missing at its end)."""
    count = junk = attempts = 0
    end = at  # of the last frame
    while at < len(data):
        frame = _parse_frame(data[at : at + 4])
        if frame is not None and frame.same_stream(first):
            if at - end > _MAX_GAP:
                return end, count, ""
            at += frame.size
            if at > len(data):
                return len(data), count, "The MP3 file ends inside a frame."
            end = at
            count += 1
            continue
        if frame is not None and _is_chain(data, at):  # another stream
            return at, count, ""
        if attempts < _MAX_ATTEMPTS and _is_free(data[at : at + 4]):
            attempts += 1
            if _free_size(data, at):  # another stream, of free format
                return at, count, ""
        if size := tag_size(data, at):
            at += size
            continue
        following = _next_sync(data, at + 1)
        while 0 <= following <= at + _MAX_JUNK and not _is_chain(data, following):
            following = _next_sync(data, following + 1)
        following = following if following >= 0 else len(data)
        junk += following - at
        if junk > _MAX_JUNK:
            rest = "" if following == len(data) else f"From byte {at:,} on the MP3 file has no consecutive frames."
            return at, count, rest
        at = following
    return end, count, ""


@dataclass(frozen=True)
class _InfoTag:
    """The Xing or Info tag that encoders write into the first frame."""

    count: int  # frames
    padding: int  # samples before and after the sound

    @staticmethod
    def position(frame: _Frame) -> int:
        """Bytes before the tag: the frame's header and its side information, which depends on version and channels."""
        long = frame.samples == 1_152
        return 4 + ((17 if long else 9) if frame.channels == 1 else (32 if long else 17))

    @classmethod
    def read(cls, data: bytes, at: int, first: _Frame) -> "_InfoTag | None":
        at += cls.position(first)
        if data[at : at + 4] not in (b"Xing", b"Info") or len(data) < at + 144:
            return None
        flags, count = unpack_from(">II", data, at + 4)
        if not flags & 1:
            return None
        # Frame count, byte count, seek table and quality are each optional; the encoder's own fields follow them.
        at += 8 + 4 + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
        delays = int.from_bytes(data[at + 21 : at + 24], "big") if data[at : at + 4].isalnum() else 0
        return cls(count, (delays >> 12) + (delays & 0xFFF))

    @classmethod
    def write(cls, head: bytes, like: _Frame, count: int) -> bytes:
        """The smallest frame with a tag that states the count, for a stream that continues with that frame header."""
        tag = bytes(cls.position(like) - 4) + b"Xing" + pack(">II", 1, count)
        for kbits in range(1, 15):
            own = bytes([head[0], head[1] | 1, kbits << 4 | head[2] & 0x0C, head[3]])  # no checksum, no padding
            frame = _parse_frame(own)
            if frame is not None and frame.size >= 4 + len(tag):
                return (own + tag).ljust(frame.size, b"\0")
        raise AssertionError("the largest frames have a thousand bytes")
