"""Sounds that are classified while they are decoded: the same results, bounded memory, progress, cancellation."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from otoscope.errors import AudioNotFinite, InvalidRequest
from otoscope.results import Result
from otoscope.types import JobOptions, Part, Progress
from shared.audio import decode as decoding
from shared.jobs.records import ClaimedJob
from shared.results import largest_result, pack_result
from tests.support.process_tree import stop, until
from tests.support.sounds import chirp, encode, noise
from tests.support.worker_harness import RATE, WorkerHarness
from worker.decode.pool import DecoderPool
from worker.pipeline import classify
from worker.pipeline.inflight import InFlightJob

SECONDS = 20.3


def recording(seconds: float = SECONDS, container: str = "WAV") -> bytes:
    """Quiet noise with an event at 12 s. As WAV it needs no decode process."""
    wave = noise(seconds, RATE, level=0.001)
    event = chirp(1.5, RATE)
    wave[12 * RATE : 12 * RATE + len(event)] += event
    return encode(wave, RATE, container, "PCM_16")


RECORDING = recording()


@pytest.fixture
def lower(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, sounds of more than three seconds are long, and come in blocks of a third of a second."""

    def shorten() -> None:
        monkeypatch.setattr(classify, "WHOLE_SECONDS", 3.0)
        monkeypatch.setattr(decoding, "HEAD_SECONDS", 3.0)
        monkeypatch.setattr(decoding, "BLOCK_SAMPLES", RATE // 3)

    return shorten


def assert_equal(long: Result, whole: Result) -> None:
    """Within the rounding of the arithmetic in a batch."""
    for name in ("model", "duration", "sample_rate", "combined", "window", "verdict", "level", "warnings", "parts"):
        assert getattr(long, name) == getattr(whole, name), name
    assert dict(long.predictions) == pytest.approx(dict(whole.predictions), abs=1e-3)
    for streamed, window in zip(long.windows, whole.windows, strict=True):
        assert (streamed.start, streamed.end, streamed.active, streamed.level) == (
            window.start, window.end, window.active, window.level,
        )  # fmt: skip
        assert dict(streamed.predictions) == pytest.approx(dict(window.predictions), abs=1e-3)
    assert [(d.class_, d.start, d.end, d.peak) for d in long.detections] == [
        (d.class_, d.start, d.end, d.peak) for d in whole.detections
    ]
    for name in ("spectrogram", "embedding", "cam", "occlusion", "ltsa"):
        streamed_array, array = getattr(long, name), getattr(whole, name)
        assert (streamed_array is None) == (array is None), name
        if array is not None:
            np.testing.assert_allclose(streamed_array.astype(float), array.astype(float), atol=0.05, err_msg=name)


@pytest.mark.parametrize("options", [
    {},
    {"include": ["windows", "detections", "spectrogram", "cam", "maps", "embedding"]},
    {"include": ["spectrogram"], "window": 0},
    {"include": ["cam"], "window": 39, "overlap": 0.5},
    {"include": ["embedding"], "overlap": 0.0, "window": 20},
    {"include": ["occlusion"]},
    {"include": ["ltsa"]},
], ids=str)  # fmt: skip
def test_a_long_sound_has_the_result_of_a_whole_one(
    harness: WorkerHarness, lower: Callable[[], None], options: dict[str, object]
) -> None:
    """With any options: levels, activity, detections, and the arrays of any window, the last one included."""
    whole = harness.result(RECORDING, **options)
    lower()
    assert_equal(harness.result(RECORDING, **options), whole)


def test_the_envelope_of_a_long_sound_is_that_of_the_whole(harness: WorkerHarness, lower: Callable[[], None]) -> None:
    """Within a step of 256 samples: the event is where it was."""
    whole = harness.result(RECORDING, include=["waveform"]).waveform
    lower()
    long = harness.result(RECORDING, include=["waveform"]).waveform
    assert whole is not None
    assert long is not None
    assert long.shape == whole.shape
    assert long.max() == whole.max()
    assert np.abs(long[1].astype(float) - whole[1].astype(float)).mean() < 0.01


def test_the_windows_of_a_long_sound_reach_the_network_as_they_come(
    harness: WorkerHarness, lower: Callable[[], None]
) -> None:
    """In batches of four, before the sound is decoded to its end; an error at its end fails the job."""
    lower()
    harness.result(RECORDING)
    assert max(len(batch) for batch in harness.batches) == 4
    assert len(harness.batches) < 20, "40 windows: on a busy machine a batch may start before the last of its windows"
    before = len(harness.batches)
    broken_end = np.frombuffer(RECORDING[44:], "<i2").astype(np.float32) / 32_768
    broken_end[-1] = np.nan
    job_id = harness.submit(encode(broken_end[:, None], RATE, "WAV", "FLOAT"))
    harness.runner.run([job_id])
    assert isinstance(harness.failure(job_id), AudioNotFinite)
    assert len(harness.batches) > before


def test_what_a_long_sound_cannot_have_is_refused(harness: WorkerHarness, lower: Callable[[], None]) -> None:
    """The spectrogram of the whole, at once and with the limit; a window that does not exist, once they are counted."""
    lower()
    job_id = harness.submit(RECORDING, include=[Part.FULL_SPECTROGRAM])
    harness.runner.run([job_id])
    error = harness.failure(job_id)
    assert isinstance(error, InvalidRequest)
    assert "up to 600 s" in error.detail
    assert harness.batches == []
    job_id = harness.submit(RECORDING, window=40)
    harness.runner.run([job_id])
    assert "40 windows, 0 to 39; window 40" in harness.failure(job_id).detail


@pytest.mark.parametrize(("total", "fewest", "expected"), [(40, 2, 2), (120, 2, 3), (160, 2, 4), (120, 4, 4)])
def test_many_windows_have_few_predictions_each(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch, total: int, fewest: int, expected: int
) -> None:
    """Since there may be thousands of them; the sound itself has as many as requested."""
    monkeypatch.setattr("shared.results.WINDOW_PREDICTIONS", total)
    monkeypatch.setattr("shared.results.WINDOW_TOP_K", fewest)
    result = harness.result(RECORDING, top_k=4)
    assert (len(result.windows), len(result.predictions)) == (40, 4)
    assert {len(window.predictions) for window in result.windows} == {expected}
    options = JobOptions(top_k=4)
    card = harness.registry.get("tiny").card
    assert len(pack_result(result)) <= largest_result(card, options, result.duration)


def test_progress_is_stored(harness: WorkerHarness, lower: Callable[[], None]) -> None:
    """Windows that are classified, of as many as the header announces; once for each change, and not after the end."""
    lower()
    job_id = harness.submit(RECORDING)
    thread = harness.run_blocked(job_id)
    harness.runner.report_progress()
    assert harness.job(job_id).progress is None, "no batch has run"
    (in_flight,) = harness.runner.in_flight
    in_flight.progress = Progress(done=4, of=40)
    harness.runner.report_progress()
    assert harness.job(job_id).progress == Progress(done=4, of=40)
    assert in_flight.reported == Progress(done=4, of=40)
    harness.free.set()
    thread.join(20)
    assert harness.job(job_id).progress is None
    assert harness.job(job_id).status == "succeeded"


@pytest.mark.parametrize(("duration", "last"), [(SECONDS, Progress(done=40, of=40)), (None, Progress(done=40)),
                                                (5.0, Progress(done=40, of=40))])  # fmt: skip
def test_progress_counts_windows(
    harness: WorkerHarness, lower: Callable[[], None], duration: float | None, last: Progress
) -> None:
    """Of an unknown number without a duration; never more than all where the header announces too few."""
    lower()
    job_id = harness.submit(RECORDING)
    job = harness.stores.claim(job_id)
    in_flight = InFlightJob(job.id, time.monotonic() + 60)
    claimed = ClaimedJob(**{**vars(job), "duration": duration})
    timings = harness.job(job_id).timings
    harness.classifier.classify(claimed, in_flight, timings)
    assert in_flight.progress == last
    assert timings.decode is not None


def test_a_job_is_cancelled_while_its_sound_is_decoded(harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a second, although its decode process does not answer; the process is replaced."""
    pool = DecoderPool(1, 30.0, 60.0)
    monkeypatch.setattr(harness.classifier, "_decoder", pool)
    try:
        stop(pool.pids[0])
        job_id = harness.submit(recording(5.0 + SECONDS, "FLAC"))
        thread = threading.Thread(target=harness.runner.run, args=([job_id],))
        thread.start()
        until(lambda: pool._idle.empty())
        harness.stores.run(harness.stores.gateway.cancel(job_id))
        harness.runner.abort_cancelled()
        thread.join(1.0)
        assert not thread.is_alive()
        assert harness.count("cancelled") == 1
        harness.result(recording(container="FLAC"))
    finally:
        pool.close()


def test_eleven_minutes_are_a_long_sound(harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a decode process, which decodes it twice for the arrays of a window; the result is that of a whole one."""
    file = recording(660, "FLAC")
    pool = DecoderPool(1, 60.0, 700.0)
    monkeypatch.setattr(harness.classifier, "_decoder", pool)
    options = {"include": ["windows", "detections", "spectrogram"]}
    try:
        long = harness.result(file, **options)
        monkeypatch.setattr(classify, "WHOLE_SECONDS", 700.0)
        assert_equal(long, harness.result(file, **options))
        assert long.windows[long.window].active
        assert 11 < long.windows[long.window].start < 14
    finally:
        pool.close()


def test_a_long_job_is_cancelled_between_two_blocks(harness: WorkerHarness, lower: Callable[[], None]) -> None:
    """Its windows that wait are removed, and no more are decoded."""
    lower()
    job_id = harness.submit(RECORDING)
    thread = harness.run_blocked(job_id)
    harness.stores.run(harness.stores.gateway.cancel(job_id))
    harness.runner.abort_cancelled()
    harness.free.set()
    thread.join(5)
    assert harness.job(job_id).status == "cancelled"
    assert len(harness.batches) == 1
