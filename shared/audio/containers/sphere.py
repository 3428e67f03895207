"""The header reader of NIST SPHERE, in which corpora of speech are (TIMIT, Switchboard), mostly as .wav or .sph.

https://www.isip.piconepress.com/projects/speech/software/tutorials/production/fundamentals/v1.0/section_02/s02_01_p05.html
"""

import re

from otoscope.errors import AudioCorrupt, AudioUnsupported
from shared.audio.headers import Header, missing

_FIELD = re.compile(rb"^(\w+) -(?:i|s\d+) (\S+)\s*$", re.MULTILINE)
_MAX_HEADER = 65_536  # bytes
_ORDERS = {b"01": "<", b"10": ">"}


def read_sphere_header(data: bytes, start: int) -> Header:
    """Raises AudioCorrupt or AudioUnsupported."""
    size = data[start + 8 : start + 16].strip()
    if not size.isdigit() or int(size) > _MAX_HEADER:
        raise AudioCorrupt("The SPHERE header does not state its size.")
    at = start + int(size)
    fields = dict(_FIELD.findall(data[start:at]))
    coding, _, compression = fields.get(b"sample_coding", b"pcm").partition(b",")
    width = _number(fields, b"sample_n_bytes", 1 if coding in (b"ulaw", b"alaw") else 2)
    channels, rate = _number(fields, b"channel_count", 1), _number(fields, b"sample_rate", 0)
    order = _ORDERS.get(fields.get(b"sample_byte_format", b"01"), "<")
    name = coding.decode("ascii", "replace")
    if compression or coding not in (b"pcm", b"ulaw", b"alaw") or not 1 <= width <= 4:
        how = (
            f"{name} compressed by {compression.decode('ascii', 'replace')}"
            if compression
            else f"{name} of {width} bytes"
        )
        raise AudioUnsupported(
            f"SPHERE with {how} is not accepted; PCM, A-law and µ-law are (convert it with sph2pipe)."
        )
    sample_format = name if coding != b"pcm" else "i1" if width == 1 else f"{order}i{width}"
    codec = {"ulaw": "µ-law 8 bit", "alaw": "A-law 8 bit"}.get(name, f"PCM {8 * width} bit")
    frame = max(channels * width, 1)
    held = max(len(data) - at, 0)
    claimed = _number(fields, b"sample_count", held // frame) * frame
    present = min(claimed, held)
    lost = (claimed - present) / (frame * rate) if rate else None
    truncated = missing("SPHERE", claimed, present, "bytes of samples", lost) if present < claimed else ""
    return Header(
        "SPHERE", codec, rate, channels, present // frame, at, sample_format=sample_format, end=at + present,
        truncated=truncated,
    )  # fmt: skip


def _number(fields: dict[bytes, bytes], name: bytes, default: int) -> int:
    value = fields.get(name, b"")
    return int(value) if value.isdigit() and len(value) < 12 else default
