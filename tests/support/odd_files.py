"""Sound files as they come: from pipes, cut, joined, with junk around them, with fields that contradict each other.

Each is made from two seconds of a chirp at 16 kHz. Used by the tests, and by `docs/formats.py`
for the table of formats.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import soundfile

from tests.support.sounds import (
    AV_FORMS,
    Wave,
    aiff,
    chirp,
    chunk,
    encode,
    encode_av,
    encode_m4a,
    id3,
    noise,
    remux,
    riff,
    wav_format,
)

RATE = 16_000
SECONDS = 2.0
WAVE = chirp(SECONDS, RATE)
PCM = (WAVE[:, 0] * 32_767).astype("<i2").tobytes()


@dataclass(frozen=True)
class Odd:
    """A file, and what is read of it."""

    make: Callable[[], bytes]
    seconds: float | None = SECONDS  # None where it is refused
    tolerance: float = 0.0  # seconds
    truncated: bool = False  # there is a warning that something is missing
    error: str = ""  # the code, where it is refused


def wav(body: bytes = PCM, *, size: int | None = None, before: bytes = b"", **fmt: int) -> bytes:
    return riff(before + wav_format(**{"rate": RATE, **fmt}), chunk(b"data", body, size=size))


def ape(size: int = 300) -> bytes:
    """An APEv2 tag with a header and a footer."""
    flags = 1 << 31
    fields = struct.pack("<III", 2_000, size + 32, 0)
    head, foot = (b"APETAGEX" + fields + struct.pack("<I8x", flags | kind << 29) for kind in (1, 0))
    return head + bytes(size) + foot


_COMMON: dict[str, Callable[[], bytes]] = {
    "WAV": lambda: encode(WAVE, RATE),
    "AIFF": lambda: encode(WAVE, RATE, "AIFF"),
    "FLAC": lambda: encode(WAVE, RATE, "FLAC"),
    "Ogg Vorbis": lambda: encode(WAVE, RATE, "OGG", "VORBIS"),
    "Ogg Opus": lambda: encode(WAVE, RATE, "OGG", "OPUS"),
    "MP3": lambda: encode(WAVE, RATE, "MP3", "MPEG_LAYER_III"),
    "M4A": lambda: encode_m4a(WAVE, RATE),
    "AAC": lambda: remux(encode_m4a(WAVE, RATE), "adts"),
    "WebM": lambda: remux(encode(WAVE, RATE, "OGG", "OPUS"), "webm"),
}


@cache
def whole() -> dict[str, bytes]:
    """A file of each common format."""
    return {name: make() for name, make in _COMMON.items()}


IN_FRONT = {
    "ID3v2 in front": id3(),
    "two ID3v2 in front": id3(20) + id3(900),
    "ID3v2 with zeros beyond its size in front": id3(50) + bytes(6_000),
    "APEv2 in front": ape(),
    "8 KB of zeros in front": bytes(8_192),
    "CR LF in front": b"\r\n",
    "stray bytes in front": b"\x89\x01\x7f",
    "the head of a form in front": b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n',
}
BEHIND = {
    "ID3v1 behind": b"TAG" + bytes(125),
    "APEv2 and ID3v1 behind": ape() + b"TAG" + bytes(125),
    "zeros behind": bytes(512),
    "a stray byte behind": b"\x0a",
    "CR LF behind": b"\r\n",
    "the end of a form behind": b"\r\n--x--\r\n",
}
TELEPHONY = {  # by libsndfile: container, subtype, the tolerance of `difference`
    "WAV GSM 6.10": ("WAV", "GSM610", 0.3),
    "AIFF-C GSM 6.10": ("AIFF", "GSM610", 0.3),
    "W64 GSM 6.10": ("W64", "GSM610", 0.3),
    "WAV G.721 ADPCM": ("WAV", "G721_32", 0.02),
    "WAV NMS ADPCM, 2 bits": ("WAV", "NMS_ADPCM_16", 0.08),
    "WAV NMS ADPCM, 4 bits": ("WAV", "NMS_ADPCM_32", 0.02),
    "AU G.721 ADPCM": ("AU", "G721_32", 0.02),
    "AU G.723 ADPCM, 3 bits": ("AU", "G723_24", 0.04),
    "AU G.723 ADPCM, 5 bits": ("AU", "G723_40", 0.02),
}
PIPES = (0, 0x7FFFF000, 0x7FFFF024, 0x7FFFFFFF, 0x80000000, 0xFFFFFFD4, 0xFFFFFFFF)
"""Sizes of samples that programs leave behind which cannot seek back to correct them."""


def _left_aligned(bits: int, width: int, order: str = "<") -> bytes:
    """The chirp as integers of so many bits in so many bytes."""
    whole = np.round(WAVE[:, 0] * (2 ** (bits - 1) - 1)).astype("<i8") << (8 * width - bits)
    return b"".join(int(value).to_bytes(width, "little", signed=True) for value in whole)


def _extensible(bits: int, valid: int) -> bytes:
    head = struct.pack(
        "<HHIIHHHHIH14s", 0xFFFE, 1, RATE, 0, bits // 8, bits, 22, valid, 4, 1, b"\0\0\0\0\x10\0" + bytes(8)
    )
    return riff(chunk(b"fmt ", head), chunk(b"data", _left_aligned(valid, bits // 8)))


def _free_format() -> bytes:
    """An MP3 of constant frames, whose headers do not state their size."""
    file = bytearray(encode(chirp(SECONDS, 48_000), 48_000, "MP3", "MPEG_LAYER_III", bitrate_mode="CONSTANT"))
    size = file.find(file[:2], 100)
    for at in range(0, len(file) - 3, size):
        file[at + 2] &= 0x0F
    return bytes(file)


def _unknown_length() -> bytes:
    file = bytearray(whole()["FLAC"])
    file[21] &= 0xF0
    file[22:26] = bytes(4)
    return bytes(file)


def _with_picture(file: bytes) -> bytes:
    """A FLAC file whose first metadata block after the stream information is a picture of random bytes."""
    picture = np.random.default_rng(1).bytes(9_000)
    return file[:42] + b"\x06" + len(picture).to_bytes(3, "big") + picture + file[42:]


def _damaged(file: bytes, part: float) -> bytes:
    at = int(len(file) * part)
    return file[:at] + np.random.default_rng(0).bytes(60) + file[at + 60 :]


STEREO_48 = chirp(1.0, 48_000, 2)


def _odd() -> dict[str, Odd]:
    odd: dict[str, Odd] = {}
    for size in PIPES:
        odd[f"WAV from a pipe, size {size:X}"] = Odd(partial(wav, size=size))
    odd |= {
        "WAV whose size was corrected too early": Odd(lambda: wav(size=8_000)),
        "RF64 whose ds64 was never written": Odd(
            lambda: riff(chunk(b"ds64", bytes(28)), wav(size=0xFFFFFFFF)[12:], magic=b"RF64")
        ),
        "RIFX (big-endian)": Odd(lambda: encode(WAVE, RATE, "WAV", endian="BIG")),
        "WAV with blocks of 0 bytes": Odd(lambda: wav(block=0)),
        "WAV with blocks of 1 byte": Odd(lambda: wav(block=1)),
        "WAV with blocks of 6 bytes": Odd(lambda: wav(block=6)),
        "WAV of 12 bits in 2 bytes": Odd(lambda: wav(_left_aligned(12, 2), bits=12, block=2)),
        "WAV of 20 bits in 3 bytes": Odd(lambda: wav(_left_aligned(20, 3), bits=20, block=3)),
        "WAV of 24 bits in 4 bytes": Odd(lambda: wav(_left_aligned(24, 4), bits=24, block=4)),
        "WAV of 24 valid bits in 32": Odd(lambda: _extensible(32, 24)),
        "WAV with an odd chunk without padding": Odd(lambda: wav(before=chunk(b"LIST", b"INFOx")[:-1])),
        "AIFF whose size was never written": Odd(lambda: _zero_frames(aiff(_big_endian(), len(WAVE)))),
        "AU, little-endian": Odd(lambda: encode(WAVE, RATE, "AU", endian="LITTLE")),
        "WAV of floats, stray bytes behind": Odd(
            lambda: encode(WAVE, RATE, "WAV", "FLOAT") + b"\r\n--boundary--" + b"\xff" * 40
        ),
        "FLAC of unknown length": Odd(_unknown_length),
        "FLAC with a damaged picture": Odd(lambda: _with_picture(whole()["FLAC"])),
        "MP3 of free format": Odd(_free_format, tolerance=0.1),
        "two MP3 files of free format": Odd(lambda: _free_format() * 2, 4.0, 0.1),
        "MP3 of free format, a tag, another one": Odd(lambda: _free_format() + id3() + _free_format(), 4.0, 0.1),
        "MP3 of free format behind one of constant bit rate": Odd(lambda: whole()["MP3"] + _free_format(), 4.0, 0.2),
        "MP4 in fragments": Odd(
            lambda: remux(whole()["M4A"], "mp4", movflags="frag_every_frame+empty_moov"), tolerance=0.2
        ),
        "WebM without a length": Odd(lambda: remux(whole()["Ogg Opus"], "webm", live="1"), tolerance=0.05),
        "two WAV files": Odd(lambda: wav() + wav(), 4.0),
        "two WAV files from a pipe": Odd(lambda: wav(size=0xFFFFFFFF) + wav(size=0xFFFFFFFF), 4.0),
        "two WAV files of different rates": Odd(lambda: wav() + encode(STEREO_48, 48_000), 3.0),
        "two FLAC files": Odd(lambda: whole()["FLAC"] + encode(STEREO_48, 48_000, "FLAC"), 3.0),
        "two AIFF files": Odd(lambda: whole()["AIFF"] + whole()["AIFF"], 4.0),
        "two M4A files": Odd(lambda: whole()["M4A"] + whole()["M4A"], 4.0, 0.4),
        "two WebM files": Odd(lambda: whole()["WebM"] + whole()["WebM"], 4.0, 0.1),
        "two AAC streams of different rates": Odd(
            lambda: whole()["AAC"] + remux(encode_m4a(STEREO_48, 48_000), "adts"), 3.0, 0.4
        ),
        "chained Ogg of different codecs, rates and channels": Odd(
            lambda: whole()["Ogg Vorbis"] + encode(STEREO_48, 48_000, "OGG", "OPUS") + whole()["Ogg Vorbis"], 5.0, 0.05
        ),
        "two MP3 files of different rates": Odd(lambda: whole()["MP3"] + _mp3(chirp(1.0, 44_100), 44_100), 3.0, 0.2),
        "two MP3 files, zeros between them": Odd(lambda: whole()["MP3"] + bytes(6_000) + whole()["MP3"], 4.0, 0.3),
        "two Ogg files, a line break between them": Odd(
            lambda: whole()["Ogg Opus"] + b"\r\n" + whole()["Ogg Opus"], 4.0, 0.1
        ),
        **{name: Odd(partial(telephony, name), tolerance=0.02) for name in TELEPHONY},
        "AU G.721 ADPCM, cut": Odd(lambda: _half(telephony("AU G.721 ADPCM")), 1.0, 0.01, truncated=True),
        "AU G.721 ADPCM, zeros behind": Odd(lambda: telephony("AU G.721 ADPCM") + bytes(500), tolerance=0.02),
        "WAV OKI ADPCM": Odd(lambda: wav(_oki(), tag=0x17, rate=8_000, bits=4)),
        "WAV AAC in LATM": Odd(lambda: wav(remux(whole()["M4A"], "latm"), tag=0x1602), tolerance=0.15),
        "AMR-WB": Odd(lambda: b"#!AMR-WB\n" + b"".join(b"\x14" + bytes(32) for _ in range(100))),
        "two AMR files": Odd(lambda: _amr() * 2, 4.0, 0.2),
        "two WMA files": Odd(lambda: encode_av(chirp(SECONDS, 48_000), AV_FORMS["WMA 2"]) * 2, 4.0, 0.2),
        "two CAF files": Odd(lambda: encode_av(chirp(SECONDS, 48_000), AV_FORMS["CAF ALAC"]) * 2, 4.0, 0.1),
        "MP3 that changes from mono to stereo": Odd(
            lambda: _mp3(chirp(1.0, 48_000), 48_000) + _mp3(STEREO_48, 48_000), 2.0, 0.2
        ),
        "WAV, cut": Odd(lambda: wav()[:-16_000], 1.5, truncated=True),
        "WAV that is one sample short": Odd(lambda: wav()[:-2], SECONDS, 1e-4, truncated=True),
        "AIFF, cut": Odd(lambda: whole()["AIFF"][:-16_000], 1.5, truncated=True),
        "AU, cut": Odd(lambda: encode(WAVE, RATE, "AU")[:-16_000], 1.5, truncated=True),
        "CAF, cut": Odd(lambda: encode(WAVE, RATE, "CAF")[:-16_000], 1.5, truncated=True),
        "Wave64, cut": Odd(lambda: encode(WAVE, RATE, "W64")[:-16_000], 1.5, truncated=True),
        "FLAC, cut": Odd(lambda: _half(whole()["FLAC"]), 1.0, 0.3, truncated=True),
        "FLAC of unknown length, cut": Odd(lambda: _half(_unknown_length()), 1.0, 0.3, truncated=True),
        "FLAC, damaged in the middle": Odd(lambda: _damaged(whole()["FLAC"], 0.5), SECONDS, 0.6, truncated=True),
        "Ogg Vorbis, cut": Odd(lambda: _half(_long("VORBIS")), 10.0, 4.0, truncated=True),
        "Ogg Opus, cut": Odd(lambda: _half(_long("OPUS")), 10.0, 4.0, truncated=True),
        "Ogg Vorbis, cut in its first page of sound": Odd(lambda: _long("VORBIS")[:6_000], 0.5, 0.45, truncated=True),
        "MP3, cut": Odd(lambda: _half(whole()["MP3"]), 1.0, 0.3, truncated=True),
        "MP3 without a tag, cut in a frame": Odd(lambda: whole()["MP3"][144:-50], SECONDS, 0.3, truncated=True),
        "AAC, cut": Odd(lambda: _half(whole()["AAC"]), 1.0, 0.4, truncated=True),
        "MP4 in fragments, cut": Odd(
            lambda: _half(remux(whole()["M4A"], "mp4", movflags="frag_every_frame+empty_moov")),
            1.0,
            0.4,
            truncated=True,
        ),
        "WebM, cut": Odd(lambda: _half(whole()["WebM"]), 1.0, 0.4, truncated=True),
        "AMR, zeros behind": Odd(lambda: _amr() + bytes(200), SECONDS, 0.1),
        "AMR, cut in a frame": Odd(lambda: _amr()[:-5], 2.0, 0.1, truncated=True),
        "WavPack, cut": Odd(
            lambda: _half(encode_av(chirp(SECONDS, 48_000), AV_FORMS["WavPack"])), 1.0, 0.6, truncated=True
        ),
        "WMA, cut": Odd(lambda: _half(encode_av(chirp(SECONDS, 48_000), AV_FORMS["WMA 2"])), 1.0, 0.5, truncated=True),
        "CAF without its table of packets": Odd(
            lambda: _half(encode_av(chirp(SECONDS, 48_000), AV_FORMS["CAF ALAC"])), None, error="audio_truncated"
        ),
        "AVI, cut": Odd(lambda: _half(_av("AVI PCM")), 1.0, 0.1, truncated=True),
        "FLV, cut": Odd(lambda: _half(_av("FLV AAC")), 1.0, 0.4, truncated=True),
        "AC-3, cut": Odd(lambda: _half(_av("AC-3")), 1.0, 0.2, truncated=True),
        "MPEG-TS, from its middle on": Odd(lambda: _av("MPEG-TS AAC")[188 * 40 + 50 :], 1.7, 0.5),
        "two MPEG-TS files": Odd(lambda: _av("MPEG-TS AC-3") * 2, 4.0, 0.2),
        "M4A without its index": Odd(lambda: _half(whole()["M4A"]), None, error="audio_truncated"),
        "WAV without samples": Odd(lambda: wav(b""), None, error="audio_empty"),
        "WAV whose samples are missing": Odd(lambda: wav(b"", size=8_000), None, error="audio_truncated"),
        "a recording at 1 kHz": Odd(lambda: encode(chirp(SECONDS, 1_000, high=400.0), 1_000)),
        "a recording at 250 kHz": Odd(lambda: encode(chirp(SECONDS, 250_000), 250_000)),
        "a recording at 768 kHz": Odd(lambda: encode(chirp(SECONDS, 768_000), 768_000, "WAV")),
        "64 channels": Odd(lambda: encode(noise(SECONDS, RATE, 64), RATE)),
    }
    for place, tags in (("front", IN_FRONT), ("behind", BEHIND)):
        for name, tag in tags.items():
            for kind in _COMMON:
                tolerance = 0.0 if kind in ("WAV", "AIFF", "FLAC") else 0.2
                front, behind = (tag, b"") if place == "front" else (b"", tag)
                make = partial(_surrounded, kind, front, behind)
                odd[f"{kind}, {name}"] = Odd(make, tolerance=tolerance)
    return odd


def _surrounded(kind: str, front: bytes, behind: bytes) -> bytes:
    return front + whole()[kind] + behind


def telephony(name: str, seconds: float = SECONDS) -> bytes:
    """One of `TELEPHONY`, of a chirp at 8 kHz."""
    container, subtype, _ = TELEPHONY[name]
    return encode(chirp(seconds, 8_000), 8_000, container, subtype)


def _oki() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, chirp(SECONDS, 8_000), 8_000, "VOX_ADPCM", format="RAW")
    return file.getvalue()


def _half(file: bytes) -> bytes:
    return file[: len(file) // 2]


@cache
def _long(codec: str) -> bytes:
    """Twenty seconds: pages of Ogg hold up to a second."""
    return encode(noise(20.0, RATE), RATE, "OGG", codec)


@cache
def _av(name: str) -> bytes:
    return encode_av(chirp(SECONDS, AV_FORMS[name].rate), AV_FORMS[name])


@cache
def _amr() -> bytes:
    return _av("AMR-NB")


def _mp3(wave: Wave, rate: int) -> bytes:
    return encode(wave, rate, "MP3", "MPEG_LAYER_III")


def _big_endian() -> bytes:
    return (WAVE[:, 0] * 32_767).astype(">i2").tobytes()


def _zero_frames(file: bytes) -> bytes:
    """An AIFF file as it is while it is recorded: no frames, and the largest size."""
    at = file.index(b"COMM") + 10
    file = file[:at] + bytes(4) + file[at + 4 :]
    at = file.index(b"SSND") + 4
    return file[:at] + b"\x7f\xff\xff\xff" + file[at + 4 :]


ODD = _odd()
