"""The header reader of MPEG transport streams, as broadcasts, HLS segments and AVCHD cameras have them: the first
program. ISO/IEC 13818-1; types of streams: https://www.iana.org/assignments and ATSC A/53."""

from collections.abc import Iterator
from struct import unpack_from

from otoscope.errors import AudioCorrupt, AudioUnsupported, NotAudio
from shared.audio.headers import Decoder, Header

_CODECS = {  # by stream type
    0x03: "MPEG layer II", 0x04: "MPEG layer II", 0x0F: "AAC", 0x11: "AAC", 0x80: "PCM", 0x81: "AC-3", 0x84: "E-AC-3",
    0x87: "E-AC-3",
}  # fmt: skip
_PACKET = 188  # bytes, without what some recorders put around it
_PRIVATE = 0x06  # the codec is in a descriptor
_REGISTERED = {b"Opus": "Opus", b"AC-3": "AC-3", b"EAC3": "E-AC-3"}
_DESCRIPTORS = {0x6A: "AC-3", 0x7A: "E-AC-3"}
_VIDEO = frozenset({0x01, 0x02, 0x10, 0x1B, 0x24, 0x33, 0xEA})
_MAX_PACKETS = 50_000  # in which the tables of the program must be: ten megabytes


def read_mpeg_ts_header(data: bytes, start: int) -> Header:
    """Raises NotAudio, AudioUnsupported or AudioCorrupt."""
    stride, lead = next(
        (stride, lead)
        for stride, lead in ((188, 0), (192, 4), (204, 0))
        if data[start + lead + stride] == data[start + lead] == 0x47
    )
    maps: set[int] = set()
    for pid, section in _sections(data, start + lead, stride):
        if pid == 0 and section[0] == 0:
            maps |= {
                unpack_from(">H", section, at + 2)[0] & 0x1FFF
                for at in range(8, len(section) - 4, 4)
                if unpack_from(">H", section, at)[0]
            }
        elif pid in maps and section[0] == 2:
            codec = _codec(section)
            rest = (len(data) - start - lead) % stride
            cut = 0 < rest < _PACKET and data[-rest] == data[-rest - stride] == 0x47
            truncated = "The MPEG transport stream ends inside a packet." if cut else ""
            return Header("MPEG-TS", codec, 0, 0, None, start, decoder=Decoder.PYAV, truncated=truncated)
    raise AudioCorrupt("The MPEG transport stream has no table of its program.")


def _sections(data: bytes, at: int, stride: int) -> Iterator[tuple[int, bytes]]:
    """(packet identifier, table) of those that fit into one packet."""
    for _ in range(_MAX_PACKETS):
        if at + 188 > len(data):
            return
        if data[at] == 0x47 and data[at + 1] & 0x40 and data[at + 3] & 0x10:  # a unit begins here
            pid = unpack_from(">H", data, at + 1)[0] & 0x1FFF
            begin = at + 4 + (1 + data[at + 4] if data[at + 3] & 0x20 else 0)
            if begin < at + 187:
                begin += 1 + data[begin]
                size = unpack_from(">H", data, begin + 1)[0] & 0x0FFF if begin + 3 < at + 188 else 0
                if size > 0 and begin + 3 + size <= at + 188:
                    yield pid, data[begin : begin + 3 + size]
        at += stride


def _codec(section: bytes) -> str:
    """Of the first stream of sound. Raises NotAudio or AudioUnsupported."""
    at = 12 + (unpack_from(">H", section, 10)[0] & 0x0FFF)
    others: list[int] = []
    while at + 5 <= len(section) - 4:
        kind, size = section[at], unpack_from(">H", section, at + 3)[0] & 0x0FFF
        codec = _CODECS.get(kind) or (_described(section[at + 5 : at + 5 + size]) if kind == _PRIVATE else "")
        if codec:
            return codec
        others.append(kind)
        at += 5 + size
    if set(others) <= _VIDEO:
        raise NotAudio(f"The MPEG transport stream has no sound, only {len(others)} streams of other kinds.")
    known = ", ".join(dict.fromkeys((*_CODECS.values(), *_REGISTERED.values())))
    kinds = ", ".join(f"{kind:#04x}" for kind in others)
    raise AudioUnsupported(f"The streams of type {kinds} in the MPEG transport stream are not accepted; {known} are.")


def _described(descriptors: bytes) -> str:
    at = 0
    while at + 2 <= len(descriptors):
        tag, size = descriptors[at], descriptors[at + 1]
        if tag in _DESCRIPTORS:
            return _DESCRIPTORS[tag]
        if tag == 5 and descriptors[at + 2 : at + 6] in _REGISTERED:
            return _REGISTERED[descriptors[at + 2 : at + 6]]
        at += 2 + size
    return ""
