"""A file as a stream of blocks: the samples of the whole, whatever its length."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from otoscope.errors import AudioTooLong, AudioTruncated
from shared.audio import decode as decoding
from shared.audio.decode import SoundStream, collect, decode
from shared.audio.level import FrameLevels, frame_levels
from shared.audio.limits import AudioLimits
from tests.support.sounds import chirp, encode, noise

RATE = 16_000


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, sounds of more than two seconds are long, and blocks have a quarter of a second."""

    def shorten() -> None:
        monkeypatch.setattr(decoding, "HEAD_SECONDS", 2.0)
        monkeypatch.setattr(decoding, "BLOCK_SAMPLES", RATE // 4)
        monkeypatch.setattr("shared.audio.decoders._BLOCK", 5_000)

    return shorten


@pytest.mark.parametrize("form", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")])
@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_a_stream_has_the_samples_of_the_whole(form: tuple[str, str], rate: int, long: Callable[[], None]) -> None:
    """Bit for bit, of a sound that needs no correction, also where it is resampled."""
    file = encode(chirp(7.3, rate, 2) + noise(7.3, rate, 2, 0.01), rate, *form)
    whole = decode(file, RATE)
    long()
    stream = SoundStream(file, RATE)
    blocks = list(stream)
    np.testing.assert_array_equal(np.concatenate(blocks), whole.waveform)
    assert max(map(len, blocks)) == RATE // 4
    assert (stream.info.source_rate, stream.info.channels) == (rate, 2)
    assert stream.info.level.bandwidth == pytest.approx(whole.level.bandwidth, rel=0.05)
    assert (stream.info.level.rms_dbfs, stream.info.level.peak_dbfs) == (whole.level.rms_dbfs, whole.level.peak_dbfs)
    assert stream.info.warnings == whole.warnings


def left_and_inverse() -> NDArray[np.float32]:
    left = noise(6, RATE)
    return np.hstack([left * np.float32(0.9), -left])


CORRECTED = {
    "dc_offset": lambda: noise(6, RATE) + np.float32(0.2),
    "beyond_full_scale": lambda: noise(6, RATE) * np.float32(30_000),
    "channels_cancel": left_and_inverse,
}


@pytest.mark.parametrize("code", CORRECTED)
def test_a_long_sound_is_corrected_from_its_start(code: str, long: Callable[[], None]) -> None:
    """By what is found in its head: of a sound that is alike everywhere, as if the whole had been measured."""
    file = encode(CORRECTED[code](), RATE, "WAV", "FLOAT")
    whole = decode(file, RATE)
    long()
    streamed = decode(file, RATE)
    np.testing.assert_allclose(streamed.waveform, whole.waveform, atol=2e-3)
    assert [warning.code for warning in streamed.warnings] == [warning.code for warning in whole.warnings]
    assert code in {warning.code for warning in streamed.warnings}


def test_the_level_of_a_long_sound_is_that_of_the_whole(long: Callable[[], None]) -> None:
    """What comes after the head counts: the peak, and clipped samples."""
    wave = np.concatenate([noise(5, RATE, level=0.01), np.ones((RATE, 1), np.float32)])
    long()
    streamed = decode(encode(wave, RATE, "WAV", "FLOAT"), RATE)
    assert streamed.level.peak_dbfs == 0
    assert "clipped" in {warning.code for warning in streamed.warnings}


def test_errors_come_after_the_first_block(long: Callable[[], None]) -> None:
    """Of a file that is cut, and of one that is too long without saying so; the properties are then not known."""
    whole = encode(noise(6, RATE), RATE, "FLAC", "PCM_16")
    long()
    for file, limits, kind in (
        (whole[:-10_000], AudioLimits(), AudioTruncated),
        (encode(noise(6, RATE), RATE, "MP3", "MPEG_LAYER_III")[400:], AudioLimits(max_seconds=4), AudioTooLong),
    ):
        stream = SoundStream(file, RATE, limits, strict=True)
        blocks = iter(stream)
        if kind is AudioTruncated:
            assert len(next(blocks)) == RATE // 4
        with pytest.raises(kind):
            list(blocks)
        with pytest.raises(RuntimeError):
            _ = stream.info


def test_a_collected_stream_is_the_decoded_sound() -> None:
    """`decode` has no implementation of its own."""
    file = encode(chirp(3.0, RATE), RATE, "WAV", "PCM_16")
    collected, decoded = collect(SoundStream(file, RATE)), decode(file, RATE)
    np.testing.assert_array_equal(collected.waveform, decoded.waveform)
    assert (collected.level, collected.seconds) == (decoded.level, 3.0)


@pytest.mark.parametrize("size", [1, 100, 320, 7_777, 100_000])
@pytest.mark.parametrize("samples", [1, 319, 1_600, 40_001])
def test_levels_do_not_depend_on_the_blocks(size: int, samples: int) -> None:
    """They come in any sizes."""
    wave = noise(3, RATE)[:samples, 0]
    if size == 1:
        wave = wave[:2_000]
    frames = FrameLevels(RATE)
    for at in range(0, len(wave), size):
        frames.add(wave[at : at + size])
    np.testing.assert_array_equal(frames.levels(), frame_levels(wave, RATE))


def test_a_quiet_frame_behind_a_loud_sound_keeps_its_level() -> None:
    """A sum over all that came before would round it away."""
    wave = np.concatenate([np.tile(np.float32([1, -1]), 60 * RATE), np.tile(np.float32([1e-6, -1e-6]), RATE)])
    assert frame_levels(wave, RATE)[-1] == pytest.approx(-120, abs=0.01)
