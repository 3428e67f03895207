"""The long-term spectral average: bounded and without seams; test_long_sounds.py has it of a long sound."""

from functools import partial

import numpy as np
import pytest

from otoscope.results import Array
from tests.support.sounds import chirp, encode, noise
from tests.support.worker_harness import RATE, WorkerHarness
from worker.pipeline import classify
from worker.pipeline.ltsa import LtsaMeter


def spectrogram(frames: int, mels: int = 3) -> Array:
    """Powers of a sound that changes all the time, in dB."""
    power = np.random.default_rng(0).uniform(0.1, 10, (mels, frames))
    return (10 * np.log10(power)).astype(np.float16)


def means(of: Array, hops: int) -> np.ndarray:
    """(mels, columns): the mean power of each `hops` frames, in dB."""
    power = 10 ** (of.astype(np.float64) / 10)
    columns = [power[:, at : at + hops].mean(axis=1) for at in range(0, power.shape[1], hops)]
    return 10 * np.log10(np.stack(columns, axis=1))


@pytest.mark.parametrize("frames", [10, 63, 64, 65, 128, 129, 500, 4_096])
@pytest.mark.parametrize(("window", "step"), [(10, 10), (10, 5), (10, 4), (9, 1), (100, 50), (10_000, 1)])
def test_a_column_is_the_mean_power_of_its_frames(frames: int, window: int, step: int) -> None:
    """However the windows lie; with twice as many frames a column for as many as before."""
    whole = spectrogram(frames)
    meter = LtsaMeter(hop=160, mels=3, columns=64)
    last = max(frames - window, 0)
    for first in [*range(0, last, step), last]:
        meter.add(160 * first, whole[:, first : first + window])
    average = meter.finish()
    hops = 1
    while frames > 64 * hops:
        hops *= 2
    assert average.shape == (3, -(-frames // hops))
    np.testing.assert_allclose(average, means(whole, hops), atol=0.02)


def test_frames_at_the_ends_of_windows_are_those_of_the_window_in_which_they_are_farther_from_an_end() -> None:
    """The front end pads a window, which changes its first and its last frames."""
    whole = spectrogram(400)
    meter = LtsaMeter(hop=100, mels=3)
    for first in range(0, 301, 50):
        window = whole[:, first : first + 100].copy()
        if first:
            window[:, :10] = 90
        if first < 300:
            window[:, -10:] = 90
        meter.add(100 * first, window)
    np.testing.assert_allclose(meter.finish(), whole, atol=0.02)


def test_a_gap_between_windows_has_the_column_before_it() -> None:
    """A front end that does not pad has fewer frames than a window has hops."""
    whole = spectrogram(20)
    meter = LtsaMeter(hop=160, mels=3)
    meter.add(0, whole[:, :8])
    meter.add(1_600, whole[:, 10:])
    expected = np.concatenate([whole[:, :8], whole[:, [7, 7]], whole[:, 10:]], axis=1)
    np.testing.assert_allclose(meter.finish(), expected, atol=0.02)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("options", [{}, {"window": 0}, {"include": ["ltsa", "spectrogram", "cam"]}], ids=str)
def test_the_average_of_a_sound_of_a_few_windows_is_its_spectrogram(
    harness: WorkerHarness, overlap: float, options: dict[str, object]
) -> None:
    """But for the padding of its windows, where they do not overlap; whichever windows are computed with details."""
    sound = encode(chirp(6.0, RATE), RATE, "WAV", "FLOAT")
    average = harness.result(sound, **{"include": ["ltsa"], "overlap": overlap, **options}).ltsa
    whole = harness.result(sound, include=["full_spectrogram"]).full_spectrogram
    assert average is not None
    assert whole is not None
    assert average.shape == whole.shape
    difference = np.abs(average.astype(float) - whole.astype(float))
    assert np.median(difference) < 0.05
    assert (difference < 1).mean() > (0.95 if overlap else 0.9)


def test_the_average_does_not_grow_with_the_sound(harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no window keeps its spectrogram."""
    kept = []
    build = classify.build_result

    def watched(*args: object) -> object:
        kept.extend(window.output.spectrogram for window in args[2].windows)  # type: ignore[attr-defined]
        return build(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(classify, "build_result", watched)
    monkeypatch.setattr(classify, "LtsaMeter", partial(LtsaMeter, columns=1_000))
    result = harness.result(encode(noise(50.0, RATE), RATE, "WAV", "PCM_16"), include=["ltsa"], overlap=0.0)
    assert result.ltsa is not None
    assert result.ltsa.shape == (32, -(-5_001 // 8))  # frames, 10 ms apart
    assert len(kept) == len(result.windows)
    assert kept == [None] * len(kept)
