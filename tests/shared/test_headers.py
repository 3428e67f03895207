"""The header readers alone: what they report, and that hostile files take them little time."""

import struct
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from otoscope.errors import AudioCorrupt, AudioEmpty, AudioError, NotAudio
from shared.audio.containers.mp3 import find_frames, read_mp3_header
from shared.audio.formats import read_header
from shared.audio.headers import limited_steps
from shared.audio.probe import probe
from tests.support.sounds import FORMS, aiff, chunk, encode, id3, ogg_page, riff, tone, wav_format

CODECS = {
    "WAV 8 bit": "PCM 8 bit",
    "WAV µ-law": "µ-law 8 bit",
    "WAVEX float": "float 32 bit",
    "RF64 24 bit": "PCM 24 bit",
    "AIFF 16 bit": "PCM 16 bit",
    "AIFF-C double": "float 64 bit",
    "FLAC 24 bit": "FLAC 24 bit",
    "Ogg Vorbis": "Vorbis",
    "Ogg Opus": "Opus",
    "MP3": "MPEG layer III",
}


@pytest.mark.parametrize("name", CODECS)
def test_header_names_container_and_codec(name: str) -> None:
    """As they are shown to people."""
    form = FORMS[name]
    header = read_header(encode(tone(0.2, 48_000), 48_000, form.container, form.subtype))
    assert header.container == name.split()[0].removesuffix("-C").replace("WAVEX", "WAV").replace("RF64", "WAV")
    assert header.codec == CODECS[name]


def test_reader_needs_no_native_code() -> None:
    """Reading headers takes the standard library alone, in the gateway too."""
    code = (
        "import sys, shared.audio.formats; print([m for m in ('numpy', 'soundfile', 'soxr', 'av') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_probing_loads_no_decoder() -> None:
    """The gateway imports `shared.audio.probe`; the native libraries are imported by the first decoding."""
    code = (
        "import sys, shared.audio.decode, shared.audio.probe; shared.audio.probe.probe(open(0, 'rb').read());"
        "print([m for m in ('soundfile', 'soxr', 'av') if m in sys.modules])"
    )
    file = encode(tone(0.2, 48_000), 48_000, "OGG", "VORBIS")
    answer = subprocess.run([sys.executable, "-c", code], input=file, capture_output=True, check=True)
    assert answer.stdout.strip() == b"[]"


def test_aiff_rates_are_80_bit_floats() -> None:
    """Rates that are not powers of two, and fractions of a hertz, are rounded."""
    for hz, exact in ((8_000, 8_000), (22_255, 22_254.5454), (44_100, 44_100), (192_000, 192_000)):
        mantissa, exponent = np.frexp(exact)
        rate = struct.pack(">HQ", 16_382 + int(exponent), int(mantissa * 2**53) << 11)
        assert read_header(aiff(bytes(200), 100, rate=rate)).rate == hz


def test_random_bytes_contain_no_mp3_frames() -> None:
    """Random bytes contain a frame header every 16 KB, but never three consecutive frames."""
    random = np.random.default_rng(3).bytes(2_000_000)
    assert all(find_frames(random, start) is None for start in range(0, len(random), 4_096))
    with pytest.raises(NotAudio):
        read_mp3_header(random, 0)


SMALLEST = b"\xff\xf3\x14\xc4".ljust(24, b"\0")  # an MP3 frame of 8 kbit/s at 24 kHz
VORBIS = ogg_page(b"\x01vorbis" + struct.pack("<IBI", 0, 1, 44_100) + bytes(14))
AMR = b"\x44\0\0\0\0\0"  # the smallest frame that says something
SIZE = 4_000_000


def repeated(unit: bytes, before: bytes = b"") -> bytes:
    return before + unit * ((SIZE - len(before)) // len(unit))


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty Ogg pages": lambda: repeated(struct.pack("<4sBBqIIIB", b"OggS", 0, 0, 5, 1, 1, 0, 0), VORBIS),
    "Ogg pages of one byte": lambda: repeated(ogg_page(b"x", position=9, flags=0), VORBIS),
    "MP3 of sync bytes": lambda: b"\xff" * SIZE,
    "sync bytes behind ID3": lambda: repeated(b"\xff", id3(0)),
    "frame headers everywhere": lambda: repeated(b"\xff\xfb\x90\x00"),
    "frame headers behind frames": lambda: repeated(b"\xff\xfb\x90\x00", SMALLEST * 9),
    "the smallest frames": lambda: repeated(SMALLEST),
    "frames between sync bytes": lambda: repeated(SMALLEST * 4 + b"\xff" * 500),
    "frames of two kinds in turn": lambda: repeated(SMALLEST * 3 + (b"\xff\xfb\x14\xc4".ljust(32, b"\0"))),
    "ID3 tags": lambda: repeated(id3(0)),
    "empty WAV chunks": lambda: repeated(chunk(b"junk", b""), riff(wav_format())),
    "empty AIFF chunks": lambda: repeated(chunk(b"junk", b"", order=">"), b"FORM\0\0\0\0AIFF"),
    "empty MP4 boxes": lambda: repeated(b"\0\0\0\x08free", b"\0\0\0\x0cftypM4A "),
    "MP4 tracks": lambda: (
        b"\0\0\0\x0cftypM4A " + struct.pack(">I4s", 160_008, b"moov") + b"\0\0\0\x10trak\0\0\0\x08mdia" * 10_000
    ),
    "boxes within boxes": lambda: b"\0\0\0\x0cftypM4A " + b"".join(
        struct.pack(">I4s", 8 * (5_000 - depth), (b"moov", b"trak", b"mdia")[min(depth, 2)]) for depth in range(5_000)
    ),
    "text": lambda: b"O" * SIZE,
    "tags between zeros": lambda: repeated(bytes(64) + b"TAG".ljust(128, b"x"), AMR * 9),
    "junk between AMR frames": lambda: repeated(AMR * 6 + b"\1" * 100, b"#!AMR\n" + AMR),
    "AVI streams": lambda: (
        struct.pack("<4s4x8sI4s", b"RIFF", b"AVI LIST", SIZE, b"hdrl")
        + chunk(b"LIST", b"strl".ljust(996)) * (SIZE // 1_004)
    ),
}  # fmt: skip


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_read_in_linear_time(name: str) -> None:
    """4 MB made to keep a parser busy take less than a second, where a quadratic loop would take half a minute."""
    try:
        header = read_header(HOSTILE[name]())
        assert header.frames is not None
    except AudioError:
        pass


EBML = b"\x1a\x45\xdf\xa3\x80"
ADTS = b"\xff\xf1\x50\x80\x01\x1f\xfc\0"  # a frame without sound
FLAC = b"fLaC\0\0\0\x22" + bytes(10) + b"\x0a\xc4\x42\xf0".ljust(24, b"\0")
COUNTLESS = {
    "empty Matroska elements": repeated(b"\xec\x80", EBML)[:2_000_000],
    "empty Matroska blocks": repeated(b"\xa3\x80", EBML)[:2_000_000],
    "sync bytes between ADTS frames": (ADTS * 3 + b"\xff" * 65_000) * 30,
    "cut frames between ADTS frames": (ADTS * 3 + ADTS[:7] * 9_000) * 30,
    "E-AC-3 frames of four bytes": b"\x0b\x77\0\1" * 500_000,
    "empty FLAC blocks": FLAC + b"\1\0\0\0" * 500_000,
    "FLAC frames behind a wrong size": FLAC + b"\1\xff\xff\xff" + b"\xff\xf8\x10\0\0" * 400_000,
}


@pytest.mark.parametrize("name", COUNTLESS)
def test_countless_units_are_refused(name: str) -> None:
    """No sound of two megabytes has so many, and to look at each would take seconds of the gateway's time."""
    with pytest.raises(AudioCorrupt, match="more frames, blocks or tags"):
        probe(COUNTLESS[name], strict=True)


def test_the_smallest_blocks_of_two_hours_are_accepted() -> None:
    """Silence takes nine bytes of WebM each 20 ms, and one or a few of AMR."""
    frames = 2 * 3_600 * 50
    silence = (AMR + b"\x7c" * 7) * (frames // 8)
    assert probe(b"#!AMR\n" + silence).seconds == pytest.approx(7_200)
    wide = b"#!AMR-WB\n" + (b"\x4c\0\0\0\0\0" + b"\x5c\x7c\x58\x60" * 2) * 1_000
    assert probe(wide, strict=True).seconds == pytest.approx(180)
    track = _element(0xAE, _element(0x83, b"\2"), _element(0x86, b"A_OPUS"))
    blocks = _element(0xA3, b"\x81\0\0\x80\xf8\xff\xfe") * 50
    clusters = _element(0x1F43B675, _element(0xE7, b"\0"), blocks) * (frames // 50)
    header = probe(EBML + _element(0x18538067, _element(0x1654AE6B, track), clusters))
    assert (header.codec, header.truncated) == ("Opus", "")


def test_sounds_that_are_read_together_share_their_steps() -> None:
    """So that an archive of many such files takes little time, too."""
    sound = b"#!AMR\n" + AMR * 100
    with limited_steps(250, "That is too much."):
        for _ in range(2):
            assert read_header(sound).frames == 16_000
        with pytest.raises(AudioCorrupt, match="too much"):
            read_header(sound)
    assert read_header(sound).frames == 16_000


def _element(name: int, *content: bytes) -> bytes:
    """Of Matroska, with its size in one byte or in eight."""
    body = b"".join(content)
    size = bytes([0x80 | len(body)]) if len(body) < 127 else b"\1" + len(body).to_bytes(7)
    return name.to_bytes((name.bit_length() + 7) // 8) + size + body


def test_count_of_chunks_is_bounded() -> None:
    """A file of nothing but chunks is refused after some thousands."""
    for name in ("empty WAV chunks", "empty AIFF chunks", "empty MP4 boxes"):
        with pytest.raises(AudioCorrupt, match="10,000"):
            read_header(HOSTILE[name]())
    with pytest.raises(AudioEmpty):
        read_header(HOSTILE["ID3 tags"]())
