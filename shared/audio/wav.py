"""The header reader of WAV, and of RF64 and BW64 (EBU Tech 3306, ITU-R BS.2088) for sizes above 4 GB."""

from dataclasses import replace
from struct import unpack_from

from otoscope.errors import AudioCorrupt, AudioTruncated, AudioUnsupported
from shared.audio.headers import Header
from shared.audio.iff import iter_chunks

_SAMPLE_FORMATS = {  # by (format tag, bits)
    (1, 8): "u1", (1, 16): "<i2", (1, 24): "<i3", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8", (6, 8): "alaw",
    (7, 8): "ulaw",
}  # fmt: skip
_TAGS = {
    1: "PCM", 2: "Microsoft ADPCM", 3: "float", 6: "A-law", 7: "µ-law", 0x11: "IMA ADPCM", 0x31: "GSM 6.10",
    0x40: "G.721 ADPCM", 0x50: "MPEG layer I or II", 0x55: "MP3", 0x161: "Windows Media", 0xFF: "AAC",
}  # fmt: skip
_EXTENSIBLE = 0xFFFE  # the actual tag is in the extension
_UNFINISHED = 0x7FFFFF00  # programs that write into a pipe, where they cannot seek back, leave data sizes from here up


def read_wav_header(data: bytes, start: int) -> Header:
    """Raises AudioCorrupt, AudioTruncated or AudioUnsupported."""
    fmt: Header | None = None
    long_size: int | None = None  # of RF64 and BW64
    for name, at, size in iter_chunks(data, start, "<"):
        if name == b"ds64":
            long_size = unpack_from("<Q", data, at + 8)[0]
        elif name == b"fmt " and fmt is None:
            fmt = _format(data, at, size)
        elif name == b"data":
            if fmt is None:
                raise AudioCorrupt("The WAV file has its samples before its format chunk.")
            if size == 0xFFFFFFFF and long_size is not None:
                size = long_size
            held = len(data) - at
            if size > held or (size == 0 and _samples_follow(data, at)):
                raise AudioTruncated(_size_message(size, held))
            return replace(fmt, frames=size // max(fmt.channels * fmt.sample_bytes, 1), offset=at)
    raise AudioTruncated("The WAV file ends before its samples.")


def _format(data: bytes, at: int, size: int) -> Header:
    if size < 16:
        raise AudioCorrupt(f"The WAV format chunk has {size} bytes; it needs 16.")
    tag, channels, rate, _, block, bits = unpack_from("<HHIIHH", data, at)
    if tag == _EXTENSIBLE and size >= 40:
        tag = unpack_from("<H", data, at + 24)[0]
    name = _TAGS.get(tag, f"codec {tag:#06x}")
    sample_format = _SAMPLE_FORMATS.get((tag, bits))
    if sample_format is None:
        raise AudioUnsupported(
            f"WAV with {name} of {bits} bits is not accepted; PCM of 8, 16, 24 or 32 bits, float of 32 or 64,"
            " A-law and µ-law are."
        )
    if channels and block != channels * bits // 8:
        raise AudioCorrupt(f"A WAV block of {block} bytes does not fit {channels} × {bits} bits.")
    return Header("WAV", f"{name} {bits} bit", rate, channels, None, sample_format=sample_format)


def _samples_follow(data: bytes, at: int) -> bool:
    """Whether samples, rather than further chunks, follow a data chunk that claims to be empty."""
    if at + 8 > len(data):
        return at < len(data)
    name, size = unpack_from("<4sI", data, at)
    return not (name.isascii() and name.decode("ascii").isprintable() and size <= len(data) - at - 8)


def _size_message(size: int, held: int) -> str:
    message = f"The WAV header announces {size:,} bytes of samples; the upload has {held:,}."
    if size == 0 or size >= _UNFINISHED:
        message += (
            " Programs that write into a pipe leave such a size behind: write to a file instead, or send FLAC or Ogg."
        )
    return message
