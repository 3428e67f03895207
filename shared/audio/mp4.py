"""The header reader of MP4 (M4A): the first sound track, AAC or ALAC. Boxes: ISO/IEC 14496-12."""

from collections.abc import Iterator
from struct import unpack_from

from otoscope.errors import AudioCorrupt, AudioTruncated, AudioUnsupported, NotAudio
from shared.audio.headers import Header

_MAX_BOXES = 10_000  # in one level; real files have a few dozen, fragmented ones a few thousand
_UNKNOWN = (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)  # durations of files that are written while they are recorded


def read_mp4_header(data: bytes, start: int) -> Header:
    """Raises NotAudio, AudioUnsupported, AudioTruncated or AudioCorrupt."""
    if start:
        raise AudioCorrupt("The MP4 file has an ID3 tag before it.")
    movie: tuple[int, int] | None = None
    for name, begin, end in _boxes(data, 0, len(data)):
        if name == b"moov":
            movie = (begin, end)
    if movie is None:
        raise AudioTruncated("The MP4 file has no index (its moov box): its recording was never completed.")
    tracks = 0
    for name, begin, end in _boxes(data, *movie):
        if name == b"trak":
            tracks += 1
            media = _find(data, begin, end, b"mdia")
            handler = media and _find(data, *media, b"hdlr")
            if media and handler and data[handler[0] + 8 : handler[0] + 12] == b"soun":
                return _sound_track(data, *media)
    raise NotAudio(f"The MP4 file (brand {_printable(data[8:12])}) has no sound track, only {tracks} of other kinds.")


def _sound_track(data: bytes, start: int, end: int) -> Header:
    header = _find(data, start, end, b"mdhd")
    entries = _find(data, start, end, b"minf", b"stbl", b"stsd")
    if header is None or entries is None:
        raise AudioCorrupt("The sound track of the MP4 file is not described.")
    wide = data[header[0]] == 1
    timescale, duration = unpack_from(">IQ" if wide else ">II", data, header[0] + (20 if wide else 12))
    kind, channels, rate = unpack_from(">4s16xH6xH", data, entries[0] + 12)
    if kind not in (b"mp4a", b"alac"):
        raise AudioUnsupported(f"MP4 sound of type {_printable(kind)} is not accepted; AAC and ALAC are.")
    rate = rate or timescale  # the field is too small for 88.2 kHz and more
    frames = None if duration in _UNKNOWN or not timescale else duration * rate // timescale
    return Header("M4A", "AAC" if kind == b"mp4a" else "ALAC", rate, channels, frames)


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the content of each box."""
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


def _find(data: bytes, start: int, end: int, *path: bytes) -> tuple[int, int] | None:
    """(start, end) of the content of the box at that path; of several with the same name the first one counts."""
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
