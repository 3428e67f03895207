"""What FFmpeg decodes: every container and codec that phones, browsers and recorders make gives the same sound."""

import io
import struct

import av
import numpy as np
import pytest

from otoscope.errors import AudioError, AudioUnsupported, NotAudio
from shared.audio.decode import decode
from shared.audio.formats import identify
from shared.audio.probe import probe
from tests.support.odd_files import RATE, WAVE
from tests.support.sounds import (
    AV_FORMS,
    AvForm,
    chirp,
    chunk,
    difference,
    encode_av,
    encode_m4a,
    noise,
    remux,
    riff,
)

_DELAY = 2_400  # samples that codecs put in front, at most; those of Windows Media leave some out


@pytest.mark.parametrize("name", AV_FORMS)
def test_every_form_decodes_to_the_same_sound(name: str) -> None:
    """And the header reader, which is plain Python, names container and codec and agrees about the length."""
    form = AV_FORMS[name]
    wave = chirp(2.0, form.rate)
    file = encode_av(wave, form)
    header, decoded = probe(file), decode(file, form.rate)
    assert (header.container, header.codec) == (form.container, form.codec)
    assert decoded.container == form.container
    assert decoded.seconds == pytest.approx(2.0, abs=0.15)
    assert header.seconds is None or header.seconds == pytest.approx(decoded.seconds, abs=0.15)
    assert not [warning for warning in decoded.warnings if warning.code == "truncated"]

    def apart(shift: int) -> float:
        heard, sent = decoded.waveform[max(shift, 0) :], wave[max(-shift, 0) :, 0]
        return difference(heard, sent, form.rate, exact=form.exact)

    shift = 0
    if not form.exact:
        nearest = min(range(-_DELAY, _DELAY, 160), key=apart)
        shift = min(range(nearest - 160, nearest + 160, 20), key=apart)
    assert apart(shift) < form.tolerance, f"{apart(shift):.3g}"


@pytest.mark.parametrize(
    ("muxer", "encoder"),
    [("mp4", "aac"), ("mov", "pcm_s16le"), ("matroska", "libopus"), ("mpegts", "mp2"), ("avi", "ac3"), ("asf", "wmav2"),
     ("vob", "ac3")],
)  # fmt: skip
def test_of_several_sound_tracks_the_first_is_used(muxer: str, encoder: str) -> None:
    """With a warning: the others are languages, or other microphones."""
    file = io.BytesIO()
    rate = 48_000
    with av.open(file, "w", format=muxer) as container:
        streams = [container.add_stream(encoder, rate=rate, layout="mono") for _ in range(2)]
        for stream in streams:
            stream.bit_rate = 128_000
        for stream, low in zip(streams, (200, 2_000), strict=True):
            wave = chirp(2.0, rate, low=low, high=low + 500)
            form = stream.codec_context.format.name
            kind, scale = (np.int16, 32_767) if form.startswith("s16") else (np.float32, 1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray((wave.T * scale).astype(kind)), form, "mono")
            frame.sample_rate = rate
            container.mux([*stream.encode(frame), *stream.encode(None)])
    decoded = decode(file.getvalue(), RATE)
    details = [each.detail for each in decoded.warnings if each.code in ("other_tracks", "truncated")]
    assert details == ["The file has 2 sound tracks; the first one was used."]
    assert decoded.seconds == pytest.approx(2.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(decoded.waveform))
    assert np.argmax(spectrum) / decoded.seconds < 1_000


def wav_with(tag: int, body: bytes, *, block: int = 1, rate: int = RATE, bits: int = 16, extra: bytes = b"") -> bytes:
    head = struct.pack("<HHIIHHH", tag, 1, rate, 2_000, block, bits, len(extra))
    return riff(chunk(b"fmt ", head + extra), chunk(b"data", body))


@pytest.mark.parametrize("tag", [0xFF, 0x1600, 0x1610, 0x706D, 0x4143, 0xA106])
def test_aac_in_wav(tag: int) -> None:
    """Frames with ADTS headers, under any of the tags that programs write for AAC."""
    file = wav_with(tag, remux(encode_m4a(WAVE, RATE), "adts"))
    assert probe(file).codec == "AAC"
    assert decode(file, RATE).seconds == pytest.approx(2.0, abs=0.15)


def test_aac_without_headers_in_wav_is_read_whole() -> None:
    """As `ffmpeg -c:a aac out.wav` writes it. FFmpeg itself finds no frame in it; a third of it was read."""
    for rate, channels in ((44_100, 2), (16_000, 1)):
        file = encode_av(chirp(4.0, rate, channels), AvForm("wav", "aac", "WAV", "AAC", rate=rate))
        decoded = decode(file, rate)
        assert decoded.seconds == pytest.approx(4.0, abs=0.15)
        assert difference(decoded.waveform[1_024:], chirp(4.0, rate)[:, 0], rate, exact=False) < 0.25


def test_aac_without_headers_that_is_cut() -> None:
    """Is read up to there, with the warning."""
    file = encode_av(chirp(2.0, 44_100), AvForm("wav", "aac", "WAV", "AAC", rate=44_100))
    decoded = decode(file[: len(file) // 2], RATE)
    assert decoded.seconds == pytest.approx(1.0, abs=0.2)
    assert any(warning.code == "truncated" for warning in decoded.warnings)


@pytest.mark.parametrize(("tag", "name", "block", "samples"), [(0x22, "TrueSpeech", 32, 240), (0x83, "G.729", 10, 80)])
def test_codecs_of_voicemail_in_wav(tag: int, name: str, block: int, samples: int) -> None:
    """Of which there is no encoder: every frame of random bits is a valid one."""
    count = 100
    frames = np.random.default_rng(1).bytes(block * count)
    file = wav_with(tag, frames, block=block, rate=8_000, bits=1, extra=bytes(32))
    assert probe(file).codec == name
    assert decode(file, 8_000).seconds == pytest.approx(samples * count / 8_000, rel=0.05)


def test_bytes_that_look_like_one_frame_are_no_sound() -> None:
    """Three frames in a row are needed behind other bytes: one of them is in every file of some size."""
    frame = remux(encode_m4a(WAVE, RATE), "adts")[:560]
    for front in (b"x" * 5_000, noise(0.5, RATE).tobytes()):
        with pytest.raises(NotAudio):
            probe(front + frame)
    found, at = identify(remux(encode_m4a(WAVE, RATE), "adts")[:800])  # but a recording may be as short
    assert (found.name if found else None, at) == ("AAC", 0)


@pytest.mark.parametrize(
    ("front", "name"),
    [
        (b".SoX\x1c\0\0\0", "SoX native"),
        (b"nut/multimedia container\0", "NUT"),
        (b"\x02dss", "DSS dictation"),
        (b"WAC \x01\0", "Wildlife Acoustics"),
        (b"\x64\xa3\x01\0", "IRCAM"),
        (b"#!SILK_V3", "SILK"),
        (b"\x06\x0e\x2b\x34\x02\x05\x01\x01", "MXF"),
    ],
)
def test_formats_that_are_not_read_are_named(front: bytes, name: str) -> None:
    """Also where their samples look like a frame of AAC or MP3 somewhere."""
    with pytest.raises(AudioUnsupported, match=name):
        probe(front + np.random.default_rng(3).bytes(60_000))


@pytest.mark.parametrize("brand", [b"heic", b"avif", b"mif1"])
def test_pictures_of_phones_are_no_sound(brand: bytes) -> None:
    """They have the container of MP4, without a movie."""
    file = struct.pack(">I4s4s4x", 16, b"ftyp", brand) + struct.pack(">I4s", 24, b"meta") + bytes(16)
    with pytest.raises(NotAudio, match="image"):
        probe(file)


def test_a_segment_of_a_stream_without_its_beginning() -> None:
    """DASH and HLS send the index once, in the initialisation segment: the error names what is missing."""
    file = remux(encode_m4a(WAVE, RATE), "mp4", movflags="frag_every_frame+empty_moov+default_base_moof")
    with pytest.raises(AudioError, match="initialisation segment") as caught:
        probe(file[file.index(b"moof") - 4 :])
    assert caught.value.code == "audio_truncated"


SPHERE = b"NIST_1A\n   1024\nsample_count -i 32000\nsample_rate -i 16000\nchannel_count -i 1\n"


@pytest.mark.parametrize(("order", "kind"), [(b"01", "<i2"), (b"10", ">i2")])
def test_sphere(order: bytes, kind: str) -> None:
    """The samples of TIMIT and its like, whose files are called .wav."""
    fields = SPHERE + b"sample_n_bytes -i 2\nsample_byte_format -s2 " + order + b"\nsample_coding -s3 pcm\nend_head\n"
    samples = (WAVE[:, 0] * 32_767).astype(kind)
    file = fields.ljust(1_024, b"\n") + samples.tobytes()
    np.testing.assert_allclose(decode(file, RATE).waveform, WAVE[:, 0], atol=1e-4)
    assert "truncated" in [each.code for each in decode(file[:-32_000], RATE).warnings]


def test_compressed_sphere_is_refused() -> None:
    """With the name of the program that decompresses it."""
    fields = SPHERE + b"sample_n_bytes -i 2\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    with pytest.raises(AudioUnsupported, match=r"shorten.*sph2pipe"):
        probe(fields.ljust(1_024, b"\n") + bytes(9_000))
