"""The header reader of MP4 and QuickTime (M4A, MOV, 3GP), also fragmented: the first sound track.

Boxes: ISO/IEC 14496-12. Sound in QuickTime: https://developer.apple.com/documentation/quicktime-file-format.
"""

import re
from collections.abc import Iterator
from struct import unpack_from

from otoscope.errors import AudioCorrupt, AudioTruncated, AudioUnsupported, NotAudio
from shared.audio.containers.tags import tag_size
from shared.audio.headers import Decoder, Header

_CODECS = {
    b"mp4a": "AAC", b"alac": "ALAC", b"Opus": "Opus", b"fLaC": "FLAC", b"samr": "AMR-NB", b"sawb": "AMR-WB",
    b".mp3": "MPEG layer III", b"ms\0\x55": "MPEG layer III", b".mp2": "MPEG layer II", b"ac-3": "AC-3",
    b"ec-3": "E-AC-3", b"ima4": "IMA ADPCM", b"ms\0\x11": "IMA ADPCM", b"ms\0\x02": "Microsoft ADPCM",
    b"ulaw": "µ-law", b"alaw": "A-law", b"sowt": "PCM", b"twos": "PCM", b"in24": "PCM", b"in32": "PCM", b"raw ": "PCM",
    b"NONE": "PCM", b"lpcm": "PCM", b"ipcm": "PCM", b"fpcm": "float", b"fl32": "float", b"fl64": "float",
}  # fmt: skip
_OBJECT_TYPES = {0x69: "MPEG layer III", 0x6B: "MPEG layer III", 0xA5: "AC-3", 0xA6: "E-AC-3", 0xAD: "Opus"}
_MPEG4_SOUND = re.compile(rb"esds.{4}\x03[\x80-\xff]{0,3}[\0-\x7f]..\0\x04[\x80-\xff]{0,3}[\0-\x7f](.)", re.DOTALL)
"""The description of an `mp4a`, with its type of object (ISO/IEC 14496-1, mp4ra.org): AAC but for these."""
_MAX_BOXES = 10_000  # in one level; real files have a few dozen, fragmented ones a few thousand
_UNKNOWN = (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)  # durations of files that are written while they are recorded
_BOX_NAME = re.compile(rb"[\w \xa9-]{4}")
_PICTURES = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis", b"crx "})
_MIN_RATE = 1_000  # Hz: smaller values stand in fields that newer descriptions do not use


def read_mp4_header(data: bytes, start: int) -> Header:
    """Raises NotAudio, AudioUnsupported, AudioTruncated or AudioCorrupt."""
    movie: tuple[int, int] | None = None
    stop, truncated, samples = len(data), "", False
    for name, begin, end in _boxes(data, start, stop, whole=False):
        if name == b"ftyp" and movie is not None and samples:  # another file
            stop = begin - 8
            break
        junk = not _BOX_NAME.fullmatch(name) or tag_size(data, begin - 8)
        if movie is not None and samples and junk:
            stop = begin - 8
            break
        if end > stop:
            announced, present = f"{end - begin + 8:,}", f"{stop - begin + 8:,}"
            truncated = f"The MP4 box {_printable(name)} announces {announced} bytes; {present} are present."
        if name == b"moov":
            movie = (begin, min(end, stop))
        samples = samples or name == b"mdat"
    if movie is None:
        raise _without_index(data, start, truncated)
    tracks = 0
    for name, begin, end in _boxes(data, *movie):
        if name == b"trak":
            tracks += 1
            media = _find(data, begin, end, b"mdia")
            handler = media and _find(data, *media, b"hdlr")
            if media and handler and data[handler[0] + 8 : handler[0] + 12] == b"soun":
                codec, rate, channels, frames = _sound_track(data, *media)
                return Header(
                    "M4A", codec, rate, channels, frames, start, decoder=Decoder.PYAV, end=stop, truncated=truncated,
                )  # fmt: skip
    brand = _printable(data[start + 8 : start + 12])
    raise NotAudio(f"The MP4 file (brand {brand}) has no sound track, only {tracks} of other kinds.")


def _without_index(data: bytes, start: int, truncated: str) -> NotAudio | AudioTruncated:
    """The error for a file without a `moov` box: nothing else says what its frames are and where they begin."""
    brand = data[start + 8 : start + 12]
    if data[start + 4 : start + 8] == b"ftyp" and brand in _PICTURES:
        return NotAudio(f"The upload is an image (brand {_printable(brand)}), not a sound file.")
    why = "its recording was never completed, or it is a part of a longer file"
    if any(name == b"moof" for name, _, _ in _boxes(data, start, len(data), whole=False)):
        why = "it is a segment of a stream without the initialisation segment, which has to be put in front"
    elif truncated:
        why = f"it was cut before that, since cameras and recorders write it last. {truncated}"
    return AudioTruncated(
        f"The MP4 file has no index (its moov box), so that nothing of it can be read: {why.rstrip('.')}."
    )


def _sound_track(data: bytes, start: int, end: int) -> tuple[str, int, int, int | None]:
    """(codec, rate, channels, frames)."""
    header = _find(data, start, end, b"mdhd")
    entries = _find(data, start, end, b"minf", b"stbl", b"stsd")
    if header is None or entries is None:
        raise AudioCorrupt("The sound track of the MP4 file is not described.")
    wide = data[header[0]] == 1
    timescale, duration = unpack_from(">IQ" if wide else ">II", data, header[0] + (20 if wide else 12))
    kind, channels, rate = unpack_from(">4s16xH6xH", data, entries[0] + 12)
    if kind not in _CODECS:
        known = ", ".join(dict.fromkeys(_CODECS.values()))
        raise AudioUnsupported(f"MP4 sound of type {_printable(kind)} is not accepted; {known} are.")
    if rate < _MIN_RATE:  # the field is too small for 88.2 kHz and more
        rate = timescale
    frames = None if duration in _UNKNOWN or not timescale else duration * rate // timescale
    codec = _CODECS[kind]
    if kind == b"mp4a" and (described := _MPEG4_SOUND.search(data, entries[0], min(entries[1], entries[0] + 1_000))):
        codec = _OBJECT_TYPES.get(described[1][0], codec)
    return codec, rate, channels, frames


def _boxes(data: bytes, at: int, end: int, *, whole: bool = True) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the content of each box. Raises AudioCorrupt, or AudioTruncated unless not `whole`."""
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
        if at + size > end and whole:
            raise AudioTruncated(f"The MP4 box {_printable(name)} announces {size:,} bytes; {end - at:,} are present.")
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
