"""The header reader of FLAC: the STREAMINFO block. See RFC 9639, section 8.2."""

from otoscope.errors import AudioCorrupt, AudioTruncated
from shared.audio.headers import Decoder, Header
from shared.audio.tags import strip_tags

_START = b"fLaC\x00\x00\x00\x22"  # of a file with further metadata, as encoders write it


def read_flac_header(data: bytes, start: int) -> Header:
    """Raises AudioCorrupt or AudioTruncated."""
    if len(data) < start + 42:
        raise AudioTruncated("The FLAC file ends inside its stream information.")
    if data[start + 4] & 0x7F != 0 or data[start + 5 : start + 8] != b"\x00\x00\x22":
        raise AudioCorrupt("The FLAC file does not begin with its stream information.")
    packed = int.from_bytes(data[start + 18 : start + 26], "big")
    bits = (packed >> 36 & 31) + 1
    frames = packed & (1 << 36) - 1
    following = data.find(_START, start + 42)
    return Header(
        "FLAC", f"FLAC {bits} bit", packed >> 44, (packed >> 41 & 7) + 1, frames or None, start,
        decoder=Decoder.SNDFILE if bits in (8, 16, 24) else Decoder.PYAV,
        end=following if following >= 0 else strip_tags(data, start + 42),
    )  # fmt: skip
