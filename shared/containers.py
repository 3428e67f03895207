"""Reads what a sound file says of itself, in plain Python, before any decoder sees it.

libsndfile has had memory errors in rarely used codecs, so only an allow-list of containers and codecs reaches it, and
the gateway needs no native code at all to refuse the rest. Parsers read headers and walk frames; they never inflate
anything, and every loop moves forward through bytes already held in memory. Used by `shared.audio` alone.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import error as StructError
from struct import unpack, unpack_from

from shared.errors import AudioCorrupt, AudioTruncated, AudioUnsupported, NotAudio


@dataclass(frozen=True)
class Header:
    """What the file claims. `frames` is samples a channel; None where only decoding can tell."""

    container: str
    codec: str
    rate: int  # Hz
    channels: int
    frames: int | None


ACCEPTED = "WAV, FLAC, Ogg (Vorbis or Opus), MP3, AIFF"
"""Containers a decoder is always there for, in words for people."""

_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # by version bits
_MP3_KBITS_V1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MP3_KBITS_V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MP3_MAX_JUNK = 65_536  # bytes between frames that are skipped before the file counts as something else

_WAV_TAGS = {1: "PCM", 3: "float", 6: "A-law", 7: "µ-law"}
_AIFF_CODECS = {b"NONE", b"twos", b"sowt", b"fl32", b"FL32", b"fl64", b"FL64", b"in24", b"in32", b"alaw", b"ulaw"}


def read_header(data: bytes) -> Header:
    """The header of a sound file held in memory.

    Raises NotAudio, AudioUnsupported, AudioTruncated or AudioCorrupt.
    """
    parse = _parser_for(data)
    if parse is None:
        raise NotAudio(f"The upload starts like {_looks_like(data)}, not like a sound file. Accepted: {ACCEPTED}.")
    try:
        return parse(data)
    except (StructError, IndexError) as error:
        raise AudioTruncated("The file ends inside its own header.") from error


def _parser_for(data: bytes) -> Callable[[bytes], Header] | None:
    head = data[:12]
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return _wav
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff
    if head[:4] == b"fLaC":
        return _flac
    if head[:4] == b"OggS":
        return _ogg
    if head[4:8] == b"ftyp":
        return _mp4
    if head[:3] == b"ID3" or _mp3_frame(data, 0) is not None:
        return _mp3
    return None


def _looks_like(data: bytes) -> str:
    signatures = {
        b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image", b"%PDF": "a PDF document",
        b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "gzip data", b"\x1aE\xdf\xa3": "a Matroska or WebM file",
        b"{": "JSON", b"<": "HTML or XML", b"RIFF": "a RIFF file that is not WAVE", b"caff": "a CAF file",
        b".snd": "an AU file",
    }  # fmt: skip
    for signature, name in signatures.items():
        if data.startswith(signature):
            return name
    head = data[:64]
    try:
        text = head.decode("utf-8", errors="strict")
    except UnicodeDecodeError:
        return f"unknown binary data ({head[:8].hex(' ')})"
    return "text" if text.isprintable() or text.strip() else "unknown binary data"


def _chunks(data: bytes, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(id, offset, claimed size) of each chunk of an IFF-like file."""
    at = 12
    while at + 8 <= len(data):
        name, size = unpack_from(f"{order}4sI", data, at)
        yield name, at + 8, size
        at += 8 + size + (size & 1)


def _wav(data: bytes) -> Header:
    fmt: tuple[str, int, int, int] | None = None
    wide = data[:4] == b"RF64"
    for name, at, size in _chunks(data, "<"):
        if name == b"fmt ":
            fmt = _wav_format(data, at, size)
        elif name == b"data":
            if fmt is None:
                raise AudioCorrupt("The WAV file has its samples before its format chunk.")
            codec, rate, channels, block = fmt
            if wide and size == 0xFFFFFFFF:
                size = _rf64_data_size(data)
            held = len(data) - at
            if size > held:
                raise AudioTruncated(f"The WAV header announces {size:,} bytes of samples; the upload holds {held:,}.")
            return Header("WAV", codec, rate, channels, size // block)
    raise AudioTruncated("The WAV file ends before its samples.")


def _wav_format(data: bytes, at: int, size: int) -> tuple[str, int, int, int]:
    tag, channels, rate, _, block, bits = unpack_from("<HHIIHH", data, at)
    if tag == 0xFFFE and size >= 40:
        tag = unpack_from("<H", data, at + 24)[0]
    codec = _WAV_TAGS.get(tag)
    if codec is None or bits not in {1: (8, 16, 24, 32), 3: (32, 64), 6: (8,), 7: (8,)}[tag]:
        raise AudioUnsupported(
            f"WAV codec {tag:#06x} with {bits} bits is not accepted; PCM of 8, 16, 24 or 32 bits, float of 32 or 64,"
            " A-law and µ-law are."
        )
    if channels and block != channels * bits // 8:
        raise AudioCorrupt(f"A WAV block of {block} bytes does not hold {channels} × {bits} bits.")
    return f"{codec} {bits} bit", rate, channels, block or 1


def _rf64_data_size(data: bytes) -> int:
    for name, at, _ in _chunks(data, "<"):
        if name == b"ds64":
            return int(unpack_from("<QQ", data, at)[1])
    raise AudioCorrupt("The RF64 file has no ds64 chunk.")


def _aiff(data: bytes) -> Header:
    common: Header | None = None
    for name, at, size in _chunks(data, ">"):
        if name == b"COMM":
            channels, frames, bits = unpack_from(">hIh", data, at)
            codec = unpack_from(">4s", data, at + 18)[0] if data[8:12] == b"AIFC" else b"NONE"
            if codec not in _AIFF_CODECS:
                raise AudioUnsupported(f"AIFF compression {codec!r} is not accepted; uncompressed AIFF is.")
            common = Header("AIFF", f"{codec.decode()} {bits} bit", _extended(data[at + 8 : at + 18]), channels, frames)
        elif name == b"SSND" and size > len(data) - at:
            raise AudioTruncated(f"The AIFF header announces {size:,} bytes of samples; {len(data) - at:,} follow.")
    if common is None:
        raise AudioTruncated("The AIFF file ends before its common chunk.")
    return common


def _extended(raw: bytes) -> int:
    """A sample rate from the 80-bit float of AIFF; 0 for what no rate can be."""
    exponent, mantissa = unpack(">HQ", raw)
    exponent = (exponent & 0x7FFF) - 16_383
    return round(math.ldexp(mantissa, exponent - 63)) if 0 <= exponent < 32 else 0


def _flac(data: bytes) -> Header:
    if data[4] & 0x7F != 0:
        raise AudioCorrupt("The FLAC file does not begin with its stream information.")
    packed = int.from_bytes(data[18:26], "big")
    if len(data) < 42:
        raise AudioTruncated("The FLAC file ends inside its stream information.")
    frames = packed & (1 << 36) - 1
    return Header("FLAC", "FLAC", packed >> 44, (packed >> 41 & 7) + 1, frames or None)


def _ogg(data: bytes) -> Header:
    first = data[28 : 28 + 19]
    if first[:7] == b"\x01vorbis":
        channels, rate = unpack_from("<BI", first, 11)
        codec, granule_rate, skip = "Vorbis", rate, 0
    elif first[:8] == b"OpusHead":
        channels, skip = unpack_from("<BH", first, 9)
        codec, rate, granule_rate = "Opus", 48_000, 48_000
    else:
        raise AudioUnsupported("Ogg with a codec other than Vorbis or Opus is not accepted.")
    return Header("Ogg", codec, rate, channels, max(_ogg_last_granule(data) - skip, 0) * rate // (granule_rate or 1))


def _ogg_last_granule(data: bytes) -> int:
    """The end position, which the last page of the only stream carries; every page is checked to be whole."""
    at, last, serial = 0, 0, data[14:18]
    while at < len(data):
        if data[at : at + 4] != b"OggS":
            raise AudioTruncated(f"The Ogg stream breaks off at byte {at:,} of {len(data):,}.")
        if data[at + 14 : at + 18] != serial:
            raise AudioUnsupported("Ogg files with more than one stream are not accepted.")
        segments = data[at + 26]
        table = data[at + 27 : at + 27 + segments]
        size = 27 + segments + sum(table)
        if at + size > len(data):
            raise AudioTruncated(f"The Ogg stream breaks off inside the page at byte {at:,}.")
        granule = int.from_bytes(data[at + 6 : at + 14], "little", signed=True)
        last = max(last, granule)
        at += size
    return last


def _mp3_frame(data: bytes, at: int) -> tuple[int, int, int, int] | None:
    """(bytes, samples, rate, channels) of the layer III frame at that offset, or None."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3
    kbit_index, rate_index, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer != 1 or kbit_index in (0, 15) or rate_index == 3:
        return None
    first = version == 3
    kbits = (_MP3_KBITS_V1 if first else _MP3_KBITS_V2)[kbit_index]
    rate = _MP3_RATES[version][rate_index]
    samples = 1_152 if first else 576
    size = samples // 8 * kbits * 1_000 // rate + padding
    return size, samples, rate, 1 if data[at + 3] >> 6 == 3 else 2


def _mp3(data: bytes) -> Header:
    at = _after_id3(data)
    frames, junk, rate, channels = 0, 0, 0, 0
    while at < len(data):
        frame = _mp3_frame(data, at)
        if frame is None:
            step = data.find(b"\xff", at + 1)
            step = (step if step >= 0 else len(data)) - at
            junk += step
            at += step
            if junk > _MP3_MAX_JUNK:
                break
            continue
        size, samples, *kind = frame
        if not rate:
            rate, channels = kind
        if kind[0] == rate:
            frames += samples
        at += size
    if not rate or frames < 2 * 576 or (junk > _MP3_MAX_JUNK and frames < 20 * 1_152):
        raise NotAudio(f"No MPEG layer III frames follow one another in the upload. Accepted: {ACCEPTED}.")
    return Header("MP3", "MPEG layer III", rate, channels, frames)


def _after_id3(data: bytes) -> int:
    if data[:3] != b"ID3":
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size


def _mp4(data: bytes) -> Header:
    """M4A: the brand is checked here, the rest is told by the decoder, which is optional."""
    if data[8:12] not in (b"M4A ", b"mp42", b"mp41", b"isom", b"iso2", b"iso5", b"iso6", b"M4B ", b"3gp4", b"dash"):
        raise AudioUnsupported(f"MP4 files of brand {data[8:12]!r} are not accepted.")
    return Header("M4A", "AAC", 0, 0, None)
