"""The header reader of WAV: RIFF, big-endian RIFX, and RF64 and BW64 (EBU Tech 3306, ITU-R BS.2088) above 4 GB.

Fields that can be computed from others (bytes per second, bytes per block) decide nothing, since many programs write
wrong ones; the number of bytes per sample follows from the bits where these fill whole bytes. Compressed sound gets a
header of our own (`Header.prefix`), so that FFmpeg reads what this reader has read.
"""

import re
from dataclasses import replace
from struct import pack, unpack_from

from otoscope.errors import AudioCorrupt, AudioTruncated, AudioUnsupported
from shared.audio.containers.adts import find_adts
from shared.audio.containers.iff import UNFINISHED, Extent, chunks_follow, extent_of_sound, is_chunk_id, iter_chunks
from shared.audio.containers.tags import tag_size
from shared.audio.containers.wave_codecs import CODECS, DECODERS, EXTENSIBLE, NMS_BLOCKS, RAW_AAC, SNDFILE_CODECS
from shared.audio.headers import Decoder, Header, missing

_G711 = {6: "alaw", 7: "ulaw"}  # sample formats by format tag
_MAX_PROBED = 2**20  # bytes of samples that decide how they are aligned
_MAX_FORMAT = 1_024  # bytes of a format chunk that a decoder gets
_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_NEXT = re.compile(rb"(?:RIF[FX]|RF64|BW64).{4}WAVE(?:fmt |ds64|JUNK|bext)", re.DOTALL)


def read_wav_header(data: bytes, start: int) -> Header:
    """Raises AudioCorrupt, AudioTruncated or AudioUnsupported."""
    order = ">" if data[start : start + 4] == b"RIFX" else "<"
    whole = start + 8 + unpack_from(f"{order}I", data, start + 4)[0]
    if data[start + 12 : start + 16] == b"ds64":
        whole = start + 8 + unpack_from("<Q", data, start + 20)[0]
    fmt, sounds = _read_chunks(data, start + 12, order, None, whole)
    at = data.find(b"data", sum(fmt)) if fmt and not sounds else -1  # a chunk of a wrong size hides it
    if 0 <= at <= len(data) - 8:
        _, sounds = _read_chunks(data, at, order, fmt, whole)
    if not sounds:
        raise AudioTruncated("The WAV file ends in its header, before its samples.")
    return replace(sounds[0], more=tuple(sounds[1:]))


def _read_chunks(
    data: bytes, start: int, order: str, fmt: tuple[int, int] | None, whole: int
) -> tuple[tuple[int, int] | None, list[Header]]:
    """(offset and bytes of the format chunk, the samples of each data chunk) from there on; `whole` is the end of the
    file by its header."""
    sounds: list[Header] = []
    empty: list[Header] = []
    long_size: int | None = None  # of RF64 and BW64
    for name, at, size in iter_chunks(data, start, order):
        if sounds and (not is_chunk_id(name) or name in _MAGIC):  # junk, or another file
            break
        if name == b"ds64":
            long_size = unpack_from("<Q", data, at + 8)[0]
        elif name == b"fmt " and fmt is None:
            fmt = at, size
        elif name == b"data":
            if fmt is None:
                raise AudioCorrupt("The WAV file has its samples before its format chunk.")
            if size == 0xFFFFFFFF and long_size is not None:
                size = long_size
            sound = _sound(data, fmt, order, at, size, whole)
            if sound.end != at:
                sounds.append(sound)
            elif not sounds:
                empty.append(sound)
            elif sound.truncated:
                sounds[-1] = replace(sounds[-1], truncated=sound.truncated)
            if sound.end != at + size:
                break
    return fmt, sounds or empty[:1]


def _sound(data: bytes, fmt: tuple[int, int], order: str, at: int, claimed: int, whole: int) -> Header:
    """The header of the samples that begin at that byte."""
    unknown = UNFINISHED <= claimed <= 0xFFFFFFFF or claimed >= 2**63
    unknown = unknown or (claimed == 0 and not chunks_follow(data, at, order))
    stated = None if unknown else claimed

    def belongs(end: int) -> bool:
        return chunks_follow(data, end, order, whole) or b"data" in (data[end : end + 4], data[end + 1 : end + 5])

    extent = extent_of_sound("WAV", data, at, stated, whole, belongs, _NEXT)
    return header_of_sound("WAV", data, fmt, order, at, extent, 0 if unknown else claimed)


def header_of_sound(
    container: str, data: bytes, fmt: tuple[int, int], order: str, at: int, extent: Extent, claimed: int
) -> Header:
    """The header of the samples of that extent at `at`, by the format chunk (offset, bytes) of the file.

    `claimed` is the size that the header announces, 0 where it announces none. Raises AudioCorrupt or AudioUnsupported.
    """
    begin, length = fmt
    size = extent.size
    if length < 16:
        raise AudioCorrupt(f"The {container} format chunk has {length} bytes; it needs 16.")
    tag, channels, rate, speed, block, bits = unpack_from(f"{order}HHIIHH", data, begin)
    if tag == EXTENSIBLE:
        tag = unpack_from(f"{order}H", data, begin + 24)[0] if length >= 40 else 1
    if tag in _G711:
        bits = 8  # some programs write the bits of the decoded sample
    codec, decoder = CODECS.get(tag, f"codec {tag:#06x}"), Decoder.PYAV
    if container == "WAV" and tag in SNDFILE_CODECS and (tag not in CODECS or NMS_BLOCKS.get(bits) == block):
        codec, decoder = SNDFILE_CODECS[tag], Decoder.SNDFILE
    sample_format = _sample_format(tag, bits, block // channels if channels else 0, order)
    if sample_format:
        header = Header(container, f"{codec} {bits} bit", rate, channels, None, at, sample_format=sample_format)
        frame = max(channels * header.sample_bytes, 1)
        header, speed = replace(header, frames=size // frame), frame * rate
        if sample_format == "<i4" and bits == 24 and _is_right_aligned(data[at : at + min(size, _MAX_PROBED)]):
            header = replace(header, offset=at - 1)  # which is left-aligned but for a bit of noise in the lowest byte
    elif decoder is Decoder.SNDFILE or codec in DECODERS:
        tag_bytes = min(tag_size(data, at), size) if codec == "MPEG layer III" else 0
        prefix = _prefix(data[begin : begin + min(length, _MAX_FORMAT)], order, size - tag_bytes)
        raw = tag == RAW_AAC and find_adts(data, at) != at
        header = Header(container, codec, rate, channels, None, at + tag_bytes, prefix, decoder=decoder, unframed=raw)
    else:
        raise AudioUnsupported(
            f"{container} with {codec} of {bits} bits is not accepted; PCM of 8 to 32 bits, float of 32 or 64, A-law,"
            f" µ-law, {', '.join((*DECODERS, *SNDFILE_CODECS.values()))} are."
        )
    lost = claimed - size
    if lost <= 0:
        return replace(header, end=at + size, truncated=extent.doubt)
    truncated = missing(container, claimed, size, "bytes of samples", lost / speed if speed else None)
    return replace(header, end=at + size, truncated=truncated)


def _prefix(fmt: bytes, order: str, size: int) -> bytes:
    """The smallest header for samples of that size."""
    if order == ">":
        fmt = pack("<HHIIHH", *unpack_from(">HHIIHH", fmt)) + fmt[16:]
    return _header(fmt + bytes(len(fmt) & 1), size)


def mono_header(tag: int, rate: int, width: int, size: int) -> bytes:
    """The header of a WAV of one channel: its format tag, rate in Hz, bytes of a sample and of all samples."""
    return _header(pack("<HHIIHH", tag, 1, rate, min(rate * width, 2**32 - 1), width, 8 * width), size)


def _header(fmt: bytes, size: int) -> bytes:
    chunks = b"WAVEfmt " + pack("<I", len(fmt)) + fmt + b"data" + pack("<I", size)
    return b"RIFF" + pack("<I", len(chunks) + size) + chunks


def _sample_format(tag: int, bits: int, width: int, order: str) -> str:
    """The type of uncompressed samples; "" for others. `width`: bytes per sample that the block size states."""
    if tag == 1:
        if not bits and width <= 4:
            bits = 8 * width
        size = (bits + 7) // 8
        if 16 < bits < 32 and width == 4:  # 20 or 24 bits in 4 bytes, left-aligned like all depths
            size = 4
        return {1: "u1", 2: f"{order}i2", 3: f"{order}i3", 4: f"{order}i4"}.get(size, "")
    return _G711.get(tag) or {(3, 32): f"{order}f4", (3, 64): f"{order}f8"}.get((tag, bits), "")


def _is_right_aligned(samples: bytes) -> bool:
    """Whether integers of 24 bits are in the lower bytes of four. Left-aligned ones leave the lowest byte empty."""
    lowest, highest = samples[::4], samples[3::4]
    return lowest.count(0) < len(lowest) and highest.count(0) + highest.count(255) == len(highest)
