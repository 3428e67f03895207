"""The header reader of Windows Media (ASF): the first sound stream.

Advanced Systems Format (ASF) specification, section 3.
"""

from struct import unpack_from

from otoscope.errors import AudioCorrupt, AudioTruncated, AudioUnsupported, NotAudio
from shared.audio.containers.wave_codecs import CODECS, EXTENSIBLE, NAMES
from shared.audio.headers import Decoder, Header

MAGIC = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # file properties
_STREAM = bytes.fromhex("9107dcb7b7a9cf118ee600c00c205365")  # stream properties
_SOUND = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_MAX_OBJECTS = 1_000
_EMPTY = 50  # bytes of a data object without packets


def read_asf_header(data: bytes, start: int) -> Header:
    """Raises NotAudio, AudioUnsupported, AudioTruncated or AudioCorrupt."""
    size, count = unpack_from("<QI", data, start + 16)
    if start + size > len(data):
        raise AudioTruncated(f"The Windows Media file ends inside its header of {size:,} bytes.")
    seconds: float | None = None
    sound: tuple[int, int, int] | None = None  # tag of the codec, channels, rate
    at = start + 30
    for _ in range(min(count, _MAX_OBJECTS)):
        if at + 24 > start + size:
            break
        kind, length = data[at : at + 16], unpack_from("<Q", data, at + 16)[0]
        if length < 24:
            raise AudioCorrupt(f"An object of the Windows Media file claims a size of {length} bytes.")
        if kind == _FILE:
            ticks, preroll, flags = unpack_from("<Q8xQI", data, at + 64)
            if not flags & 1 and ticks:  # not a live recording
                seconds = max(ticks / 1e7 - preroll / 1e3, 0) or None
        elif kind == _STREAM and sound is None and data[at + 24 : at + 40] == _SOUND:
            sound = unpack_from("<HHI", data, at + 78)
            if sound[0] == EXTENSIBLE:
                sound = (unpack_from("<H", data, at + 102)[0], *sound[1:])
        at += length
    if sound is None:
        raise NotAudio("The Windows Media file has no sound.")
    tag, channels, rate = sound
    if tag not in CODECS:
        raise AudioUnsupported(f"Windows Media of codec {tag:#06x} is not accepted; {NAMES} are.")
    truncated, at = "", start + size
    end = len(data)
    if data[at : at + 16] == _DATA:
        claimed = unpack_from("<Q", data, at + 16)[0]
        if claimed > len(data) - at:
            truncated = f"The Windows Media file announces {claimed:,} bytes of sound; it has {len(data) - at:,}."
        elif claimed > _EMPTY:  # a live recording announces none
            end = _skip_objects(data, at)
    else:
        truncated = "The Windows Media file ends behind its header."
    frames = None if seconds is None else round(seconds * rate)
    return Header(
        "WMA", CODECS[tag], rate, channels, frames, start, decoder=Decoder.PYAV, end=end, truncated=truncated,
    )  # fmt: skip


def _skip_objects(data: bytes, at: int) -> int:
    """The position behind the sound and the indexes that follow it."""
    for _ in range(_MAX_OBJECTS):
        if at + 24 > len(data) or data[at : at + 16] == MAGIC:
            break
        size = unpack_from("<Q", data, at + 16)[0]
        if size < 24 or at + size > len(data):
            break
        at += size
    return at
