"""The header reader of Flash video (FLV), as streams are recorded: its sound.

https://rtmp.veriskope.com/pdf/video_file_format_spec_v10.pdf, annex E.
"""

from struct import unpack_from

from otoscope.errors import AudioUnsupported, NotAudio
from shared.audio.headers import Decoder, Header

_CODECS = {  # by the upper four bits of the first byte of a sound
    0: "PCM", 1: "Flash ADPCM", 2: "MPEG layer III", 3: "PCM", 4: "Nellymoser", 5: "Nellymoser", 6: "Nellymoser",
    7: "A-law", 8: "µ-law", 10: "AAC", 11: "Speex", 14: "MPEG layer III",
}  # fmt: skip
_SOUND = 8
_MAX_TAGS = 1_000_000  # two hours have fewer


def read_flv_header(data: bytes, start: int) -> Header:
    """Walks the tags. Raises NotAudio or AudioUnsupported."""
    at = start + unpack_from(">I", data, start + 5)[0] + 4
    codec, truncated = "", ""
    for _ in range(_MAX_TAGS):
        if at + 11 > len(data):
            break
        kind, size = data[at] & 0x1F, int.from_bytes(data[at + 1 : at + 4])
        if kind not in (_SOUND, 9, 18) or (codec and any(data[at + 8 : at + 11])):  # the number of the stream, always 0
            break
        if kind == _SOUND and size and not codec:
            number = data[at + 11] >> 4
            if number not in _CODECS:
                known = ", ".join(dict.fromkeys(_CODECS.values()))
                raise AudioUnsupported(f"Flash video with sound of codec {number} is not accepted; {known} are.")
            codec = _CODECS[number]
        at += 11 + size + 4
        if at - 4 > len(data):
            truncated = "The Flash video ends inside a tag."
    if not codec:
        raise NotAudio("The Flash video has no sound.")
    return Header("FLV", codec, 0, 0, None, start, decoder=Decoder.PYAV, truncated=truncated)
