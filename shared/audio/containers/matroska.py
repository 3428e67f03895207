"""The header reader of Matroska and WebM, as browsers record it: the first sound track. RFC 8794 and RFC 9559."""

from collections.abc import Iterator
from struct import unpack

from otoscope.errors import AudioCorrupt, AudioTruncated, AudioUnsupported, NotAudio
from shared.audio.containers.tags import strip_tags
from shared.audio.headers import Decoder, Header

_CODECS = {
    "A_OPUS": "Opus", "A_VORBIS": "Vorbis", "A_AAC": "AAC", "A_FLAC": "FLAC", "A_MPEG/L3": "MPEG layer III",
    "A_MPEG/L2": "MPEG layer II", "A_AC3": "AC-3", "A_EAC3": "E-AC-3",
    "A_ALAC": "ALAC", "A_PCM/INT/LIT": "PCM", "A_PCM/INT/BIG": "PCM",
    "A_PCM/FLOAT/IEEE": "float", "A_WAVPACK4": "WavPack",
}  # fmt: skip
_SEGMENT, _INFO, _TRACKS = 0x18538067, 0x1549A966, 0x1654AE6B
_SCALE, _DURATION = 0x2AD7B1, 0x4489  # of the info: nanoseconds of a tick, ticks
_TRACK, _TYPE, _CODEC, _AUDIO = 0xAE, 0x83, 0x86, 0xE1  # of the tracks
_RATE, _CHANNELS = 0xB5, 0x9F  # of the sound
_CLUSTER = bytes.fromhex("1f43b675")
_KNOWN = frozenset({  # elements of the first two levels, and of a cluster
    _SEGMENT, _INFO, _TRACKS, 0x1A45DFA3, 0x114D9B74, 0x1F43B675, 0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469, 0xEC,
    0xBF, 0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0xAF, 0x5854,
})  # fmt: skip
_SOUND = b"\x02"  # the type of a track
_MAX_ELEMENTS = 10_000  # of one level, other than clusters and blocks of sound
_MAX_BLOCKS = 200_000  # two hours have as many
_MAGIC = b"\x1a\x45\xdf\xa3"


def read_matroska_header(data: bytes, start: int) -> Header:
    """Raises NotAudio, AudioUnsupported, AudioTruncated or AudioCorrupt."""
    seconds: float | None = None
    track: dict[int, bytes] | None = None
    kinds = 0
    stop, truncated = strip_tags(data, start), ""
    for at, name, begin, end in _top_level(data, start, stop):
        if name == int.from_bytes(_MAGIC) and track is not None:  # another file
            stop = begin - 5
            break
        if name not in _KNOWN and track is not None and data.find(_CLUSTER, begin, stop) < 0:  # junk behind the file
            stop = at
            break
        if end is not None and end > stop:
            announced, present = f"{end - begin:,}", f"{stop - begin:,}"
            truncated = f"The Matroska element {name:#x} announces {announced} bytes; {present} are present."
        limit = stop if end is None else min(end, stop)
        if name == _INFO:
            seconds = _seconds(dict(_elements(data, begin, limit)))
        elif name == _TRACKS and track is None:
            tracks = [dict(_elements(data, *where)) for found, where in _places(data, begin, limit) if found == _TRACK]
            kinds = len(tracks)
            track = next((each for each in tracks if each.get(_TYPE) == _SOUND), None)
    if track is None:
        if kinds:
            raise NotAudio(f"The Matroska file has no sound track, only {kinds} of other kinds.")
        raise AudioTruncated(truncated or "The Matroska file ends before the description of its tracks.")
    name_of_codec = track.get(_CODEC, b"").rstrip(b"\0").decode("ascii", "replace")
    codec = next((codec for prefix, codec in _CODECS.items() if name_of_codec.startswith(prefix)), None)
    if codec is None:
        known = ", ".join(dict.fromkeys(_CODECS.values()))
        raise AudioUnsupported(f"Matroska with {name_of_codec!r} is not accepted; with {known} it is.")
    sound = dict(_elements(track.get(_AUDIO, b""), 0, len(track.get(_AUDIO, b""))))
    rate = round(_number(sound.get(_RATE, b""), 8_000.0))
    channels = int.from_bytes(sound.get(_CHANNELS, b"\1"))
    frames = None if seconds is None else round(seconds * rate)
    return Header(
        "WebM", codec, rate, channels, frames, start, decoder=Decoder.PYAV, end=stop, truncated=truncated,
    )  # fmt: skip


def _top_level(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int, int | None]]:
    """(position, id, start, end) of the elements of the file and of its segment; the end is None where it is not
    stated."""
    for _ in range(_MAX_BLOCKS):
        if at >= stop:
            return
        place = at
        try:
            name, at = _variable(data, at, keep_marker=True)
            size, begin = _variable(data, at)
        except (AudioCorrupt, IndexError):  # the end, or what is no element
            return
        unknown = size == (1 << 7 * (begin - at)) - 1
        yield place, name, begin, None if unknown else begin + size
        # The content of a segment is its elements, as is that of a cluster of unknown size.
        at = begin if name == _SEGMENT or unknown else begin + size


def _places(data: bytes, at: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """(id, (start, end)) of the elements in between. Raises AudioCorrupt."""
    for _ in range(_MAX_ELEMENTS):
        if at >= end:
            return
        name, at = _variable(data, at, keep_marker=True)
        size, at = _variable(data, at)
        if at + size > end:
            raise AudioCorrupt(f"The Matroska element {name:#x} is longer than the one that it is part of.")
        yield name, (at, at + size)
        at += size
    raise AudioCorrupt(f"The Matroska file has more than {_MAX_ELEMENTS:,} elements in a row.")


def _elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    return ((name, data[begin:after]) for name, (begin, after) in _places(data, at, end))


def _variable(data: bytes, at: int, *, keep_marker: bool = False) -> tuple[int, int]:
    """(number of variable length, position behind it). Raises IndexError at the end of the data, or AudioCorrupt."""
    first = data[at]
    length = 9 - first.bit_length()
    if length > 8 or at + length > len(data):
        raise AudioCorrupt(f"The Matroska file has no element at byte {at:,}.")
    value = int.from_bytes(data[at : at + length])
    return (value if keep_marker else value & (1 << 7 * length) - 1), at + length


def _seconds(info: dict[int, bytes]) -> float | None:
    """The duration; None for a live recording."""
    ticks = _number(info.get(_DURATION, b""), 0.0)
    return ticks * int.from_bytes(info.get(_SCALE, b"\x0f\x42\x40")) / 1e9 if 0 < ticks < 1e15 else None


def _number(raw: bytes, default: float) -> float:
    """A float of four or eight bytes; the default for NaN and infinity, too."""
    value = unpack(">f" if len(raw) == 4 else ">d", raw)[0] if len(raw) in (4, 8) else default
    return value if abs(value) < 1e30 else default
