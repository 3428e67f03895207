"""Every accepted container, codec, rate and number of channels decodes to the same sound."""

import io

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from shared.audio.decode import decode
from shared.audio.probe import probe
from tests.support.odd_files import SECONDS, TELEPHONY, telephony
from tests.support.sounds import FORMS, checksummed, chirp, difference, encode, noise, spread, tone


@pytest.mark.parametrize(("name", "channels"), [(name, count) for name in FORMS for count in FORMS[name].channels])
def test_every_form_decodes_to_the_same_sound(name: str, channels: int) -> None:
    """At every rate: the number of samples is exact, the error is within tolerance, and the header announces both."""
    form = FORMS[name]
    for rate in form.rates:
        wave = chirp(1.0, rate, channels)
        file = encode(wave, rate, form.container, form.subtype, endian=form.endian)
        header, decoded = probe(file), decode(file, rate)
        assert (header.rate, header.channels, header.frames) == (rate, channels, len(wave))
        assert (decoded.source_rate, decoded.channels, len(decoded.waveform)) == (rate, channels, len(wave))
        assert decoded.waveform.dtype == np.float32
        apart = difference(decoded.waveform, wave[:, 0], rate, exact=form.exact)
        assert apart < form.tolerance, f"{apart:.3g} at {rate} Hz"


@pytest.mark.parametrize("name", TELEPHONY)
def test_codecs_of_telephony(name: str) -> None:
    """They pad the last block. FFmpeg decodes some of them, with other tables, to noise."""
    decoded = decode(telephony(name), 8_000)
    assert difference(decoded.waveform, chirp(SECONDS, 8_000)[:, 0], 8_000, exact=False) < TELEPHONY[name][2]


@pytest.mark.parametrize("name", ["WAV A-law", "WAV µ-law", "WAV 8 bit", "WAV 24 bit", "AIFF 24 bit", "AIFF 8 bit"])
def test_uncompressed_sound_decodes_as_in_libsndfile(name: str) -> None:
    """The numpy decoder agrees with an independent one bit for bit."""
    form = FORMS[name]
    file = encode(noise(2.0, 8_000, level=0.4), 8_000, form.container, form.subtype)
    expected, _ = soundfile.read(io.BytesIO(file), dtype="float32")
    np.testing.assert_array_equal(decode(file, 8_000).waveform, expected)


@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_same_sound_at_every_rate_gives_the_same_waveform(rate: int, channels: int) -> None:
    """Within the band of the lowest rate, recordings at 8 to 96 kHz differ by less than half a percent."""
    wanted = 16_000
    original = noise(2.0, 96_000)[:, 0]
    recorded = soxr.resample(original, 96_000, rate, quality="VHQ")
    heard = decode(encode(spread(recorded, channels), rate, "WAV", "FLOAT"), wanted).waveform
    expected = soxr.resample(original, 96_000, wanted, quality="VHQ")
    assert len(heard) == len(expected)
    assert difference(_below(heard, wanted, 3_400), _below(expected, wanted, 3_400), wanted) < 0.005


def _below(samples: NDArray[np.float32], rate: int, hz: float) -> NDArray[np.float64]:
    """The sound below that frequency, without both ends, where the filters settle."""
    spectrum = np.fft.rfft(samples)
    spectrum[np.fft.rfftfreq(len(samples), 1 / rate) > hz] = 0
    return np.fft.irfft(spectrum, len(samples))[rate // 20 : -rate // 20]


def test_channels_are_averaged() -> None:
    """Left and right have equal weight; of opposite phases, which would cancel, one is left."""
    left, right = tone(0.5, 16_000, hz=300), tone(0.5, 16_000, hz=2_000)
    both = decode(encode(np.hstack([left, right]), 16_000, "WAV", "FLOAT"), 16_000).waveform
    np.testing.assert_allclose(both, ((left + right) / 2)[:, 0], atol=1e-6)
    opposite = decode(encode(np.hstack([left, -left]), 16_000, "WAV", "FLOAT"), 16_000).waveform
    np.testing.assert_allclose(opposite, left[:, 0], atol=1e-6)


@pytest.mark.parametrize("name", ["FLAC 16 bit", "Ogg Vorbis", "Ogg Opus", "MP3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_join_without_a_seam(name: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks give the same samples as one large block; soundfile's own block reading garbles Opus by seeking."""
    form = FORMS[name]
    file = encode(chirp(8.0, 48_000, channels), 48_000, form.container, form.subtype)
    whole, _ = soundfile.read(io.BytesIO(file), dtype="float32", always_2d=True)
    for block in (1_000, 4_096, 65_536):
        monkeypatch.setattr("shared.audio.decoders._BLOCK", block)
        np.testing.assert_allclose(decode(file, 48_000).waveform, whole.mean(axis=1), atol=1e-6)


def test_floats_beyond_full_scale_are_kept() -> None:
    """Float files may be louder than 1; clipping them would change the sound."""
    wave = tone(0.5, 16_000, level=3.0)
    np.testing.assert_allclose(decode(encode(wave, 16_000, "WAV", "FLOAT"), 16_000).waveform, wave[:, 0])


def test_opus_with_a_gain_beyond_full_scale_is_kept() -> None:
    """What a decoder of a lossy codec puts out are no integers, however large it is; a warning states the peak."""
    wave = chirp(2.0, 48_000)
    file = encode(wave, 48_000, "OGG", "OPUS")
    gain = file.index(b"OpusHead") + 16
    louder = checksummed(file[:gain] + (30 * 256).to_bytes(2, "little") + file[gain + 2 :])
    plain, warned = decode(file, 48_000).waveform, decode(louder, 48_000)
    loud = warned.waveform
    assert "beyond_full_scale" in [warning.code for warning in warned.warnings]
    assert np.abs(loud).max() == pytest.approx(10**1.5 * np.abs(plain).max(), rel=0.01)
    assert np.abs(loud).max() > 8


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
def test_mp3_of_every_bit_rate_mode(mode: str) -> None:
    """Constant, average and variable bit rate decode to the full length."""
    wave = chirp(3.0, 44_100, 2)
    file = encode(wave, 44_100, "MP3", "MPEG_LAYER_III", bitrate_mode=mode)
    decoded = decode(file, 44_100)
    assert probe(file).frames == len(decoded.waveform) == len(wave)
    assert difference(decoded.waveform, wave[:, 0], 44_100, exact=False) < 0.1
