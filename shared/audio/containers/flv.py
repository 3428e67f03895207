"""The header reader of Flash video (FLV), as streams are recorded: its sound.

https://rtmp.veriskope.com/pdf/video_file_format_spec_v10.pdf, annex E.
"""

import re
from struct import unpack_from

from otoscope.errors import AudioUnsupported, NotAudio
from shared.audio.headers import Decoder, Header, step

_CODECS = {  # by the upper four bits of the first byte of a sound
    0: "PCM", 1: "Flash ADPCM", 2: "MPEG layer III", 3: "PCM", 4: "Nellymoser", 5: "Nellymoser", 6: "Nellymoser",
    7: "A-law", 8: "µ-law", 10: "AAC", 11: "Speex", 14: "MPEG layer III",
}  # fmt: skip
_SOUND = 8
_KINDS = (_SOUND, 9, 18)  # of tags: sound, pictures and data
_CUT = "The Flash video ends inside a tag."
_TAG = re.compile(rb"[\x08\x09\x12].{7}\0\0\0", re.DOTALL)  # the number of the stream is 0
_MAGIC = b"FLV\x01"
_MAX_DAMAGE = 2**20  # bytes in which the next tag must begin


def read_flv_header(data: bytes, start: int) -> Header:
    """Walks the tags. Raises NotAudio or AudioUnsupported."""
    at = start + unpack_from(">I", data, start + 5)[0] + 4
    codec, truncated, end = "", "", len(data)
    while True:
        step()
        if at + 11 > len(data):
            if codec and len(data) > at + 1 and data[at] in _KINDS:
                truncated = truncated or _CUT
            break
        size = int.from_bytes(data[at + 1 : at + 4])
        if not _TAG.match(data, at):
            following = _next_tag(data, at)
            if following is None:  # junk, or another file
                end = at
                break
            truncated, at = f"The Flash video is damaged at byte {at:,}.", following
            continue
        if data[at] == _SOUND and size and not codec:
            number = data[at + 11] >> 4
            if number not in _CODECS:
                known = ", ".join(dict.fromkeys(_CODECS.values()))
                raise AudioUnsupported(f"Flash video with sound of codec {number} is not accepted; {known} are.")
            codec = _CODECS[number]
        at += 11 + size + 4
        if at - 4 > len(data):
            truncated = truncated or _CUT
    if not codec:
        raise NotAudio("The Flash video has no sound.")
    return Header("FLV", codec, 0, 0, None, start, decoder=Decoder.PYAV, end=end, truncated=truncated)


def _next_tag(data: bytes, at: int) -> int | None:
    """Where the next tag of this file begins, whose size is repeated behind it; None where none follows."""
    another = data.find(_MAGIC, at)
    stop = min(at + _MAX_DAMAGE, len(data)) if another < 0 else min(at + _MAX_DAMAGE, another)
    for match in _TAG.finditer(data, at, stop):
        step()
        place = match.start()
        size = 11 + int.from_bytes(data[place + 1 : place + 4])
        if data[place + size : place + size + 4] == size.to_bytes(4):
            return place
    return None
