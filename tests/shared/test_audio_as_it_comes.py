"""Sound files from pipes, cut, joined, surrounded and contradictory: what can be read is read; the rest is a
warning."""

import numpy as np
import pytest

from otoscope.errors import AudioError
from shared.audio.decode import Channel, decode
from shared.audio.probe import probe
from tests.support.odd_files import ODD, RATE, WAVE, wav
from tests.support.sounds import chirp, difference, encode, noise


@pytest.mark.parametrize("name", ODD)
def test_what_can_be_read_is_read(name: str) -> None:
    """The whole length, or a warning; with `strict` whatever has that warning is refused."""
    odd = ODD[name]
    file = odd.make()
    if odd.seconds is None:
        with pytest.raises(AudioError) as caught:
            decode(file, RATE)
        assert caught.value.code == odd.error
        return
    decoded = decode(file, RATE)
    details = [warning.detail for warning in decoded.warnings if warning.code == "truncated"]
    assert decoded.seconds == pytest.approx(odd.seconds, abs=odd.tolerance + 1e-6)
    assert bool(details) == odd.truncated, details
    claimed = probe(file).seconds
    assert claimed is None or claimed == pytest.approx(odd.seconds, abs=0.4) or odd.truncated
    if odd.truncated:
        with pytest.raises(AudioError) as caught:
            decode(file, RATE, strict=True)
        assert caught.value.code == "audio_truncated"
    else:
        np.testing.assert_array_equal(decode(file, RATE, strict=True).waveform, decoded.waveform)


@pytest.mark.parametrize("name", [name for name in ODD if name.startswith(("WAV from", "WAV of", "WAV with ", "RIFX"))])
def test_the_samples_are_those_of_the_plain_file(name: str) -> None:
    """Redundant fields decide nothing."""
    assert difference(decode(ODD[name].make(), RATE).waveform, WAVE[:, 0], RATE) < 1e-3


def test_joined_sounds_stand_behind_one_another() -> None:
    """Each resampled from its own rate, and mixed from its own channels."""
    second = chirp(1.0, 48_000, 2, low=500, high=900)
    joined = decode(wav() + encode(second, 48_000), RATE).waveform
    np.testing.assert_array_equal(joined[: 2 * RATE], decode(wav(), RATE).waveform)
    np.testing.assert_array_equal(joined[2 * RATE :], decode(encode(second, 48_000), RATE).waveform)


@pytest.mark.parametrize(("channel", "index"), [(1, 0), (3, 2), ("left", 0), ("loudest", 1)])
def test_a_channel_is_chosen(channel: Channel, index: int) -> None:
    """By number, by name or by its energy."""
    levels = np.float32([0.1, 0.3, 0.2])
    wave = noise(0.5, RATE, 3, level=0.3) * levels
    file = encode(wave, RATE, "WAV", "FLOAT")
    np.testing.assert_array_equal(decode(file, RATE, channel=channel).waveform, wave[:, index])


def test_a_channel_that_does_not_exist() -> None:
    """Is an error that names those of the file."""
    with pytest.raises(AudioError, match="Channel 2 was requested; the file has 1"):
        decode(wav(), RATE, channel=2)


def test_too_many_sounds_in_one_file_are_a_warning() -> None:
    """A file of hundreds of headers takes no longer than one of a few."""
    short = encode(chirp(0.06, RATE), RATE)
    decoded = decode(short * 300, RATE)
    assert decoded.seconds == pytest.approx(256 * 0.06)
    assert any("more than 256 sounds" in warning.detail for warning in decoded.warnings)
