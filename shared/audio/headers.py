"""Reads what a sound file says of itself, in plain Python, before any decoder sees it.

libsndfile has had memory errors in rarely used codecs, so only an allow-list of containers and codecs reaches a
decoder, and the gateway needs no native code at all to refuse the rest. Parsers read headers and walk frames; they
never inflate anything, and every loop moves forward through bytes already held in memory. Used by
`shared.audio.decode` and `shared.audio.decoders`; packets and frames are read in `shared.audio.bitstreams`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from struct import error as StructError
from struct import unpack, unpack_from

from otoscope.errors import AudioCorrupt, AudioTruncated, AudioUnsupported, NotAudio
from shared.audio.bitstreams import after_id3, find_mp3, scan_mp3, scan_mp4, scan_ogg


@dataclass(frozen=True)
class Header:
    """What the file claims. `frames` is samples a channel; None where only decoding can tell."""

    container: str
    codec: str
    rate: int  # Hz; 0 where only decoding can tell, as for `channels`
    channels: int
    frames: int | None
    offset: int = 0  # bytes before what a decoder needs: the samples of WAV and AIFF, else the stream behind its tags
    lead: bytes = b""  # what a decoder needs before that
    sample: str = ""  # how one sample is stored, in WAV and AIFF: a numpy name, '<i3', 'alaw' or 'ulaw'

    @property
    def sample_bytes(self) -> int:
        """Bytes a sample; 0 where they are compressed."""
        return 1 if self.sample in ("alaw", "ulaw") else int(self.sample[-1:] or 0)


ACCEPTED = "WAV, FLAC, Ogg (Vorbis or Opus), MP3, AIFF"
"""Containers a decoder is always there for, in words for people."""

_MAX_CHUNKS = 10_000  # in a WAV or AIFF file; real ones have up to a few dozen


def read_header(data: bytes, accepted: str = ACCEPTED) -> Header:
    """The header of a sound file held in memory; `accepted` is what messages list.

    Raises NotAudio, AudioUnsupported, AudioTruncated, AudioCorrupt or AudioEmpty.
    """
    try:
        start = after_id3(data)
        parse = _parser_for(data, start)
        if parse is not None:
            return parse(data, start)
        raise _unknown(data, accepted)
    except NotAudio as error:
        raise NotAudio(f"{error.detail} Accepted: {accepted}.") from error
    except (StructError, IndexError) as error:
        raise AudioTruncated(f"The file ends inside its own header, after {len(data):,} bytes.") from error


def _parser_for(data: bytes, start: int) -> Callable[[bytes, int], Header] | None:
    head = data[start : start + 12]
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _wav
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff
    if head[:4] == b"fLaC":
        return _flac
    if head[:4] == b"OggS":
        return _ogg
    if head[4:8] == b"ftyp":
        return _mp4
    if start or find_mp3(data, 0) is not None:
        return _mp3
    return None


# --- what is not accepted -------------------------------------------------------------------------------------------

_OTHER_SOUND = {
    b"caff": "CAF", b".snd": "AU", b"RIFX": "big-endian WAV (RIFX)", b"riff\x2e\x91\xcf\x11": "Wave64", b"ADIF": "AAC",
    b"\xff\xf1": "bare AAC (ADTS)", b"\xff\xf9": "bare AAC (ADTS)", b"#!AMR": "AMR",
    b"\x1aE\xdf\xa3": "Matroska or WebM", b"0&\xb2u\x8ef\xcf\x11": "Windows Media", b"MAC ": "Monkey's Audio",
    b"wvpk": "WavPack", b"MThd": "MIDI", b"FLV": "Flash video", b"\xff\xfd": "MPEG layer II",
    b"\xff\xfc": "MPEG layer II",
}  # fmt: skip
_NO_SOUND = {
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image", b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "gzip data", b"RIFF": "a RIFF file that is not WAVE",
    b"FORM": "an IFF file that is not AIFF", b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text", b"{": "JSON",
    b"[": "JSON", b"<": "HTML or XML",
}  # fmt: skip


def _unknown(data: bytes, accepted: str) -> NotAudio | AudioUnsupported:
    for signature, name in _OTHER_SOUND.items():
        if data.startswith(signature):
            return AudioUnsupported(f"The upload starts like {name}, which is not accepted. Accepted: {accepted}.")
    return NotAudio(f"The upload starts like {_looks_like(data)}, not like a sound file.")


def _looks_like(data: bytes) -> str:
    head = data[:64]
    for signature, name in _NO_SOUND.items():
        if head.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(signature):
            return name
    text = head.decode("utf-8", errors="ignore")
    whole = len(text.encode()) > len(head) - 4  # the last character may be cut in half
    if whole and all(char.isprintable() or char in "\r\n\t\f\ufeff" for char in text):
        return "text"
    return f"unknown binary data ({head[:8].hex(' ')})"


# --- WAV and AIFF: chunks, uncompressed -----------------------------------------------------------------------------

_WAV_CODECS = {
    (1, 8): "u1", (1, 16): "<i2", (1, 24): "<i3", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8", (6, 8): "alaw",
    (7, 8): "ulaw",
}  # fmt: skip
_WAV_TAGS = {
    1: "PCM", 2: "Microsoft ADPCM", 3: "float", 6: "A-law", 7: "µ-law", 0x11: "IMA ADPCM", 0x31: "GSM 6.10",
    0x40: "G.721 ADPCM", 0x50: "MPEG layer I or II", 0x55: "MP3", 0x161: "Windows Media", 0xFF: "AAC",
}  # fmt: skip
_EXTENSIBLE = 0xFFFE  # the true tag is in the extension
_UNFINISHED = 0x7FFFFF00  # data sizes from here up are what tools write into a pipe, where they cannot come back


def _chunks(data: bytes, start: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(id, offset, claimed size) of each chunk of an IFF-like file."""
    at = start + 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        name, size = unpack_from(f"{order}4sI", data, at)
        yield name, at + 8, size
        at += 8 + size + (size & 1)
    raise AudioCorrupt(f"The file has more than {_MAX_CHUNKS:,} chunks.")


def _wav(data: bytes, start: int) -> Header:
    fmt: Header | None = None
    long_size: int | None = None  # of RF64 and BW64
    for name, at, size in _chunks(data, start, "<"):
        if name == b"ds64":
            long_size = unpack_from("<Q", data, at + 8)[0]
        elif name == b"fmt " and fmt is None:
            fmt = _wav_format(data, at, size)
        elif name == b"data":
            if fmt is None:
                raise AudioCorrupt("The WAV file has its samples before its format chunk.")
            if size == 0xFFFFFFFF and long_size is not None:
                size = long_size
            held = len(data) - at
            if size > held or (size == 0 and _goes_on(data, at)):
                raise AudioTruncated(_wav_size(size, held))
            return replace(fmt, frames=size // max(fmt.channels * fmt.sample_bytes, 1), offset=at)
    raise AudioTruncated("The WAV file ends before its samples.")


def _wav_format(data: bytes, at: int, size: int) -> Header:
    if size < 16:
        raise AudioCorrupt(f"The WAV format chunk has {size} bytes; it needs 16.")
    tag, channels, rate, _, block, bits = unpack_from("<HHIIHH", data, at)
    if tag == _EXTENSIBLE and size >= 40:
        tag = unpack_from("<H", data, at + 24)[0]
    name = _WAV_TAGS.get(tag, f"codec {tag:#06x}")
    sample = _WAV_CODECS.get((tag, bits))
    if sample is None:
        raise AudioUnsupported(
            f"WAV with {name} of {bits} bits is not accepted; PCM of 8, 16, 24 or 32 bits, float of 32 or 64,"
            " A-law and µ-law are."
        )
    if channels and block != channels * bits // 8:
        raise AudioCorrupt(f"A WAV block of {block} bytes does not hold {channels} × {bits} bits.")
    return Header("WAV", f"{name} {bits} bit", rate, channels, None, sample=sample)


def _goes_on(data: bytes, at: int) -> bool:
    """Whether samples, rather than further chunks, follow a data chunk that claims to be empty."""
    if at + 8 > len(data):
        return at < len(data)
    name, size = unpack_from("<4sI", data, at)
    return not (name.isascii() and name.decode("ascii").isprintable() and size <= len(data) - at - 8)


def _wav_size(size: int, held: int) -> str:
    message = f"The WAV header announces {size:,} bytes of samples; the upload holds {held:,}."
    if size == 0 or size >= _UNFINISHED:
        message += (
            " Programs that write into a pipe leave such a size behind: write to a file instead, or send FLAC or Ogg."
        )
    return message


_AIFF_CODECS = {  # 42n1 and 23n1: in24 and in32 backwards, which is little-endian
    b"NONE": ">i", b"twos": ">i", b"in16": ">i", b"in24": ">i", b"in32": ">i", b"sowt": "<i", b"42n1": "<i",
    b"23n1": "<i", b"raw ": "u1", b"fl32": ">f4", b"FL32": ">f4", b"fl64": ">f8", b"FL64": ">f8", b"alaw": "alaw",
    b"ALAW": "alaw", b"ulaw": "ulaw", b"ULAW": "ulaw",
}  # fmt: skip
_NAMES = {"i": "PCM", "u1": "PCM", "f": "float", "alaw": "A-law", "ulaw": "µ-law"}


def _aiff(data: bytes, start: int) -> Header:
    common: Header | None = None
    samples: tuple[int, int] | None = None  # offset, bytes
    for name, at, size in _chunks(data, start, ">"):
        if name == b"COMM" and common is None:
            common = _aiff_common(data, at, size, packed=data[start + 8 : start + 12] == b"AIFC")
        elif name == b"SSND" and samples is None:
            if size > len(data) - at:
                raise AudioTruncated(
                    f"The AIFF header announces {size:,} bytes of samples; the upload holds {len(data) - at:,}."
                )
            lead = 8 + unpack_from(">I", data, at)[0]
            samples = at + lead, max(size - lead, 0)
    if common is None or common.frames is None:
        raise AudioTruncated("The AIFF file ends before its common chunk.")
    offset, held = samples or (0, 0)
    needed = max(common.channels, 0) * common.sample_bytes * common.frames
    if needed > held:
        raise AudioTruncated(f"The AIFF header announces {needed:,} bytes of samples; the upload holds {held:,}.")
    return replace(common, offset=offset)


def _aiff_common(data: bytes, at: int, size: int, *, packed: bool) -> Header:
    needed = 22 if packed else 18
    if size < needed:
        raise AudioCorrupt(f"The AIFF common chunk has {size} bytes; it needs {needed}.")
    if len(data) < at + needed:
        raise AudioTruncated("The AIFF file ends inside its common chunk.")
    channels, frames, bits, rate = unpack_from(">hIh10s", data, at)
    codec = data[at + 18 : at + 22] if packed else b"NONE"
    sample = _AIFF_CODECS.get(codec)
    if sample is None:
        raise AudioUnsupported(f"AIFF compression {codec!r} is not accepted; PCM, float, A-law and µ-law are.")
    if sample in (">i", "<i"):
        if not 1 <= bits <= 32:
            raise AudioUnsupported(f"AIFF of {bits} bits is not accepted; 1 to 32 are.")
        width = (bits + 7) // 8  # odd depths fill whole bytes from the top
        sample = "i1" if width == 1 else f"{sample}{width}"
    name = next(name for kind, name in _NAMES.items() if kind in sample)
    return Header("AIFF", f"{name} {bits} bit", _extended(rate), channels, frames, sample=sample)


def _extended(raw: bytes) -> int:
    """A sample rate from the 80-bit float of AIFF; 0 for what no rate can be."""
    exponent, mantissa = unpack(">HQ", raw)
    exponent -= 16_383  # a set sign bit makes it far too large
    return round(math.ldexp(mantissa, exponent - 63)) if 0 <= exponent < 32 else 0


# --- FLAC, Ogg, MPEG: streams ---------------------------------------------------------------------------------------


def _flac(data: bytes, start: int) -> Header:
    if len(data) < start + 42:
        raise AudioTruncated("The FLAC file ends inside its stream information.")
    if data[start + 4] & 0x7F != 0 or data[start + 5 : start + 8] != b"\x00\x00\x22":
        raise AudioCorrupt("The FLAC file does not begin with its stream information.")
    packed = int.from_bytes(data[start + 18 : start + 26], "big")
    bits = (packed >> 36 & 31) + 1
    if bits not in (8, 16, 24):
        raise AudioUnsupported(f"FLAC of {bits} bits is not accepted; 8, 16 and 24 are.")
    frames = packed & (1 << 36) - 1
    return Header("FLAC", f"FLAC {bits} bit", packed >> 44, (packed >> 41 & 7) + 1, frames or None, start)


def _ogg(data: bytes, start: int) -> Header:
    found = scan_ogg(data, start)
    return Header("Ogg", found.codec, found.rate, found.channels, found.frames, start)


def _mp3(data: bytes, start: int) -> Header:
    found = scan_mp3(data, start)
    return Header("MP3", found.codec, found.rate, found.channels, found.frames, found.offset, found.lead)


def _mp4(data: bytes, start: int) -> Header:
    if start:
        raise AudioCorrupt("The MP4 file has an ID3 tag before it.")
    found = scan_mp4(data)
    return Header("M4A", found.codec, found.rate, found.channels, found.frames)
