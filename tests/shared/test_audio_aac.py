"""MP4: the same sound, the same errors, and no decoder but those of the table."""

import io
import struct

import av
import numpy as np
import pytest

from otoscope.errors import AudioError, AudioTooLong, AudioTruncated, AudioUnsupported, NotAudio
from shared.audio.decode import decode
from shared.audio.limits import AudioLimits
from shared.audio.probe import probe
from tests.support.sounds import Wave, chirp, difference, encode_m4a, tone

RATE = 16_000
PRIMING = 1_024  # samples that an AAC encoder prepends; PyAV does not record them in the file


def box(name: bytes, *inner: bytes) -> bytes:
    body = b"".join(inner)
    return struct.pack(">I4s", 8 + len(body), name) + body


def m4a(duration: int = 2 * RATE, timescale: int = RATE, kind: bytes = b"mp4a", handler: bytes = b"soun") -> bytes:
    """The boxes that describe the sound, without any sound."""
    entry = box(kind, bytes(16), struct.pack(">HHIHH", 1, 16, 0, RATE, 0))
    media = box(
        b"mdia",
        box(b"mdhd", bytes(12), struct.pack(">III", timescale, duration, 0)),
        box(b"hdlr", bytes(8), handler, bytes(12)),
        box(b"minf", box(b"stbl", box(b"stsd", struct.pack(">II", 0, 1), entry))),
    )
    return box(b"ftyp", b"M4A ", bytes(4)) + box(b"moov", box(b"trak", media)) + box(b"mdat", bytes(100))


M4A = m4a()


@pytest.mark.parametrize(
    ("file", "kind", "words"),
    [
        (m4a(duration=121 * 60 * RATE), AudioTooLong, "7,260.0 s"),
        (m4a(kind=b"drms"), AudioUnsupported, "'drms'"),
        (m4a(kind=b"enca"), AudioUnsupported, "'enca'"),
        (m4a(handler=b"vide"), NotAudio, "no sound track"),
        (m4a()[:-120], AudioTruncated, "'trak'"),
    ],
)
def test_refused_by_its_header(file: bytes, kind: type[AudioError], words: str) -> None:
    """The gateway finds faults of an M4A file without PyAV."""
    with pytest.raises(kind) as caught:
        probe(file)
    assert words in caught.value.detail


def test_header_of_m4a() -> None:
    """Rate, channels and length are in the sound track; files written while they are recorded lack the length."""
    header = probe(m4a())
    assert (header.container, header.codec, header.rate, header.channels, header.frames) == (
        "M4A", "AAC", RATE, 1, 2 * RATE,
    )  # fmt: skip
    assert probe(m4a(duration=0)).frames is None
    assert probe(m4a(timescale=600, duration=1_200)).frames == 2 * RATE


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_aac_and_alac_decode_to_the_same_sound(rate: int, channels: int) -> None:
    """ALAC bit for bit, AAC by its spectrum; one of six channels carries bass only."""
    wave = chirp(1.0, rate, channels)
    exact = decode(encode_m4a(wave, rate, "alac"), rate)
    assert (exact.container, exact.source_rate, exact.channels, len(exact.waveform)) == ("M4A", rate, channels, rate)
    assert difference(exact.waveform, wave[:, 0], rate) < 1e-6
    lossy = decode(encode_m4a(wave, rate, "aac"), rate)
    assert rate <= len(lossy.waveform) < rate + 4 * PRIMING
    apart = difference(lossy.waveform[PRIMING:], wave[:, 0], rate, exact=False)
    assert apart < (0.2 if channels == 6 else 0.15)


def test_eight_channels_of_aac() -> None:
    """PyAV 18.1 counts a ninth plane, which points outside of the frame."""
    wave = chirp(1.0, 44_100, 8)
    decoded = decode(encode_m4a(wave, 44_100), 44_100)
    assert decoded.channels == 8
    assert difference(decoded.waveform[PRIMING:], wave[:, 0], 44_100, exact=False) < 0.2


def test_m4a_is_resampled_and_its_header_has_its_length() -> None:
    """As any other format."""
    file = encode_m4a(tone(2.0, 44_100, 2), 44_100)
    assert (probe(file).frames or 0) / 44_100 == pytest.approx(2.0, abs=0.1)
    decoded = decode(file, RATE)
    assert decoded.rate == RATE
    assert decoded.seconds == pytest.approx(2.0, abs=0.1)


def test_m4a_decoding_stops_at_the_limit() -> None:
    """A file that claims to be short is decoded no further than the limit."""
    file = encode_m4a(tone(4.0, RATE), RATE)
    at = file.index(b"mdhd") + 4 + 16
    assert struct.unpack_from(">I", file, at)[0] >= 4 * RATE
    lying = file[:at] + struct.pack(">I", RATE) + file[at + 4 :]
    assert probe(lying).frames == RATE
    with pytest.raises(AudioTooLong):
        decode(lying, RATE, AudioLimits(max_seconds=2))


def with_video(wave: Wave) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=RATE, layout="mono")
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T), format="fltp", layout="mono")
        frame.sample_rate = RATE
        for stream, one in ((video, picture), (video, None), (sound, frame), (sound, None)):
            container.mux(stream.encode(one))
    return file.getvalue()


def test_only_sound_is_decoded() -> None:
    """The sound of a film is decoded, and no decoder is opened for its video track."""
    file = with_video(tone(1.0, RATE))
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as log:
        assert decode(file, RATE).seconds == pytest.approx(1.0, abs=0.2)
    av.logging.set_level(before)
    assert any("not on whitelist" in message for _, _, message in log)


def test_a_codec_that_is_not_in_the_table_is_refused() -> None:
    """What a description calls `mp4a` can be another codec; the decoder finds out which one it is."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("ac3", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert decode(file.getvalue(), RATE).seconds == pytest.approx(1.0, abs=0.1)
    with pytest.raises(AudioError):
        decode(file.getvalue().replace(b"ac-3", b"mp4a").replace(b"dac3", b"free"), RATE)
    with pytest.raises(AudioUnsupported, match="dtsc"):
        decode(file.getvalue().replace(b"ac-3", b"dtsc"), RATE)


def test_damaged_m4a_is_an_audio_error() -> None:
    """FFmpeg's errors become AudioErrors."""
    with pytest.raises(AudioTruncated):
        decode(m4a(), RATE)
    file = bytearray(encode_m4a(tone(1.0, RATE), RATE))
    start, size = file.index(b"mdat") + 4, 4_000
    file[start : start + size] = np.random.default_rng(0).bytes(size)
    try:
        assert np.isfinite(decode(bytes(file), RATE).waveform).all()
    except AudioError as error:
        assert "M4A" in error.detail  # noqa: PT017 - either is right
