"""Files that must be refused: the error class, a message with what was found, and mostly before any decoder runs."""

import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from otoscope.errors import (
    AudioChannels,
    AudioCorrupt,
    AudioEmpty,
    AudioError,
    AudioNotFinite,
    AudioRate,
    AudioTooLong,
    AudioTooShort,
    AudioTruncated,
    AudioUnsupported,
    NotAudio,
)
from shared.audio import decode as audio
from shared.audio import decoders
from shared.audio.decode import decode
from shared.audio.limits import AudioLimits
from shared.audio.probe import probe
from tests.support.sounds import (
    FORMS,
    aiff,
    chirp,
    chunk,
    encode,
    flac_of_silence,
    id3,
    ogg_page,
    riff,
    tone,
    wav_format,
)

Case = tuple[bytes, type[AudioError], str]

RATE = 16_000
PCM = bytes(2 * RATE)  # a second of 16-bit silence
DATA = chunk(b"data", PCM)
WAV = riff(wav_format(RATE), DATA)
RANDOM = np.random.default_rng(1).bytes(200_000)
SYNC = b"\xff\xfb\x90\x00"  # how an MP3 frame begins


def wav(size: int | None = None, body: bytes = PCM, **fmt: int) -> bytes:
    return riff(wav_format(**{"rate": RATE, **fmt}), chunk(b"data", body, size=size))


def flac(packed: int) -> bytes:
    return b"fLaC\x80\x00\x00\x22" + bytes(10) + packed.to_bytes(8, "big") + bytes(16) + RANDOM[:500]


def mp4(*boxes: bytes) -> bytes:
    return b"\0\0\0\x0cftypM4A " + b"".join(boxes)


HEADERS: dict[str, Case] = {
    "nothing": (b"", AudioEmpty, "empty"),
    # Not sound at all
    "text": (b"hello, world\n" * 9, NotAudio, "text"),
    "text of one letter": (b"O", NotAudio, "text"),
    "text beyond ASCII": (("Grüße, " * 30).encode(), NotAudio, "text"),
    "JSON": (b' {"audio_data": ""}', NotAudio, "JSON"),
    "HTML": (b"\r\n<!doctype html>", NotAudio, "HTML"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(64), NotAudio, "PNG image"),
    "JPEG": (b"\xff\xd8\xff\xe0" + bytes(64), NotAudio, "JPEG image"),
    "AVI of nothing": (b"RIFF\x10\0\0\0AVI " + bytes(64), AudioTruncated, "AVI file ends inside its header"),
    "a sampler's RIFF": (b"RIFF\x10\0\0\0sfbk" + bytes(64), NotAudio, "RIFF file that is not WAVE"),
    "ZIP": (b"PK\x03\x04" + RANDOM, NotAudio, "ZIP"),
    "random bytes": (b"\x01" + RANDOM, NotAudio, "unknown binary data (01 "),
    "zeros": (bytes(1_000), NotAudio, "unknown binary data"),
    "random bytes behind a sync": (SYNC + RANDOM, NotAudio, "unknown binary data"),
    "a sync in random bytes": (b"\x01" + RANDOM[:999] + SYNC + RANDOM, NotAudio, "unknown binary data"),
    "one MP3 frame": (SYNC + bytes(413), NotAudio, "unknown binary data"),
    "PNG behind ID3": (id3() + b"\x89PNG" + RANDOM, NotAudio, "PNG image"),
    "MP4 without sound": (mp4(b"\0\0\0\x10moov", b"\0\0\0\x08trak"), NotAudio, "no sound track"),
    # Sound that is not accepted
    "CAF": (b"caff\0\1\0\0" + RANDOM, AudioTruncated, "CAF"),
    "AU": (b".snd" + RANDOM, NotAudio, "unknown binary data"),
    "AU of a program": (b".snd" + struct.pack(">5I", 24, 99, 10, RATE, 1) + RANDOM, AudioUnsupported, "encoding 10"),
    "AU of 2 bytes": (b".snd" + struct.pack(">5I", 2, 99, 3, RATE, 1) + RANDOM, AudioCorrupt, "2 bytes"),
    "big-endian AVI": (b"RIFX\0\0\0\x10AVI " + bytes(64), NotAudio, "RIFF file that is not WAVE"),
    "WebM": (b"\x1aE\xdf\xa3" + RANDOM, AudioTruncated, "Matroska"),
    "ADTS": (b"\xff\xf1" + RANDOM, NotAudio, "unknown binary data"),
    "MPEG layer II": (b"\xff\xfd" + RANDOM, NotAudio, "unknown binary data"),
    "Monkey's Audio": (b"MAC \x96\x0f" + RANDOM, AudioUnsupported, "Monkey's Audio"),
    "MIDI": (b"MThd\0\0\0\x06" + RANDOM, AudioUnsupported, "MIDI"),
    "DTS in WAV": (wav(tag=0x2001, bits=16, block=2), AudioUnsupported, "0x2001"),
    "unknown WAV codec": (wav(tag=0x1234), AudioUnsupported, "0x1234"),
    "WAV of 40 bits": (wav(bits=40, block=5), AudioUnsupported, "40 bits"),
    "QDesign in AIFF": (aiff(PCM, RATE, kind=b"QDM2\0\0"), AudioUnsupported, "QDM2"),
    "AIFF of 33 bits": (aiff(PCM, RATE, bits=33), AudioUnsupported, "33 bits"),
    "AIFF of -8 bits": (aiff(PCM, RATE, bits=-8), AudioUnsupported, "-8 bits"),
    "Theora": (ogg_page(b"\x80theora" + bytes(50)), AudioUnsupported, "Theora"),
    "Ogg with nothing known": (ogg_page(RANDOM[:50]), AudioUnsupported, "unknown codec"),
    "Ogg where the page's table spells a codec": (
        ogg_page(b"CELT")[:26] + b"\x13\x01vorbis" + bytes(12) + b"CELT    ", AudioTruncated, "breaks off",
    ),
    # Broken headers
    "WAV cut in its header": (WAV[:30], AudioTruncated, "header"),
    "WAV without samples": (riff(wav_format(RATE)), AudioTruncated, "before its samples"),
    "WAV with samples first": (riff(DATA, wav_format(RATE)), AudioCorrupt, "before its format"),
    "WAV with a short format": (riff(chunk(b"fmt ", bytes(14)), DATA), AudioCorrupt, "14 bytes"),
    "WAV that claims 1 GB": (wav(size=0x40000000), AudioTruncated, "1,073,741,824 bytes"),
    "WAV whose samples are missing": (wav(body=b"", size=1_000), AudioTruncated, "has 0"),
    "RF64 of 2^60 bytes": (
        riff(chunk(b"ds64", struct.pack("<QQQI", 0, 1 << 60, 0, 0)), wav(size=0xFFFFFFFF)[12:], magic=b"RF64"),
        AudioTruncated, "1,152,921,504,606,846,976",
    ),
    "AIFF that claims more frames": (aiff(PCM, RATE + 1), AudioTruncated, "32,002"),
    "AIFF without description": (b"FORM\0\0\0\0AIFF" + chunk(b"SSND", bytes(99), order=">"), AudioTruncated, "common"),
    "FLAC that begins with a picture": (b"fLaC\x06" + bytes(99), AudioCorrupt, "stream information"),
    "Ogg cut in a page": (encode(chirp(), 44_100, "OGG", "VORBIS")[:-1], AudioTruncated, "inside the page"),
    "Ogg without its last page": (encode(chirp(), 44_100, "OGG", "VORBIS")[:-400], AudioTruncated, "page"),
    "Ogg with a header behind it": (
        encode(chirp(), 48_000, "OGG", "OPUS") + ogg_page(b"OpusHead", serial=7), AudioTruncated, "not read",
    ),
    "MP3 cut short": (encode(tone(2.0, RATE), RATE, "MP3", "MPEG_LAYER_III")[:-100], AudioTruncated, "frames"),
    "ID3 alone": (id3(), AudioEmpty, "ID3"),
    "ID3 cut short": (id3()[:-1], AudioTruncated, "ID3"),
    "MP4 cut short": (mp4(b"\0\0\x10\0mdat"), AudioTruncated, "'mdat' announces 4,096"),
    "MP4 without index": (mp4(b"\0\0\0\x08mdat"), AudioTruncated, "moov"),
    "MP4 with a box of 3 bytes": (mp4(b"\0\0\0\x03free"), AudioCorrupt, "size of 3"),
    # Out of bounds
    "no channels": (wav(channels=0), AudioChannels, "0 channels; 1 to 64"),
    "65 channels": (wav(channels=65), AudioChannels, "65 channels"),
    "65,535 channels": (wav(channels=65_535, bits=8, block=65_535), AudioChannels, "65535 channels"),
    "AIFF of -1 channels": (aiff(PCM, RATE, channels=-1), AudioChannels, "-1 channels"),
    "AIFF of no channels": (aiff(PCM, RATE, channels=0), AudioChannels, "0 channels"),
    "1 Hz": (wav(rate=1), AudioRate, "1 Hz; 1,000 to 768,000"),
    "4 GHz": (wav(rate=4_000_000_000), AudioRate, "4,000,000,000 Hz"),
    "AIFF of an endless rate": (aiff(PCM, RATE, rate=b"\x7f\xff" + b"\xff" * 8), AudioRate, "0 Hz"),
    "AIFF of a negative rate": (aiff(PCM, RATE, rate=b"\xc0\x0c\xfa" + bytes(7)), AudioRate, "0 Hz"),
    "FLAC of no rate": (flac(15 << 36 | RATE), AudioRate, "0 Hz"),
    "no samples": (wav(body=b""), AudioEmpty, "no samples"),
    "no samples, but a note": (wav(body=b"") + chunk(b"LIST", b"INFO"), AudioEmpty, "no samples"),
    "one sample": (wav(body=b"\0\0"), AudioTooShort, "0.0625 ms; at least 50"),
    "two hours and a minute": (flac_of_silence(7_260, 4_000, 1), AudioTooLong, "7,260.0 s; at most 7200"),
    "FLAC of 2^36 frames": (flac(RATE << 44 | 15 << 36 | (1 << 36) - 1), AudioTooLong, "s; at most 7200"),
    "FLAC of ten hours of silence": (flac_of_silence(36_000, RATE, 8), AudioTooLong, "36,000.0 s"),
    "Ogg that claims years": (
        ogg_page(b"\x01vorbis" + struct.pack("<IBI", 0, 1, 44_100) + bytes(14))
        + ogg_page(b"x", position=1 << 50, flags=4), AudioTooLong, "at most 7200",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_refused_by_its_header(name: str) -> None:
    """`probe` and `decode` raise the same error: no decoder is needed to find the fault.

    With `strict`, so that sounds that are cut are refused, too: `test_audio_cut.py` has what is read of them.
    """
    file, kind, words = HEADERS[name]
    for reader in (lambda data: probe(data, strict=True), lambda data: decode(data, RATE, strict=True)):
        error = refusal(reader, file)
        assert type(error) is kind, error
        assert words in error.detail, error.detail
        if kind is NotAudio:
            assert "Accepted: WAV, FLAC, Ogg" in error.detail


def refusal(reader: Callable[[bytes], object], file: bytes) -> AudioError:
    with pytest.raises(AudioError) as caught:
        reader(file)
    return caught.value


FLOAT = {"tag": 3, "bits": 32}


def floats(*values: float) -> bytes:
    """A second of silence as floats, in the middle of which are these."""
    samples = np.zeros(RATE, "<f4")
    samples[8_000 : 8_000 + len(values)] = values
    return wav(body=samples.tobytes(), **FLOAT)


def doubles(value: float) -> bytes:
    return wav(body=np.full(RATE, value, "<f8").tobytes(), tag=3, bits=64)


BODIES: dict[str, Case] = {
    "NaN": (floats(np.nan), AudioNotFinite, "NaN"),
    "infinity": (floats(np.inf), AudioNotFinite, "infinite"),
    "minus infinity": (floats(-np.inf, 0.5), AudioNotFinite, "infinite"),
    "a double beyond float": (doubles(1e300), AudioNotFinite, "infinite"),
    "a signalling NaN": (wav(body=b"\x01\0\x80\x7f" * RATE, **FLOAT), AudioNotFinite, "NaN"),
    "far too loud": (floats(1e30, -1e30), AudioCorrupt, "1e+30"),
    "two channels whose mean overflows": (wav(body=np.full(RATE, 3e38, "<f4").tobytes(), channels=2, **FLOAT),
                                          AudioCorrupt, "3e+38"),
    "FLAC of ten hours that hides its length": (flac_of_silence(36_000, 4_000, 1, claimed=0), AudioTooLong, "7200 s"),
    "FLAC without frames": (flac_of_silence(0, RATE, 1, claimed=RATE), AudioTruncated, "1 s are missing"),
    "FLAC of no frames and no length": (flac_of_silence(0, RATE, 1), AudioEmpty, "no samples"),
    "FLAC of random bytes": (flac(RATE << 44 | 15 << 36 | RATE), AudioError, ""),
    "Ogg of one page": (encode(chirp(), 44_100, "OGG", "VORBIS")[:58], AudioTruncated, "no last page"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BODIES)
def test_refused_by_its_sound(name: str) -> None:
    """Faults that only decoding finds have the same classes."""
    file, kind, words = BODIES[name]
    error = refusal(lambda data: decode(data, RATE, strict=True), file)
    assert isinstance(error, kind), repr(error)
    assert words in error.detail, error.detail


@pytest.mark.parametrize("name", FORMS)
def test_truncated_file_of_every_form(name: str) -> None:
    """A file cut anywhere is refused where it is to be strict, nearly always as truncated."""
    form = FORMS[name]
    whole = encode(chirp(1.0, 48_000, 2), 48_000, form.container, form.subtype, endian=form.endian)
    for part in (0.02, 0.2, 0.5, 0.9, 0.999):
        error = refusal(lambda data: decode(data, RATE, strict=True), whole[: int(len(whole) * part)])
        assert type(error) is AudioTruncated or (form.container == "MP3" and part == 0.02), repr(error)


def test_a_header_cut_anywhere_is_refused() -> None:
    """Every length of every header: never a success, never another exception."""
    for form in FORMS.values():
        whole = encode(tone(0.2, 48_000), 48_000, form.container, form.subtype, endian=form.endian)
        for length in range(min(400, len(whole))):
            refusal(lambda data: decode(data, RATE, strict=True), whole[:length])


def test_limits_are_parameters() -> None:
    """The bounds come from the caller, and messages state them."""
    strict = AudioLimits(min_seconds=0.5, max_seconds=2, max_channels=1, min_rate=8_000, max_rate=16_000)
    for file, words in (
        (encode(tone(0.4, 8_000), 8_000), "at least 500 ms"),
        (encode(tone(3.0, 8_000), 8_000), "at most 2 s"),
        (encode(tone(1.0, 8_000, 2), 8_000), "1 to 1"),
        (encode(tone(1.0, 44_100), 44_100), "8,000 to 16,000"),
    ):
        assert words in refusal(lambda data: probe(data, strict), file).detail


HIDDEN = riff(wav_format(RATE, tag=0x161, bits=4, block=256), DATA)
MP3 = encode(tone(1.0, RATE), RATE, "MP3", "MPEG_LAYER_III")


@pytest.mark.parametrize(
    "file",
    [
        HIDDEN,
        id3() + HIDDEN,
        id3() + HIDDEN[:64] + MP3,  # our reader finds frames; libsndfile alone would see a WAV behind the tag
        id3() + b"caff\0\1\0\0" + MP3,
        riff(wav_format(RATE), DATA, wav_format(RATE, tag=0x11, bits=4, block=256)),
        riff(wav_format(RATE, tag=0x11, bits=4, block=256), DATA),
        aiff(PCM, RATE, kind=b"ima4\0\0"),
        aiff(PCM, RATE, kind=b"dwvw\0\0"),
        ogg_page(b"CELT    1.2" + bytes(70)),
    ],
)
def test_no_other_codec_reaches_libsndfile(file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a file claims, libsndfile gets FLAC, Ogg or MPEG frames from the first byte, or nothing."""
    seen: list[bytes] = []

    class Spy(decoders._Bytes):
        def __init__(self, data: bytes) -> None:
            seen.append(data)
            super().__init__(data)

    monkeypatch.setattr(decoders, "_Bytes", Spy)
    try:
        decode(file, RATE)
    except AudioError as error:
        assert isinstance(error, AudioUnsupported | AudioCorrupt | AudioTruncated)  # noqa: PT017 - success is right too: of WAV the first format counts
    assert all(data[:4] in (b"fLaC", b"OggS") or data[:2] in (b"\xff\xfb", b"\xff\xf3") for data in seen)


def test_a_header_that_libsndfile_reads_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where header reader and libsndfile disagree, nothing is decoded."""
    file = encode(tone(1.0, RATE), RATE, "FLAC")
    real = probe(file)
    for other in ({"rate": 8_000}, {"channels": 2}, {"container": "MP3"}):
        monkeypatch.setattr(audio, "probe", lambda *_, other=other, **__: replace(real, **other))
        assert "disagree" in refusal(lambda data: decode(data, RATE), file).detail
