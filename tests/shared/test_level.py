"""The level of a sound, and what decoding changes because of it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.audio.decode import Decoded, decode
from shared.audio.level import bandwidth, frame_levels, full_scale, level_of
from tests.support.sounds import encode, tone

RATE = 16_000


def sine(seconds: float, amplitude: float, frequency: float = 440.0) -> NDArray[np.float32]:
    """(samples,) at 16 kHz."""
    return tone(seconds, RATE, hz=frequency, level=amplitude)[:, 0]


def wav(samples: NDArray[np.float32], rate: int = RATE, subtype: str = "PCM_16") -> bytes:
    """A WAV file of (samples,) or (samples, channels)."""
    return encode(samples, rate, "WAV", subtype)


def codes(decoded: Decoded) -> list[str]:
    return [warning.code for warning in decoded.warnings]


def test_a_sine_has_the_levels_of_the_textbook() -> None:
    """A full-scale sine peaks at 0 dBFS and has an RMS of -3 dBFS; 20 dB less is 20 dB less."""
    loud, quiet = level_of(sine(1, 1.0)), level_of(sine(1, 0.1))
    assert (loud.peak_dbfs, loud.rms_dbfs) == pytest.approx((0, -3.01), abs=0.01)
    assert (quiet.peak_dbfs, quiet.rms_dbfs) == pytest.approx((-20, -23.01), abs=0.01)


def test_digital_silence_has_no_level() -> None:
    """None instead of minus infinity, which JSON cannot hold."""
    level = decode(wav(np.zeros(RATE, np.float32)), RATE).level
    assert level.peak_dbfs is level.rms_dbfs is level.bandwidth is None


def test_frames_ignore_an_offset() -> None:
    """A constant is not heard, however large it is."""
    assert frame_levels(np.full(RATE, 0.9, np.float32), RATE).max() == -200
    with_offset = frame_levels(sine(1, 0.1) + np.float32(0.5), RATE)
    assert with_offset == pytest.approx(frame_levels(sine(1, 0.1), RATE), abs=0.1)


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.02, 0.09, 0.1])
def test_a_short_sound_has_a_frame(seconds: float) -> None:
    """Shorter than a frame, or than a block of one."""
    assert frame_levels(sine(seconds, 0.5, 3_000), RATE).size >= 1


def test_an_offset_is_removed_and_said() -> None:
    """The warning has the offset, and the waveform has none."""
    decoded = decode(wav(sine(1, 0.2) + np.float32(0.3)), RATE)
    assert codes(decoded)[0] == "dc_offset"
    assert decoded.level.dc_offset == pytest.approx(0.3, abs=1e-3)
    assert abs(decoded.waveform.mean()) < 1e-4


def test_channels_that_cancel_leave_the_loudest() -> None:
    """Their mean would be silence."""
    left = sine(1, 0.5)
    decoded = decode(wav(np.stack([left * 0.9, -left], axis=1)), RATE)
    assert codes(decoded)[0] == "channels_cancel"
    assert decoded.waveform == pytest.approx(-left, abs=1e-3)


@pytest.mark.parametrize("offsets", [(0.2, 0.2), (0.4, -0.4)])
def test_an_offset_does_not_decide_whether_channels_cancel(offsets: tuple[float, float]) -> None:
    """What is heard cancels, or does not, also where the offsets do the opposite."""
    offset = np.float32(offsets)
    opposite = np.stack([sine(1, 0.1), -sine(1, 0.1)], axis=1) + offset
    decoded = decode(wav(opposite), RATE)
    assert codes(decoded)[:2] == ["channels_cancel", "dc_offset"]
    assert np.abs(decoded.waveform) == pytest.approx(np.abs(sine(1, 0.1)), abs=1e-3)
    alike = decode(wav(np.stack([sine(1, 0.1), sine(1, 0.1)], axis=1) + offset), RATE)
    assert "channels_cancel" not in codes(alike)
    assert alike.waveform == pytest.approx(sine(1, 0.1), abs=1e-3)
    assert "channels_cancel" not in codes(decode(wav(np.zeros((90_001, 2), np.float32) + offset), RATE))


@pytest.mark.parametrize("right", [0.0, 0.1, 0.9])
def test_other_channels_are_averaged(right: float) -> None:
    """Also where one of them is silent."""
    decoded = decode(wav(np.stack([sine(1, 0.5), sine(1, 0.5) * np.float32(right)], axis=1)), RATE)
    assert "channels_cancel" not in codes(decoded)
    assert decoded.waveform == pytest.approx(sine(1, 0.25 * (1 + right)), abs=1e-3)


@pytest.mark.parametrize(("scale", "peak"), [(2.0**15, 0.5), (2.0**23, 0.5), (2.0**31, 0.5), (1.0, 1.9)])
def test_floats_in_the_range_of_integers_are_scaled(scale: float, peak: float) -> None:
    """By the range that they fit; a few times full scale is left as it is. Either is a warning."""
    decoded = decode(wav(sine(1, peak) * np.float32(scale), subtype="FLOAT"), RATE)
    assert codes(decoded)[0] == "beyond_full_scale"
    assert np.abs(decoded.waveform).max() == pytest.approx(peak, rel=1e-3)


def test_the_range_of_integers_is_recognised() -> None:
    """From the largest sample alone."""
    assert [full_scale(peak) for peak in (0.5, 1.0, 4.0, 20.0, 32_768.0, 40_000.0, 2.0**31)] == [
        1.0, 1.0, 1.0, 2.0**15, 2.0**15, 2.0**23, 2.0**31,
    ]  # fmt: skip


def test_clipping_is_measured() -> None:
    """A sine that is cut off at full scale spends much of its time there."""
    decoded = decode(wav(np.clip(sine(1, 4.0), -1, 1)), RATE)
    assert "clipped" in codes(decoded)
    assert 0.5 < decoded.level.clipped < 0.95
    assert "clipped" not in codes(decode(wav(sine(1, 0.99)), RATE))


@pytest.mark.parametrize("limit", [1_000, 3_400, 6_000])
def test_bandwidth_ends_where_the_sound_does(limit: int) -> None:
    """Within ten bins of the transform, whatever the rate of the file."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(2 * RATE))
    spectrum[np.fft.rfftfreq(2 * RATE, 1 / RATE) > limit] = 0
    noise = (np.fft.irfft(spectrum) * 0.1).astype(np.float32)
    assert bandwidth(noise, RATE) == pytest.approx(limit, abs=150)


def test_bandwidth_does_not_depend_on_an_offset() -> None:
    """A constant is no frequency, and it does not hide quieter ones."""
    noise = (np.random.default_rng(0).standard_normal(RATE) * 0.001).astype(np.float32)
    assert bandwidth(noise + np.float32(0.9), RATE) == bandwidth(noise, RATE) == RATE / 2


def test_a_narrow_sound_is_a_warning() -> None:
    """A telephone's band in a file of 16 kHz, a file of 8 kHz, and one of 192 kHz."""
    noise = np.random.default_rng(0).standard_normal(2 * RATE)
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(2 * RATE, 1 / RATE) > 3_400] = 0
    telephone = (np.fft.irfft(spectrum) * 0.1).astype(np.float32)
    assert codes(decode(wav(telephone), RATE)) == ["narrow_band"]
    assert codes(decode(wav(telephone[::2], 8_000), RATE)) == ["resampled_up"]
    ultrasonic = (np.random.default_rng(1).standard_normal(96_000) * 0.1).astype(np.float32)
    assert codes(decode(wav(ultrasonic, 192_000), RATE)) == ["narrow_band"]
    assert codes(decode(wav((noise * 0.1).astype(np.float32)), RATE)) == []
