"""The header reader of MPEG program streams, as camcorders and DVDs have them (.mpg, .vob): the first sound.

ISO/IEC 13818-1; private streams: http://dvd.sourceforge.net/dvdinfo/pes-hdr.html.
"""

from struct import unpack_from

from otoscope.errors import AudioUnsupported, NotAudio
from shared.audio.headers import Decoder, Header

_PACK, _END, _SYSTEM, _MAP, _PADDING, _PRIVATE = 0xBA, 0xB9, 0xBB, 0xBC, 0xBE, 0xBD
_MAX_PACKETS = 200_000  # of which the first of sound is searched
_PRIVATE_CODECS = {0x80: "AC-3", 0x88: "", 0xA0: "PCM"}  # by the first of eight numbers; "": DTS
_MAX_JUNK = 65_536


def read_mpeg_ps_header(data: bytes, start: int) -> Header:
    """Walks the packets. Raises NotAudio or AudioUnsupported."""
    at, refused, found = start, "", ""
    for _ in range(_MAX_PACKETS):
        following = data.find(b"\0\0\1", at, at + _MAX_JUNK)
        if following < 0 or following + 9 > len(data):
            break
        at = following
        kind = data[at + 3]
        if kind == _PACK:
            at += 14 + (data[at + 13] & 7 if len(data) > at + 13 else 0) if data[at + 4] & 0xC0 == 0x40 else 12
            continue
        if kind <= _END:  # inside of video, or between two files
            at += 4
            continue
        codec = ""
        if 0xC0 <= kind <= 0xDF:
            codec = "MPEG layer II"
        elif kind == _PRIVATE and not found:
            number = data[_content(data, at + 6)]
            codec = _PRIVATE_CODECS.get(number & 0xF8, "")
            refused = refused or ("" if codec else f"{number:#04x}")
        found = found or codec
        at += 6 + unpack_from(">H", data, at + 4)[0]
    if found:
        truncated = "The MPEG program stream ends inside a packet." if at > len(data) else ""
        return Header("MPEG-PS", found, 0, 0, None, start, decoder=Decoder.PYAV, truncated=truncated)
    if refused:
        raise AudioUnsupported(f"MPEG with a private stream {refused} is not accepted; MPEG audio, AC-3 and PCM are.")
    raise NotAudio("The MPEG program stream has no sound.")


def _content(data: bytes, at: int) -> int:
    """The position behind the rest of a packet's header, which MPEG-1 and MPEG-2 write differently."""
    if data[at] & 0xC0 == 0x80:
        return at + 3 + data[at + 2]
    while data[at] == 0xFF:
        at += 1
    if data[at] & 0xC0 == 0x40:  # size of a buffer
        at += 2
    return at + {2: 5, 3: 10}.get(data[at] >> 4, 1)
