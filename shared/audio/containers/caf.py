"""The header reader of CAF (Apple). https://developer.apple.com/library/archive/documentation/MusicAudio/Reference/CAFSpec"""

import re
from dataclasses import replace
from struct import unpack_from

from otoscope.errors import AudioCorrupt, AudioTruncated, AudioUnsupported
from shared.audio.containers.iff import extent_of_sound, is_chunk_id, is_stray
from shared.audio.headers import Decoder, Header, missing

_COMPRESSED = {
    b"aac ": "AAC", b"aach": "AAC", b"aacp": "AAC", b"alac": "ALAC", b"opus": "Opus", b"ima4": "IMA ADPCM",
    b"ms\0\x11": "IMA ADPCM", b"ms\0\x02": "Microsoft ADPCM", b".mp3": "MPEG layer III", b".mp2": "MPEG layer II",
    b"ac-3": "AC-3", b"flac": "FLAC", b"samr": "AMR-NB",
}  # fmt: skip
_FLOAT, _LITTLE = 1, 2  # flags of uncompressed samples
_MAX_CHUNKS = 10_000
_NEXT = re.compile(rb"caff\x00\x01\x00\x00")


def read_caf_header(data: bytes, start: int) -> Header:
    """Raises AudioCorrupt, AudioTruncated or AudioUnsupported."""
    at, header = start + 8, None
    frames: int | None = None
    sized = False  # every packet has the same size; else the file ends with a table of them
    sound: tuple[int, int] | None = None  # offset, claimed bytes; -1 for those that were never finished
    for _ in range(_MAX_CHUNKS):
        if at + 12 > len(data):
            break
        name, size = unpack_from(">4sq", data, at)
        if sound is not None and (name == b"caff" or not is_chunk_id(name)):  # another file, or what is no chunk
            break
        at += 12
        if name == b"desc" and header is None:
            header = _description(data, at)
            sized = unpack_from(">I", data, at + 16)[0] > 0
        elif name == b"pakt":
            frames = max(unpack_from(">q", data, at + 8)[0], 0) or None
        elif name == b"data":
            sound = at + 4, size - 4 if size >= 0 else -1  # an edit count precedes the samples
        if size < 0:
            break
        at += size
    else:
        raise AudioCorrupt(f"The file has more than {_MAX_CHUNKS:,} chunks.")
    if header is None:
        raise AudioTruncated("The CAF file ends before its description.")
    if sound is None:
        raise AudioTruncated("The CAF file ends before its samples.")
    begin, claimed = sound
    if header.decoder is Decoder.PYAV:
        held = max(len(data) - begin, 0)
        truncated = missing("CAF", claimed, held, "bytes of samples") if claimed > held else ""
        if truncated and frames is None and not sized:
            raise AudioTruncated(f"{truncated} Its table of packets, which would be behind them, is missing.")
        return replace(header, frames=frames, offset=start, end=min(at, len(data)), truncated=truncated)
    stated = None if claimed < 0 else claimed
    extent = extent_of_sound("CAF", data, begin, stated, None, lambda end: _chunk_follows(data, end), _NEXT)
    frame = max(header.channels * header.sample_bytes, 1)
    truncated, lost = extent.doubt, claimed - extent.size
    if lost > 0:
        seconds = lost / (frame * header.rate) if header.rate else None
        truncated = missing("CAF", claimed, extent.size, "bytes of samples", seconds)
    return replace(header, frames=extent.size // frame, offset=begin, end=begin + extent.size, truncated=truncated)


def _chunk_follows(data: bytes, at: int) -> bool:
    if not is_chunk_id(data[at : at + 4]) or at + 12 > len(data):
        return is_stray(data, at)
    return not any(data[at + 4 : at + 8])  # of less than 4 GB; a file that was cut lacks a part of it


def _description(data: bytes, at: int) -> Header:
    rate, codec, flags, packet, _, channels, bits = unpack_from(">d4s5I", data, at)
    rate = round(rate) if 0 < rate < 2**31 else 0  # not of NaN
    if codec in _COMPRESSED:
        return Header("CAF", _COMPRESSED[codec], rate, channels, None, decoder=Decoder.PYAV)
    order = "<" if flags & _LITTLE else ">"
    stored = 32 if (codec, bits, packet) == (b"lpcm", 24, 4 * channels) else bits  # left-aligned
    sample_format = {
        (b"lpcm", 0, 8): "i1", (b"lpcm", 0, 16): f"{order}i2", (b"lpcm", 0, 24): f"{order}i3",
        (b"lpcm", 0, 32): f"{order}i4", (b"lpcm", 1, 32): f"{order}f4", (b"lpcm", 1, 64): f"{order}f8",
        (b"alaw", 0, 8): "alaw", (b"ulaw", 0, 8): "ulaw",
    }.get((codec, flags & _FLOAT if codec == b"lpcm" else 0, stored))  # fmt: skip
    if sample_format is None:
        known = "PCM, float, A-law, µ-law, AAC, ALAC, Opus, ADPCM, MP3, MP2, AC-3 and FLAC are"
        raise AudioUnsupported(f"CAF with {codec!r} of {bits} bits is not accepted; {known}.")
    name = {b"alaw": "A-law", b"ulaw": "µ-law"}.get(codec, "float" if flags & _FLOAT else "PCM")
    return Header("CAF", f"{name} {bits} bit", rate, channels, None, sample_format=sample_format)
