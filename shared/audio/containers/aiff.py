"""The header reader of AIFF and AIFF-C. Compressed sound is decoded by FFmpeg."""

import math
import re
from dataclasses import replace
from functools import partial
from struct import unpack, unpack_from

from otoscope.errors import AudioCorrupt, AudioTruncated, AudioUnsupported
from shared.audio.containers.iff import UNFINISHED, chunks_follow, extent_of_sound, iter_chunks
from shared.audio.headers import Decoder, Header, missing

_SAMPLE_FORMATS = {  # by compression type; 42ni and 23ni are in24 and in32 backwards, which is little-endian
    b"NONE": ">i", b"twos": ">i", b"in16": ">i", b"in24": ">i", b"in32": ">i", b"sowt": "<i", b"42ni": "<i",
    b"23ni": "<i", b"42n1": "<i", b"23n1": "<i", b"raw ": "u1", b"fl32": ">f4", b"FL32": ">f4", b"fl64": ">f8",
    b"FL64": ">f8", b"alaw": "alaw", b"ALAW": "alaw", b"ulaw": "ulaw", b"ULAW": "ulaw",
}  # fmt: skip
_COMPRESSED = {b"ima4": "IMA ADPCM", b"GSM ": "GSM 6.10", b"agsm": "GSM 6.10", b"MAC3": "MACE", b"MAC6": "MACE"}
_NAMES = {"i": "PCM", "u1": "PCM", "f": "float", "alaw": "A-law", "ulaw": "µ-law"}
_MAX_PADDING = 128  # bytes behind the stated number of frames that are no sound
_NEXT = re.compile(rb"FORM....AIF[FC]", re.DOTALL)


def read_aiff_header(data: bytes, start: int) -> Header:
    """Raises AudioCorrupt, AudioTruncated or AudioUnsupported."""
    common: Header | None = None
    claimed: int | None = None  # frames
    samples: tuple[int, int] | None = None  # offset, bytes that it announces
    for name, at, size in iter_chunks(data, start + 12, ">"):
        if name == b"COMM" and common is None:
            common, claimed = _common(data, at, size, compressed=data[start + 8 : start + 12] == b"AIFC")
        elif name == b"SSND" and samples is None:
            lead = 8 + unpack_from(">I", data, at)[0]
            samples = at + lead, max(size - lead, 0)
        if common is not None and samples is not None:
            break
    if common is None or claimed is None:
        raise AudioTruncated("The AIFF file ends before its common chunk.")
    offset, size = samples or (len(data), 0)
    if common.decoder is Decoder.PYAV:
        following = _NEXT.search(data, offset)
        end = following.start() if following else len(data)
        return replace(common, offset=start, end=end, truncated=_cut(size, max(end - offset, 0)))
    stated = size if size < UNFINISHED else None
    frame = max(common.channels, 0) * common.sample_bytes
    needed = frame * claimed
    whole = start + 8 + unpack_from(">I", data, start + 4)[0]
    belongs = partial(chunks_follow, data, order=">", whole=whole)
    if size == needed and not offset + size <= whole <= len(data):
        whole = offset + size  # which the number of frames confirms
    extent = extent_of_sound("AIFF", data, offset, stated, whole, belongs, _NEXT)
    present = extent.size
    if claimed and needed <= present <= needed + _MAX_PADDING:
        return replace(common, frames=claimed, offset=offset, end=offset + needed, truncated=extent.doubt)
    frames = present // max(frame, 1)
    header = replace(common, frames=frames, offset=offset, end=offset + present, truncated=extent.doubt)
    if needed <= present or size >= UNFINISHED:
        return header
    lost = (claimed - frames) / common.rate if common.rate else None
    return replace(header, truncated=missing("AIFF", needed, present, "bytes of samples", lost))


def _cut(size: int, held: int) -> str:
    return missing("AIFF", size, held, "bytes of samples") if held < size < UNFINISHED else ""


def _common(data: bytes, at: int, size: int, *, compressed: bool) -> tuple[Header, int]:
    """(the header without its samples, the number of frames that it announces)."""
    needed = 22 if compressed else 18
    if size < needed:
        raise AudioCorrupt(f"The AIFF common chunk has {size} bytes; it needs {needed}.")
    if len(data) < at + needed:
        raise AudioTruncated("The AIFF file ends inside its common chunk.")
    channels, frames, bits, exact_rate = unpack_from(">hIh10s", data, at)
    codec = data[at + 18 : at + 22] if compressed else b"NONE"
    rate = _extended(exact_rate)
    if codec in _COMPRESSED:
        return Header("AIFF", _COMPRESSED[codec], rate, channels, None, decoder=Decoder.PYAV), frames
    sample_format = _SAMPLE_FORMATS.get(codec)
    if sample_format is None:
        known = "PCM, float, A-law, µ-law, IMA ADPCM, GSM 6.10 and MACE are"
        raise AudioUnsupported(f"AIFF compression {codec!r} is not accepted; {known}.")
    if sample_format in (">i", "<i"):
        if not 1 <= bits <= 32:
            raise AudioUnsupported(f"AIFF of {bits} bits is not accepted; 1 to 32 are.")
        width = (bits + 7) // 8  # other depths fill whole bytes, left-aligned
        sample_format = "i1" if width == 1 else f"{sample_format}{width}"
    name = next(name for kind, name in _NAMES.items() if kind in sample_format)
    return Header("AIFF", f"{name} {bits} bit", rate, channels, None, sample_format=sample_format), frames


def _extended(raw: bytes) -> int:
    """A sample rate from an 80-bit extended float (IEEE 754); 0 for what no rate can be."""
    exponent, mantissa = unpack(">HQ", raw)
    exponent -= 16_383  # with the sign bit set it is far too large
    return round(math.ldexp(mantissa, exponent - 63)) if 0 <= exponent < 32 else 0
