"""Metadata of compressed streams: MP3 (frames in a row), Ogg (pages), MP4 (boxes in boxes), in plain Python.

Used by `shared.audio.headers` alone, under its rules: nothing is inflated, and every loop moves forward through bytes
that are already in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct, pack, unpack_from

from otoscope.errors import AudioCorrupt, AudioEmpty, AudioTruncated, AudioUnsupported, NotAudio


@dataclass(frozen=True)
class Stream:
    """A sound track. `frames` is samples a channel; None where only decoding can tell."""

    codec: str
    rate: int  # Hz; 0 where only decoding can tell
    channels: int  # 0 where only decoding can tell
    frames: int | None
    offset: int = 0  # bytes before the first frame that a decoder needs
    lead: bytes = b""  # what it needs before that


# --- MP3 ------------------------------------------------------------------------------------------------------------

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # Hz, by version bits
_KBITS_V1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)

_MP3 = "MPEG layer III"
_MAX_JUNK = 65_536  # bytes outside of frames that are looked through before the rest counts as no sound
_LEAD_IN = 4_096  # the same before the first frame, for streams cut anywhere: more than one frame of the largest size
_CHAIN = 3  # frames that must follow one another: one looks like an accident every 16 KB of random bytes, three never


@dataclass(frozen=True)
class _Frame:
    size: int  # bytes
    samples: int
    rate: int  # Hz
    channels: int

    def fits(self, other: "_Frame") -> bool:
        return (self.samples, self.rate, self.channels) == (other.samples, other.rate, other.channels)


@lru_cache(4_096)
def _frame(head: bytes) -> _Frame | None:
    """The layer III frame that starts with these four bytes, or None."""
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


def find_mp3(data: bytes, start: int) -> int | None:
    """Where the first of a chain of layer III frames begins, looked for in a short stretch; None if there is none."""
    at = start
    while 0 <= at < start + _LEAD_IN:
        if _chained(data, at):
            return at
        at = data.find(b"\xff", at + 1)
    return None


def _chained(data: bytes, at: int) -> bool:
    first = frame = _frame(data[at : at + 4])
    for link in range(1, _CHAIN):
        if first is None or frame is None:
            return False
        at += frame.size
        if at >= len(data):  # a sound of two frames, or its last two
            return link > 1
        frame = _frame(data[at : at + 4])
        if frame is None or not frame.fits(first):
            return link > 1 and _is_tail(data, at)
    return True


def _is_tail(data: bytes, at: int) -> bool:
    return data[at : at + 3] == b"TAG" or data[at : at + 8] == b"APETAGEX"


def after_id3(data: bytes) -> int:
    """Where the file goes on after the ID3v2 tags at its start. Raises AudioTruncated or AudioEmpty."""
    at = 0
    while data[at : at + 3] == b"ID3":
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += 20 + size if data[at + 5] & 0x10 else 10 + size  # that flag: a footer repeats the ten bytes of header
        if at > len(data):
            raise AudioTruncated(f"The file ends inside its ID3 tag of {at:,} bytes; the upload holds {len(data):,}.")
        if at == len(data):
            raise AudioEmpty("The file holds an ID3 tag and no sound.")
    return at


def scan_mp3(data: bytes, start: int) -> Stream:
    """Walk all frames. Raises NotAudio, or AudioTruncated where a tag tells how many there should be."""
    offset = find_mp3(data, start)
    first = None if offset is None else _frame(data[offset : offset + 4])
    if offset is None or first is None:
        raise NotAudio("The upload has no MPEG layer III frames that follow one another.")
    at, count, junk, cut = offset, 0, 0, False
    while at < len(data) and junk <= _MAX_JUNK:
        frame = _frame(data[at : at + 4])
        if frame is None or not frame.fits(first):  # a tag, damage, or the end
            following = data.find(b"\xff", at + 1)
            while 0 <= following <= at + _MAX_JUNK and not _chained(data, following):
                following = data.find(b"\xff", following + 1)
            following = following if following >= 0 else len(data)
            junk += following - at
            at = following
            continue
        at += frame.size
        cut = at > len(data)
        count += not cut
    info = _Info.read(data, offset, first)
    count -= info is not None  # the frame that carries the information holds no sound
    if info is not None and count < info.count - (0 if cut else max(1, info.count // 20)):  # a few may be damaged
        raise AudioTruncated(f"The MP3 header announces {info.count:,} frames; the upload holds {count:,}.")
    if info is not None and count <= info.count:
        return Stream(_MP3, first.rate, first.channels, max(count * first.samples - info.padding, 0), offset)
    # libsndfile guesses the length where no frame tells it, and stops there: a third of the sound can be missing. So
    # such streams, and files joined end to end, of which the first frame knows the first part only, get a true one.
    sound = offset if info is None else offset + first.size
    lead = _Info.write(data[sound : sound + 4], first, count)
    return Stream(_MP3, first.rate, first.channels, count * first.samples, sound, lead)


@dataclass(frozen=True)
class _Info:
    """The Xing or Info tag that encoders leave in the first frame."""

    count: int  # frames
    padding: int  # samples before and after the sound

    @staticmethod
    def place(frame: _Frame) -> int:
        """Bytes before the tag: the frame's header and the side information of its version and channels."""
        long = frame.samples == 1_152
        return 4 + ((17 if long else 9) if frame.channels == 1 else (32 if long else 17))

    @classmethod
    def read(cls, data: bytes, at: int, first: _Frame) -> "_Info | None":
        at += cls.place(first)
        if data[at : at + 4] not in (b"Xing", b"Info") or len(data) < at + 144:
            return None
        flags, count = unpack_from(">II", data, at + 4)
        if not flags & 1:
            return None
        # Frame count, byte count, seek table and quality are each optional; what encoders add comes behind them.
        at += 8 + 4 + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
        delays = int.from_bytes(data[at + 21 : at + 24], "big") if data[at : at + 4].isalnum() else 0
        return cls(count, (delays >> 12) + (delays & 0xFFF))

    @classmethod
    def write(cls, head: bytes, like: _Frame, count: int) -> bytes:
        """The smallest frame with a tag that tells the count, for a stream that goes on with the frame of that head."""
        tag = bytes(cls.place(like) - 4) + b"Xing" + pack(">II", 1, count)
        for kbits in range(1, 15):
            own = bytes([head[0], head[1] | 1, kbits << 4 | head[2] & 0x0C, head[3]])  # no checksum, no padding
            frame = _frame(own)
            if frame is not None and frame.size >= 4 + len(tag):
                return (own + tag).ljust(frame.size, b"\0")
        raise AssertionError("the largest frames have a thousand bytes")


# --- Ogg ------------------------------------------------------------------------------------------------------------

_PAGE = Struct("<4sBBqIIIB")  # capture pattern, version, flags, end position, serial, number, checksum, segments
_OTHER = {
    b"\x7fFLAC": "FLAC", b"Speex   ": "Speex", b"\x80theora": "Theora video", b"fishead\0": "a skeleton",
    b"\x80kate": "Kate subtitles", b"PCM     ": "PCM", b"BBCD\0": "Dirac video",
}  # fmt: skip
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # Hz that the decoder produces; positions are at 48 kHz always


def scan_ogg(data: bytes, start: int) -> Stream:
    """The only stream, Vorbis or Opus. Raises AudioUnsupported or AudioTruncated."""
    packet = start + 27 + data[start + 26]  # behind the table of segments
    first = data[packet : packet + 19]
    if first[:7] == b"\x01vorbis":
        channels, rate = unpack_from("<BI", first, 11)
        begin, end = _span(data, start, rate)
        return Stream("Vorbis", rate, channels, end - begin, start)
    if first[:8] == b"OpusHead":
        channels, skip, wanted = unpack_from("<BHI", first, 9)
        begin, end = _span(data, start, 48_000)
        rate = next((rate for rate in _OPUS_RATES if rate >= wanted), 48_000)
        return Stream("Opus", rate, channels, max(end - begin - skip, 0) * rate // 48_000, start)
    found = next((name for magic, name in _OTHER.items() if first.startswith(magic)), "an unknown codec")
    raise AudioUnsupported(f"Ogg with {found} is not accepted; Ogg with Vorbis or Opus is.")


def _span(data: bytes, at: int, second: int) -> tuple[int, int]:
    """(first, last) position of the stream, in samples; every page is checked to be whole.

    Recordings of a running broadcast do not begin at 0. Where they do begin, their first two pages of sound tell about.
    """
    only, end = data[at + 14 : at + 18], 0
    early: list[tuple[int, int]] = []  # position and packets of the first two
    while at < len(data):
        if at + 27 > len(data) or data[at : at + 4] != b"OggS":
            raise AudioTruncated(f"The Ogg stream breaks off at byte {at:,} of {len(data):,}.")
        _, _, _, position, _, _, _, segments = _PAGE.unpack_from(data, at)
        if data[at + 14 : at + 18] != only:
            raise AudioUnsupported("Ogg files with more than one stream are not accepted.")
        table = data[at + 27 : at + 27 + segments]
        size = 27 + segments + sum(table)
        if at + size > len(data):
            raise AudioTruncated(f"The Ogg stream breaks off inside the page at byte {at:,}.")
        if position > 0 and len(early) < 2:
            early.append((position, segments - table.count(255)))
        end = max(end, position)
        at += size
    if len(early) < 2:
        return 0, end
    (one, packets), (two, others) = early
    begin = one - (two - one) * packets // max(others, 1)
    return (begin if second < begin < end else 0), end


# --- MP4 ------------------------------------------------------------------------------------------------------------

_MAX_BOXES = 10_000  # in one level; real files have a few dozen, fragmented ones a few thousand
_UNKNOWN = (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)  # durations of files that are written as they are recorded


def scan_mp4(data: bytes) -> Stream:
    """The first sound track. Raises NotAudio, AudioUnsupported, AudioTruncated or AudioCorrupt."""
    movie: tuple[int, int] | None = None
    for name, start, end in _boxes(data, 0, len(data)):
        if name == b"moov":
            movie = (start, end)
    if movie is None:
        raise AudioTruncated("The MP4 file has no index (its moov box): its recording was never completed.")
    tracks = 0
    for name, start, end in _boxes(data, *movie):
        if name == b"trak":
            tracks += 1
            media = _descend(data, start, end, b"mdia")
            handler = media and _descend(data, *media, b"hdlr")
            if media and handler and data[handler[0] + 8 : handler[0] + 12] == b"soun":
                return _sound_track(data, *media)
    raise NotAudio(f"The MP4 file (brand {_printable(data[8:12])}) has no sound track, only {tracks} of other kinds.")


def _sound_track(data: bytes, start: int, end: int) -> Stream:
    header = _descend(data, start, end, b"mdhd")
    entries = _descend(data, start, end, b"minf", b"stbl", b"stsd")
    if header is None or entries is None:
        raise AudioCorrupt("The sound track of the MP4 file is not described.")
    wide = data[header[0]] == 1
    timescale, duration = unpack_from(">IQ" if wide else ">II", data, header[0] + (20 if wide else 12))
    kind, channels, rate = unpack_from(">4s16xH6xH", data, entries[0] + 12)
    if kind not in (b"mp4a", b"alac"):
        raise AudioUnsupported(f"MP4 sound of type {_printable(kind)} is not accepted; AAC and ALAC are.")
    rate = rate or timescale  # the field is too small for 88.2 kHz and more
    frames = None if duration in _UNKNOWN or not timescale else duration * rate // timescale
    return Stream("AAC" if kind == b"mp4a" else "ALAC", rate, channels, frames)


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of what each box holds."""
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        size, name = unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            size, head = unpack_from(">Q", data, at + 8)[0], 16
        elif size == 0:
            size = end - at
        if size < head:
            raise AudioCorrupt(f"The MP4 box {_printable(name)} at byte {at:,} claims a size of {size}.")
        if at + size > end:
            raise AudioTruncated(f"The MP4 box {_printable(name)} announces {size:,} bytes; {end - at:,} are there.")
        yield name, at + head, at + size
        at += size
    raise AudioCorrupt(f"The MP4 file has more than {_MAX_BOXES:,} boxes in a row.")


def _descend(data: bytes, start: int, end: int, *path: bytes) -> tuple[int, int] | None:
    """The span of the box at the end of the path; the first of each name counts."""
    for wanted in path:
        for name, inner, after in _boxes(data, start, end):
            if name == wanted:
                start, end = inner, after
                break
        else:
            return None
    return start, end


def _printable(name: bytes) -> str:
    return repr(name.decode("latin-1"))
