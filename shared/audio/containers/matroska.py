"""The header reader of Matroska and WebM, as browsers record it: the first sound track. RFC 8794 and RFC 9559."""

import re
from collections.abc import Iterator
from struct import unpack

from otoscope.errors import AudioCorrupt, AudioTruncated, AudioUnsupported, NotAudio
from shared.audio.headers import Decoder, Header, step

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
_EBML, _CLUSTER = 0x1A45DFA3, 0x1F43B675
_OF_CLUSTER = frozenset({0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0xAF, 0x5854, 0xEC, 0xBF})
_KNOWN = _OF_CLUSTER | {
    _EBML, _SEGMENT, _INFO, _TRACKS, _CLUSTER, 0x114D9B74, 0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469,
}  # fmt: skip
_SOUND = b"\x02"  # the type of a track
_MAX_ELEMENTS = 10_000  # of one level, other than clusters and blocks of sound
_RESTART = re.compile(rb"\x1f\x43\xb6\x75|\x1a\x45\xdf\xa3")  # a cluster, or another file
_BLOCK = re.compile(rb"[\xa0\xa3]")
_CHAIN = 4  # consecutive elements that make random bytes improbable
_MAX_DAMAGE = 2**20  # bytes in which the next ones must begin


def read_matroska_header(data: bytes, start: int) -> Header:
    """Raises NotAudio, AudioUnsupported, AudioTruncated or AudioCorrupt."""
    seconds: float | None = None
    track: dict[int, bytes] | None = None
    kinds = 0
    elements, stop, damage = _walk(data, start)
    for name, begin, end in elements:
        if name == _INFO:
            seconds = _seconds(dict(_elements(data, begin, end)))
        elif name == _TRACKS and track is None:
            tracks = [dict(_elements(data, *where)) for found, where in _places(data, begin, end) if found == _TRACK]
            kinds = len(tracks)
            track = next((each for each in tracks if each.get(_TYPE) == _SOUND), None)
    if track is None:
        if kinds:
            raise NotAudio(f"The Matroska file has no sound track, only {kinds} of other kinds.")
        raise AudioTruncated(damage or "The Matroska file ends before the description of its tracks.")
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
        "WebM", codec, rate, channels, frames, start, decoder=Decoder.PYAV, end=stop, truncated=damage,
    )  # fmt: skip


def _walk(data: bytes, start: int) -> tuple[list[tuple[int, int, int]], int, str]:
    """(id, start and end of the elements of a file and of its segment, but for clusters; where the file ends, before
    junk or another file; what is missing, in a sentence).

    Clusters are walked to find damage: a decoder that meets it goes on at the next cluster, up to seconds later.
    """
    found: list[tuple[int, int, int]] = []
    stop, damage = len(data), ""
    at = last = start  # of an element, and of the one before it
    segment = cluster = 0  # their ends, where these are stated
    restart = start  # of the next cluster behind damage
    while at < stop:
        step()
        name, begin, end = _element(data, at)
        if name == _EBML and at > start:  # another file
            return found, at, damage
        bound = cluster if at < cluster else segment if at < segment else stop
        if name == _SEGMENT or (name == _CLUSTER and at >= cluster):
            if end is not None and end > stop:
                damage = damage or _cut(name, begin, end, stop)
            if name == _SEGMENT:
                segment = end or 0
            else:
                cluster = end or 0
            last, at = at, begin
            continue
        if end is not None and end <= min(bound, stop) and (name in _KNOWN or _is_chain(data, end, stop)):
            if name not in _OF_CLUSTER:
                found.append((name, begin, end))
            last, at = at, end
            continue
        if restart <= last:
            following = _RESTART.search(data, last + 1)
            restart = following.start() if following else stop
        place = restart
        if restart == stop and end is not None and end > stop and name in _KNOWN:
            return found, stop, damage or _cut(name, begin, end, stop)
        if restart == stop:
            place = _next_block(data, at, stop)
        if place == stop and at >= max(cluster, segment):  # junk
            return found, at, damage
        damage = damage or f"The Matroska file is damaged at byte {at:,}."
        last = at = place
    return found, stop, damage


def _cut(name: int, begin: int, end: int, stop: int) -> str:
    return f"The Matroska element {name:#x} announces {end - begin:,} bytes; {stop - begin:,} are present."


def _element(data: bytes, at: int) -> tuple[int, int, int | None]:
    """(id, start, end) of the element there. The end is None where it is not stated, and the id 0 where none is."""
    try:
        middle = at + 9 - data[at].bit_length()
        length = 9 - data[middle].bit_length()
    except IndexError:
        return 0, at, None
    begin, most = middle + length, (1 << 7 * length) - 1
    if middle > at + 4 or length > 8 or begin > len(data):
        return 0, at, None
    size = int.from_bytes(data[middle:begin]) & most
    return int.from_bytes(data[at:middle]), begin, None if size == most else begin + size


def _is_chain(data: bytes, at: int, stop: int) -> bool:
    """Whether known elements follow, several or up to the end."""
    for _ in range(_CHAIN):
        if at == stop:
            break
        name, _, end = _element(data, at)
        if name in (_SEGMENT, _CLUSTER):
            break
        step()
        if name not in _KNOWN or end is None or end > stop:
            return False
        at = end
    return True


def _next_block(data: bytes, at: int, stop: int) -> int:
    """Where the next block behind damage is; else the end."""
    for match in _BLOCK.finditer(data, at + 1, min(at + _MAX_DAMAGE, stop)):
        step()
        _, _, end = _element(data, match.start())
        if end is not None and end <= stop and _is_chain(data, end, stop):
            return match.start()
    return stop


def _places(data: bytes, at: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """(id, (start, end)) of the elements in between. Raises AudioCorrupt."""
    for _ in range(_MAX_ELEMENTS):
        if at >= end:
            return
        step()
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
