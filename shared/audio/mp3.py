"""The header reader of MP3: it walks the frames, which have no index.

Frame layout: ISO/IEC 11172-3 and 13818-3 (MPEG-2 LSF), layer III. Xing and Info tags:
http://gabriel.mp3-tech.org/mp3infotag.html.
"""

from dataclasses import dataclass
from functools import lru_cache
from struct import pack, unpack_from

from otoscope.errors import AudioTruncated, NotAudio
from shared.audio.headers import Header

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # Hz, by version bits
_KBITS_V1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)

_CODEC = "MPEG layer III"
_MAX_JUNK = 65_536  # bytes outside of frames that are searched before the rest counts as no sound
_MAX_LEAD_IN = 4_096  # the same before the first frame, for streams cut anywhere: more than one frame of maximal size
_CHAIN = 3  # consecutive frames: random bytes look like one every 16 KB, and like three practically never


@dataclass(frozen=True)
class _Frame:
    size: int  # bytes
    samples: int
    rate: int  # Hz
    channels: int

    def same_stream(self, other: "_Frame") -> bool:
        return (self.samples, self.rate, self.channels) == (other.samples, other.rate, other.channels)


@lru_cache(4_096)
def _parse_frame(head: bytes) -> _Frame | None:
    """The layer III frame that begins with these four bytes; None where they are not a frame header."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    kbit_index, rate_index, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer != 1 or kbit_index in (0, 15) or rate_index == 3:
        return None
    kbits, samples = (_KBITS_V1[kbit_index], 1_152) if version == 3 else (_KBITS_V2[kbit_index], 576)
    rate = _RATES[version][rate_index]
    size = samples // 8 * kbits * 1_000 // rate + padding
    return _Frame(size, samples, rate, 1 if head[3] >> 6 == 3 else 2)


def find_frames(data: bytes, start: int) -> int | None:
    """The position of the first of several consecutive frames within _MAX_LEAD_IN bytes; None where there are none."""
    at = start
    while 0 <= at < start + _MAX_LEAD_IN:
        if _is_chain(data, at):
            return at
        at = data.find(b"\xff", at + 1)
    return None


def _is_chain(data: bytes, at: int) -> bool:
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


def read_mp3_header(data: bytes, start: int) -> Header:
    """Counts all frames. Raises NotAudio, or AudioTruncated where the Info tag announces more of them."""
    offset = find_frames(data, start)
    first = None if offset is None else _parse_frame(data[offset : offset + 4])
    if offset is None or first is None:
        raise NotAudio("The upload has no consecutive MPEG layer III frames.")
    at, count, junk, cut = offset, 0, 0, False
    while at < len(data) and junk <= _MAX_JUNK:
        frame = _parse_frame(data[at : at + 4])
        if frame is None or not frame.same_stream(first):  # a tag, damage, or the end
            following = data.find(b"\xff", at + 1)
            while 0 <= following <= at + _MAX_JUNK and not _is_chain(data, following):
                following = data.find(b"\xff", following + 1)
            following = following if following >= 0 else len(data)
            junk += following - at
            at = following
            continue
        at += frame.size
        cut = at > len(data)
        count += not cut
    info = _InfoTag.read(data, offset, first)
    count -= info is not None  # the frame with the tag contains no sound
    if info is not None and count < info.count - (0 if cut else max(1, info.count // 20)):  # a few may be damaged
        raise AudioTruncated(f"The MP3 header announces {info.count:,} frames; the upload has {count:,}.")
    if info is not None and count <= info.count:
        return Header("MP3", _CODEC, first.rate, first.channels, max(count * first.samples - info.padding, 0), offset)
    # Without a tag libsndfile estimates the length and stops there, which can lose a third of the sound
    # (https://github.com/libsndfile/libsndfile/pull/943, https://github.com/libsndfile/libsndfile/issues/1001). So such
    # a stream gets a tag with the true count, and so do concatenated files, whose tag describes the first part only.
    sound = offset if info is None else offset + first.size
    tag = _InfoTag.write(data[sound : sound + 4], first, count)
    return Header("MP3", _CODEC, first.rate, first.channels, count * first.samples, sound, tag)


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
