"""Synthesised background sounds for the open-set detector."""

import numpy as np
import pytest

from training.data.background import FAMILIES, TURNS, background


def test_background_is_deterministic_and_can_be_computed_in_parts() -> None:
    """A sound depends on the seed and on its number alone."""
    sounds = background(10, 16_000, 16_000, seed=3)
    np.testing.assert_array_equal(sounds, background(10, 16_000, 16_000, seed=3))
    np.testing.assert_array_equal(sounds[6:8], background(2, 16_000, 16_000, seed=3, first=6))
    assert not np.array_equal(sounds, background(10, 16_000, 16_000, seed=4))
    assert len({sound.tobytes() for sound in sounds}) == 10


@pytest.mark.parametrize(("samples", "rate"), [(64, 4_000), (399, 8_000), (80_000, 16_000), (22_051, 44_100)])
def test_background_has_any_length_and_rate(samples: int, rate: int) -> None:
    """All families: finite, of full length, with a peak of -6 dBFS."""
    sounds = background(2 * len(TURNS), samples, rate)
    assert sounds.shape == (14, samples)
    assert sounds.dtype == np.float32
    np.testing.assert_allclose(np.abs(sounds).max(axis=1), 0.5, rtol=1e-5)


def test_families_differ_in_their_spectra() -> None:
    """Noise is flatter than tones, music, and hum (geometric mean of the power over its arithmetic mean)."""
    assert set(TURNS) == set(FAMILIES) == {"noise", "tones", "music", "speech", "hum", "syllables"}
    flatness = {}
    for name, make in FAMILIES.items():
        rng = np.random.default_rng(0)
        power = np.stack([np.abs(np.fft.rfft(make(rng, 16_000, 16_000)))[40:4_000] ** 2 + 1e-9 for _ in range(20)])
        flatness[name] = float(np.median(np.exp(np.log(power).mean(axis=1)) / power.mean(axis=1)))
    assert max(flatness["tones"], flatness["music"], flatness["speech"], flatness["syllables"]) < flatness["noise"]
