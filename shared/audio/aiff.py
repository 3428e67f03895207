"""The header reader of AIFF and AIFF-C."""

import math
from dataclasses import replace
from struct import unpack, unpack_from

from otoscope.errors import AudioCorrupt, AudioTruncated, AudioUnsupported
from shared.audio.headers import Header
from shared.audio.iff import iter_chunks

_SAMPLE_FORMATS = {  # by compression type; 42n1 and 23n1 are in24 and in32 backwards, which is little-endian
    b"NONE": ">i", b"twos": ">i", b"in16": ">i", b"in24": ">i", b"in32": ">i", b"sowt": "<i", b"42n1": "<i",
    b"23n1": "<i", b"raw ": "u1", b"fl32": ">f4", b"FL32": ">f4", b"fl64": ">f8", b"FL64": ">f8", b"alaw": "alaw",
    b"ALAW": "alaw", b"ulaw": "ulaw", b"ULAW": "ulaw",
}  # fmt: skip
_NAMES = {"i": "PCM", "u1": "PCM", "f": "float", "alaw": "A-law", "ulaw": "µ-law"}


def read_aiff_header(data: bytes, start: int) -> Header:
    """Raises AudioCorrupt, AudioTruncated or AudioUnsupported."""
    common: Header | None = None
    samples: tuple[int, int] | None = None  # offset, bytes
    for name, at, size in iter_chunks(data, start, ">"):
        if name == b"COMM" and common is None:
            common = _common(data, at, size, compressed=data[start + 8 : start + 12] == b"AIFC")
        elif name == b"SSND" and samples is None:
            if size > len(data) - at:
                raise AudioTruncated(
                    f"The AIFF header announces {size:,} bytes of samples; the upload has {len(data) - at:,}."
                )
            lead = 8 + unpack_from(">I", data, at)[0]
            samples = at + lead, max(size - lead, 0)
    if common is None or common.frames is None:
        raise AudioTruncated("The AIFF file ends before its common chunk.")
    offset, held = samples or (0, 0)
    needed = max(common.channels, 0) * common.sample_bytes * common.frames
    if needed > held:
        raise AudioTruncated(f"The AIFF header announces {needed:,} bytes of samples; the upload has {held:,}.")
    return replace(common, offset=offset)


def _common(data: bytes, at: int, size: int, *, compressed: bool) -> Header:
    needed = 22 if compressed else 18
    if size < needed:
        raise AudioCorrupt(f"The AIFF common chunk has {size} bytes; it needs {needed}.")
    if len(data) < at + needed:
        raise AudioTruncated("The AIFF file ends inside its common chunk.")
    channels, frames, bits, rate = unpack_from(">hIh10s", data, at)
    codec = data[at + 18 : at + 22] if compressed else b"NONE"
    sample_format = _SAMPLE_FORMATS.get(codec)
    if sample_format is None:
        raise AudioUnsupported(f"AIFF compression {codec!r} is not accepted; PCM, float, A-law and µ-law are.")
    if sample_format in (">i", "<i"):
        if not 1 <= bits <= 32:
            raise AudioUnsupported(f"AIFF of {bits} bits is not accepted; 1 to 32 are.")
        width = (bits + 7) // 8  # other depths fill whole bytes, left-aligned
        sample_format = "i1" if width == 1 else f"{sample_format}{width}"
    name = next(name for kind, name in _NAMES.items() if kind in sample_format)
    return Header("AIFF", f"{name} {bits} bit", _extended(rate), channels, frames, sample_format=sample_format)


def _extended(raw: bytes) -> int:
    """A sample rate from an 80-bit extended float (IEEE 754); 0 for what no rate can be."""
    exponent, mantissa = unpack(">HQ", raw)
    exponent -= 16_383  # with the sign bit set it is far too large
    return round(math.ldexp(mantissa, exponent - 63)) if 0 <= exponent < 32 else 0
