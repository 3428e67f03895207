"""Jobs that fail, are cancelled, come too late or come twice."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from otoscope.errors import (
    AudioTruncated,
    DeadlineExceeded,
    DecoderDied,
    InferenceFailed,
    InternalError,
    InvalidRequest,
    JobPoison,
    ModelNotFound,
    OtoscopeError,
)
from tests.support.process_tree import stop
from tests.support.sounds import chirp, encode
from tests.support.worker_harness import ALL, LONG, RATE, SHORT, WorkerHarness
from worker.decode.pool import DecoderPool
from worker.inference.batcher import BatcherStopped
from worker.inference.engine import LoadedModel, Window, WindowOutput

FAILURES = [
    pytest.param({"sound": LONG, "window": 4}, InvalidRequest, "4 windows, 0 to 3; window 4", id="no such window"),
    pytest.param(
        {"layer": "layer9"}, InvalidRequest, "no layer 'layer9'; it has stem, layer1, layer2", id="no such layer"
    ),
    pytest.param({"model": "other"}, ModelNotFound, "no model 'other'", id="no such model"),
    pytest.param({"sound": SHORT[:-400]}, AudioTruncated, "", id="bad sound"),
]
"""What is submitted, the error it must end in, and words of it."""


@pytest.mark.parametrize(("asked", "kind", "words"), FAILURES)
def test_what_cannot_be_done_fails_with_its_reason(
    harness: WorkerHarness, asked: dict[str, Any], kind: type[OtoscopeError], words: str
) -> None:
    """The job is failed, the reason is one of the tree, and the network never saw it."""
    job_id = harness.submit(**asked)
    harness.runner.run(job_id)
    error = harness.failure(job_id)
    assert type(error) is kind
    assert words in error.detail
    assert harness.count("failed") == 1
    assert harness.batches == []


def test_numbers_that_are_not_finite_fail_one_job(harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound that the network cannot bear does not take its neighbours in the batch with it."""
    run = harness.engine.run

    def trips_over_loud_sounds(served: LoadedModel, windows: list[Window]) -> list[WindowOutput | Exception]:
        return run(served, [Window(w.samples * (np.nan if w.samples.max() > 0.9 else 1), w.parts) for w in windows])

    monkeypatch.setattr(harness.engine, "run", trips_over_loud_sounds)
    loud = harness.submit(encode(chirp(1.0, RATE, level=1.0), RATE, "WAV", "FLOAT"), include=ALL)
    soft = [harness.submit(include=ALL) for _ in range(3)]
    first = harness.run_blocked(harness.submit())
    threads = [harness.run_waiting(job_id) for job_id in (soft[0], loud, *soft[1:])]
    harness.free.set()
    for thread in (first, *threads):
        thread.join(20)
    assert [len(batch) for batch in harness.batches] == [1, 4]
    assert type(harness.failure(loud)) is InferenceFailed
    assert [harness.job(job_id).status for job_id in soft] == ["succeeded"] * 3


def test_a_file_that_kills_its_decoder_fails_one_job(harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """With words that point at the file."""
    stuck = DecoderPool(1, 1.0, 60.0)
    try:
        monkeypatch.setattr(harness.classifier, "_decoder", stuck)
        stop(stuck.pids[0])
        job_id = harness.submit(encode(chirp(1.0, RATE), RATE, "FLAC"))
        harness.runner.run(job_id)
        assert type(harness.failure(job_id)) is DecoderDied
        harness.result()
    finally:
        stuck.close()


def test_a_bug_fails_one_job_and_is_logged(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller is told no internals, the log has the traceback."""

    def broken(served: LoadedModel, windows: list[Window]) -> list[WindowOutput | Exception]:
        raise ZeroDivisionError("secret")

    job_id = harness.submit()
    with monkeypatch.context() as patch:
        patch.setattr(harness.engine, "run", broken)
        harness.runner.run(job_id)
    error = harness.failure(job_id)
    assert type(error) is InternalError
    assert "secret" not in error.detail
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    harness.result()


def test_a_job_cancelled_while_it_waits_for_the_network_is_not_run(harness: WorkerHarness) -> None:
    """The thread is free at once, its windows leave the queue, and the job stays cancelled."""
    first = harness.run_blocked(harness.submit())
    job_id = harness.submit(LONG)
    thread = harness.run_waiting(job_id, windows=4)
    assert len(harness.runner.in_flight) == 2
    harness.runner.abort_cancelled()
    assert thread.is_alive(), "nobody has cancelled it yet"
    harness.stores.run(harness.stores.gateway.cancel(job_id))
    harness.runner.abort_cancelled()
    thread.join(20)
    assert not thread.is_alive()
    harness.free.set()
    first.join(20)
    assert harness.job(job_id).status == "cancelled"
    assert [len(batch) for batch in harness.batches] == [1]
    assert (harness.count("cancelled"), harness.count("succeeded")) == (1, 1)
    assert harness.runner.in_flight == []


def test_a_cancellation_between_two_looks_is_not_missed(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes while the windows are being submitted takes all of them out again."""
    first = harness.run_blocked(harness.submit())
    job_id, submit = harness.submit(LONG), harness.batcher.submit

    def cancelled_meanwhile(*args: Any, **more: Any) -> Any:
        for held in harness.runner.in_flight:
            if held.id == job_id:
                held.cancel()
        return submit(*args, **more)

    monkeypatch.setattr(harness.batcher, "submit", cancelled_meanwhile)
    harness.runner.run(job_id)
    harness.free.set()
    first.join(20)
    harness.batcher.stop(timeout=20)
    assert harness.count("cancelled") == 1
    assert [len(batch) for batch in harness.batches] == [1]


def test_a_job_cancelled_on_the_device_stores_nothing(harness: WorkerHarness) -> None:
    """What cannot be stopped any more is dropped when it comes back."""
    job_id = harness.submit()
    thread = harness.run_blocked(job_id)
    harness.stores.run(harness.stores.gateway.cancel(job_id))
    harness.runner.abort_cancelled()
    harness.free.set()
    thread.join(20)
    assert harness.job(job_id).status == "cancelled"
    assert harness.stores.run(harness.stores.gateway.result(job_id)) is None


def test_a_job_whose_deadline_has_passed_is_not_begun(make_harness: Callable[..., WorkerHarness]) -> None:
    """Nobody waits for it any more: it fails without being decoded."""
    harness = make_harness(job_deadline=0.01)
    job_id = harness.submit()
    time.sleep(0.02)
    harness.runner.run(job_id)
    assert type(harness.failure(job_id)) is DeadlineExceeded
    assert harness.job(job_id).timings.decode is None


def test_a_job_whose_deadline_passes_in_the_queue_for_the_network_is_not_run(
    make_harness: Callable[..., WorkerHarness],
) -> None:
    """Behind a slow batch it fails with its deadline, and the network is spared."""
    harness = make_harness(job_deadline=1.0)
    patient = make_harness()
    first = patient.run_blocked(patient.submit())
    harness.classifier._batcher = patient.batcher
    job_id = harness.submit()
    thread = threading.Thread(target=harness.runner.run, args=(job_id,))
    thread.start()
    thread.join(1.1)
    patient.free.set()
    thread.join(20)
    first.join(20)
    assert type(harness.failure(job_id)) is DeadlineExceeded
    assert len(patient.batches) == 1


def test_a_poisonous_job_is_failed_without_being_touched(make_harness: Callable[..., WorkerHarness]) -> None:
    """After too many deaths it is ended, and says so."""
    harness = make_harness(max_attempts=1)
    job_id = harness.submit()
    harness.stores.claim(job_id)
    harness.runner.run(job_id)
    assert type(harness.failure(job_id)) is JobPoison
    assert harness.batches == []
    harness.runner.run(job_id)
    assert harness.count("failed") == 1


def test_a_job_delivered_twice_at_once_runs_once(harness: WorkerHarness) -> None:
    """The second delivery waits for the first and finds it done: it is no death that would count."""
    job_id = harness.submit()
    first = harness.run_blocked(job_id)
    second = threading.Thread(target=harness.runner.run, args=(job_id,))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert [held.id for held in harness.runner.in_flight] == [job_id]
    harness.free.set()
    first.join(20)
    second.join(20)
    assert harness.job(job_id).status == "succeeded"
    assert harness.stores.kinds(job_id) == ["queued", "running", "succeeded", "result"]
    assert harness.runner.in_flight == []


def test_suspects_run_one_at_a_time(harness: WorkerHarness) -> None:
    """What was in hand when another worker died; whatever was not is held up by none of them."""
    suspects, fresh = [harness.submit() for _ in range(3)], harness.submit()
    for job_id in suspects:
        harness.stores.claim(job_id, "dead")
    harness.free.clear()
    threads = [threading.Thread(target=harness.runner.run, args=(job_id,)) for job_id in suspects]
    for thread in threads:
        thread.start()
    assert harness.entered.acquire(timeout=20)
    held = harness.run_waiting(fresh)
    assert len(harness.runner.in_flight) == 2, "one suspect, and the other"
    harness.free.set()
    for thread in (*threads, held):
        thread.join(20)
    assert {harness.job(job_id).status for job_id in (*suspects, fresh)} == {"succeeded"}


def test_a_worker_that_stops_gives_its_jobs_back(harness: WorkerHarness) -> None:
    """Where the batcher ends before the job, nothing is stored: it is somebody else's now."""
    harness.batcher.stop(timeout=20)
    job_id = harness.submit()
    with pytest.raises(BatcherStopped):
        harness.runner.run(job_id)
    assert harness.job(job_id).status == "queued"
    assert harness.runner.in_flight == []
