"""One job from its id to its stored answer: real store, real decode process, real network."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from otoscope.results import Result
from otoscope.types import Part
from shared.audio.decode import decode
from tests.support.sounds import chirp, encode
from tests.support.worker_harness import ALL, LONG, RATE, WorkerHarness, outputs_alone
from worker.inference.engine import WindowOutput


def test_a_sound_gets_its_names(harness: WorkerHarness) -> None:
    """Most confident first, as many as were asked for, with what the file was."""
    result = harness.result(encode(chirp(0.7, 44_100, 2), 44_100, "FLAC", "PCM_16"), top_k=3)
    assert result.model == "tiny"
    assert len(result.predictions) == 3
    assert [p for _, p in result.predictions] == sorted((p for _, p in result.predictions), reverse=True)
    assert {name for name, _ in result.predictions} <= {"dog", "rain", "bell", "engine", "speech"}
    assert result.duration == pytest.approx(0.7, abs=0.001)
    assert result.sample_rate == 44_100
    assert (result.combined, result.window) == ("single window", 0)
    assert [(w.start, w.end) for w in result.windows] == [(0.0, result.duration)]
    assert len(harness.result(top_k=1_000).predictions) == 5


def test_stages_are_timed_and_counted(harness: WorkerHarness) -> None:
    """In the job and in the metrics."""
    job_id = harness.submit()
    harness.runner.run(job_id)
    timings = harness.job(job_id).timings
    for stage in (timings.queue, timings.decode, timings.batch, timings.forward, timings.total):
        assert stage is not None
        assert stage >= 0
    assert harness.count("succeeded") == 1
    for name in ("queue", "decode", "batch_wait", "forward", "store"):
        labels = {"stage": name}
        assert harness.metrics.registry.get_sample_value("otoscope_worker_stage_seconds_count", labels) == 1, name
    assert harness.metrics.registry.get_sample_value("otoscope_worker_audio_seconds_total") == pytest.approx(1)
    assert harness.runner.in_flight == []


@pytest.mark.parametrize("parts", [(), *((part,) for part in Part), ALL], ids=lambda parts: "+".join(parts) or "none")
def test_a_result_holds_what_was_asked_for(harness: WorkerHarness, parts: tuple[Part, ...]) -> None:
    """And nothing else: a map that nobody wants costs memory for an hour."""
    result = harness.result(LONG, include=parts)
    for part in ("spectrogram", "embedding", "cam", "waveform", "full_spectrogram"):
        assert (getattr(result, part) is not None) == (Part(part) in parts), part
    assert bool(result.maps) == (Part.MAPS in parts)
    assert result.channels == {}
    assert result.parts == sorted(parts)


def test_windows_are_combined_as_the_mean_of_their_probabilities(harness: WorkerHarness) -> None:
    """Each window is told by itself, and the answer is their mean."""
    result = harness.result(LONG)
    alone = np.stack([seen.probabilities for seen in outputs_alone(harness, LONG)])
    assert [(w.start, w.end) for w in result.windows] == [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0), (1.2, 2.2)]
    classes = harness.registry.get("tiny").card.classes
    for window, row in zip(result.windows, alone, strict=True):
        assert dict(window.predictions) == pytest.approx(dict(zip(classes, map(float, row), strict=True)), abs=0.01)
    mean = dict(zip(classes, map(float, alone.mean(axis=0)), strict=True))
    assert dict(result.predictions) == pytest.approx(mean, abs=0.01)
    assert result.combined == "mean of the probabilities of 4 windows"


def test_pictures_are_of_the_window_that_decided(harness: WorkerHarness) -> None:
    """The one that is surest of the answer; which it was is told. What spoke is of that answer, too, and not of what
    the window would get alone."""
    result = harness.result(LONG, include=ALL)
    best = result.predictions[0][0]
    (again,) = harness.batches[-1]
    assert again.cam_class == harness.registry.get("tiny").card.classes.index(best)
    sure = [dict(window.predictions)[best] for window in result.windows]
    assert sure[result.window] == max(sure)
    assert_parts_of(result, outputs_alone(harness, LONG, cam_class=best)[result.window])


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("looks", [0, 1])
def test_pictures_can_be_of_any_window(harness: WorkerHarness, window: int, looks: int) -> None:
    """`window=N`; the names are still those of the whole sound, and no window is computed twice, but for what spoke for
    the first of those names."""
    result = harness.result(LONG, include=ALL if looks else set(ALL) - {Part.CAM}, window=window)
    assert result.window == window
    assert sum(map(len, harness.batches)) == 4 + looks
    assert_parts_of(result, outputs_alone(harness, LONG, cam_class=result.predictions[0][0])[window])
    assert dict(result.predictions) == pytest.approx(dict(harness.result(LONG).predictions), abs=0.01)


@pytest.mark.parametrize("seconds", [2.2, 30.0])
def test_the_spectrogram_of_a_whole_sound_has_no_seam(harness: WorkerHarness, seconds: float) -> None:
    """It is what the front end gives for the whole waveform at once, within float16; the network is not run for it."""
    sound = encode(chirp(seconds, RATE), RATE, "WAV", "FLOAT")
    result = harness.result(sound, include=[Part.FULL_SPECTROGRAM], window=0)
    frontend = harness.registry.get("tiny").model.frontend
    whole = frontend.decibels(torch.from_numpy(decode(sound, RATE).waveform)[None])[0, 0].numpy()
    assert result.full_spectrogram is not None
    assert result.full_spectrogram.shape == whole.shape
    np.testing.assert_allclose(result.full_spectrogram, whole, atol=0.05)
    assert result.spectrogram is None
    assert sum(map(len, harness.batches)) == len(result.windows)


def test_the_whole_spectrogram_of_a_short_sound_is_its_windows(harness: WorkerHarness) -> None:
    """Silence behind its end included, nothing is computed twice, and one is not given for the other."""
    sound = encode(chirp(0.7, RATE), RATE, "WAV", "FLOAT")
    assert harness.result(sound, include=["full_spectrogram"]).spectrogram is None
    result = harness.result(sound, include=["full_spectrogram", "spectrogram"])
    assert result.spectrogram is not None
    np.testing.assert_array_equal(result.full_spectrogram, result.spectrogram)
    assert result.spectrogram.shape == (32, 101)
    assert harness.spectrogram_batches == []


def test_the_whole_spectrogram_of_a_long_sound_lets_others_in_between(
    make_harness: Callable[..., WorkerHarness],
) -> None:
    """It goes through the batcher as windows do, no more than a batch at a time."""
    harness = make_harness(batch_size=2)
    harness.result(encode(chirp(25.0, RATE), RATE, "WAV", "FLOAT"), include=[Part.FULL_SPECTROGRAM])
    assert [len(batch) for batch in harness.spectrogram_batches] == [2, 1]


@pytest.mark.parametrize("window", [None, 3])
def test_a_layer_can_be_looked_into(harness: WorkerHarness, window: int | None) -> None:
    """All channels of it, in the window that decided or the one that was asked for; alone, without any part."""
    result = harness.result(LONG, layer="layer1", window=window)
    assert window in (None, result.window)
    assert result.channels.keys() == {"layer1", "layer1.residual", "layer1.shortcut"}
    mean = result.channels["layer1"].astype(np.float32).mean(axis=0)
    np.testing.assert_allclose(mean, outputs_alone(harness, LONG)[result.window].maps["layer1"], atol=0.1)
    assert result.maps == {}
    assert result.parts == []


def assert_parts_of(result: Result, seen: WindowOutput) -> None:
    """The arrays are those of that window, within the rounding of a batch."""
    for name in {"spectrogram", "embedding", "cam"} & set(result.parts):
        np.testing.assert_allclose(
            getattr(result, name).astype(np.float32), getattr(seen, name).astype(np.float32), atol=0.1, err_msg=name
        )
    assert result.maps.keys() == seen.maps.keys()
    for layer, values in seen.maps.items():
        np.testing.assert_allclose(result.maps[layer].astype(np.float32), values.astype(np.float32), atol=0.1)


def test_a_long_sound_lets_short_ones_in_between(make_harness: Callable[..., WorkerHarness]) -> None:
    """Its windows go through in batches, and others take their turn after each."""
    harness = make_harness(batch_size=2)
    long = harness.run_blocked(harness.submit(LONG))
    short = harness.submit()
    thread = harness.run_waiting(short)
    harness.free.set()
    long.join(20)
    thread.join(20)
    assert [len(batch) for batch in harness.batches] == [2, 1, 2]
    assert harness.job(short).status == "succeeded"
