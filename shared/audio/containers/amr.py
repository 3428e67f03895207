"""The header reader of AMR, narrowband and wideband, as telephones record it. RFC 4867, section 5."""

from otoscope.errors import AudioTruncated, AudioUnsupported
from shared.audio.containers.iff import is_stray
from shared.audio.containers.tags import strip_tags
from shared.audio.headers import Decoder, Header

_FRAMES = {  # by magic: rate in Hz, bytes of a frame by its type, without the byte that has the type
    b"#!AMR\n": ("AMR-NB", 8_000, (12, 13, 15, 17, 19, 20, 26, 31, 5, 6, 5, 5, 0, 0, 0, 0)),
    b"#!AMR-WB\n": ("AMR-WB", 16_000, (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, 5, 0, 0, 0, 0, 0)),
}
_UNUSED = 0x83  # bits of the first byte of a frame that are always zero


def read_amr_header(data: bytes, start: int) -> Header:
    """Counts the frames of 20 ms. Raises AudioUnsupported or AudioTruncated."""
    magic = next((magic for magic in _FRAMES if data.startswith(magic, start)), None)
    if magic is None:
        raise AudioUnsupported("AMR with several channels is not accepted; with one it is.")
    codec, rate, sizes = _FRAMES[magic]
    at, frames, truncated = start + len(magic), 0, ""
    stop = strip_tags(data, at)
    while at < stop and not data[at] & _UNUSED:  # else it is no frame: junk, or the next file
        size = 1 + sizes[data[at] >> 3 & 15]
        if at + size > stop:
            truncated = "The AMR file ends inside a frame." if data[at:stop].strip(b"\0") else ""
            break
        at += size
        frames += rate // 50
    if at < stop and not truncated and data[at : at + 5] != b"#!AMR" and not is_stray(data, at):
        truncated, stop = f"From byte {at:,} on the AMR file has no frames.", at
    if not frames:
        raise AudioTruncated("The AMR file ends before its first frame.")
    at = stop if truncated else at
    return Header("AMR", codec, rate, 1, frames, start, decoder=Decoder.PYAV, end=at, truncated=truncated)
