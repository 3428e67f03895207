"""Jobs that fail, are cancelled, are past their deadline or are delivered twice."""

import logging
import os
import signal
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
from shared.contract import job_key
from tests.support.process_tree import stop
from tests.support.sounds import chirp, encode
from tests.support.worker_harness import LONG, OF_ONE_PASS, RATE, SHORT, WorkerHarness, wait_until_ready
from worker.decode.pool import DecoderPool
from worker.decode.process import Child
from worker.inference.batcher import BatcherStopped
from worker.inference.engine import LoadedModel, Window, WindowOutput

FAILURES = [
    pytest.param({"sound": LONG, "window": 4}, InvalidRequest, "4 windows, 0 to 3; window 4", id="no such window"),
    pytest.param(
        {"layer": "layer9"}, InvalidRequest, "no layer 'layer9'; it has stem, layer1, layer2", id="no such layer"
    ),
    pytest.param({"sound": SHORT[:40]}, AudioTruncated, "", id="bad sound"),
    pytest.param({"sound": SHORT[:-400], "strict": True}, AudioTruncated, "", id="a sound that is cut"),
]
"""What is submitted, the type of the resulting error, and a part of its text."""


@pytest.mark.parametrize(("submission", "kind", "text"), FAILURES)
def test_an_impossible_job_fails_with_its_reason(
    harness: WorkerHarness, submission: dict[str, Any], kind: type[OtoscopeError], text: str
) -> None:
    """The job is failed with an error of otoscope.errors, and its windows never reach the network."""
    job_id = harness.submit(**submission)
    harness.runner.run([job_id])
    error = harness.failure(job_id)
    assert type(error) is kind
    assert text in error.detail
    assert harness.count("failed") == 1
    assert harness.batches == []


def test_a_job_whose_model_was_removed_is_requeued(harness: WorkerHarness) -> None:
    """As if it had never been delivered: another worker may serve the model."""
    job_id = harness.submit(model="other")
    with pytest.raises(ModelNotFound, match="no model 'other'"):
        harness.runner.run([job_id])
    assert harness.job(job_id).status == "queued"
    assert harness.stores.raw.hget(job_key(job_id), "attempts") == b"0"


def test_numbers_that_are_not_finite_fail_one_job(harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound with NaN logits does not fail its neighbours in the batch."""
    run = harness.engine.run

    def nan_for_loud_sounds(loaded: LoadedModel, windows: list[Window]) -> list[WindowOutput | Exception]:
        return run(loaded, [Window(w.samples * (np.nan if w.samples.max() > 0.9 else 1), w.parts) for w in windows])

    monkeypatch.setattr(harness.engine, "run", nan_for_loud_sounds)
    loud = harness.submit(encode(chirp(1.0, RATE, level=1.0), RATE, "WAV", "FLOAT"), include=OF_ONE_PASS)
    soft = [harness.submit(include=OF_ONE_PASS) for _ in range(3)]
    first = harness.run_blocked(harness.submit())
    threads = [harness.run_waiting(job_id) for job_id in (soft[0], loud, *soft[1:])]
    harness.free.set()
    for thread in (first, *threads):
        thread.join(20)
    assert [len(batch) for batch in harness.batches] == [1, 4]
    assert type(harness.failure(loud)) is InferenceFailed
    assert [harness.job(job_id).status for job_id in soft] == ["succeeded"] * 3


@pytest.mark.parametrize(("kills", "status"), [(1, "succeeded"), (2, "failed")])
def test_only_a_file_whose_decoder_is_killed_twice_is_blamed(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch, kills: int, status: str
) -> None:
    """The first time, the process may have been killed to free memory."""
    send, left = Child.send, [signal.SIGKILL] * kills

    def send_to_killed(child: Child, *arguments: Any) -> None:
        if left:
            os.kill(child.process.pid, left.pop())
            child.process.wait(20)
        send(child, *arguments)

    pool = DecoderPool(1, seconds=60, max_seconds=60)
    try:
        monkeypatch.setattr(harness.classifier, "_decoder", pool)
        monkeypatch.setattr(Child, "send", send_to_killed)
        job_id = harness.submit(encode(chirp(1.0, RATE), RATE, "FLAC", "PCM_16"))
        harness.runner.run([job_id])
    finally:
        pool.close()
    assert harness.job(job_id).status == status
    assert not left
    if status == "failed":
        assert type(harness.failure(job_id)) is DecoderDied


def test_a_file_that_kills_its_decoder_fails_one_job(harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error that names the file as the probable cause."""
    stuck = DecoderPool(1, 1.0, 60.0)
    try:
        wait_until_ready(stuck)
        monkeypatch.setattr(harness.classifier, "_decoder", stuck)
        stop(stuck.pids[0])
        job_id = harness.submit(encode(chirp(1.0, RATE), RATE, "FLAC"))
        harness.runner.run([job_id])
        assert type(harness.failure(job_id)) is DecoderDied
        harness.result()
    finally:
        stuck.close()


def test_a_bug_fails_one_job_and_is_logged(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error for the caller has no internals; the log has the traceback."""

    def broken(loaded: LoadedModel, windows: list[Window]) -> list[WindowOutput | Exception]:
        raise ZeroDivisionError("secret")

    job_id = harness.submit()
    with monkeypatch.context() as patch:
        patch.setattr(harness.engine, "run", broken)
        harness.runner.run([job_id])
    error = harness.failure(job_id)
    assert type(error) is InternalError
    assert "secret" not in error.detail
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    harness.result()


def test_a_job_cancelled_while_it_waits_for_the_network_is_not_run(harness: WorkerHarness) -> None:
    """Its thread ends at once, its windows leave the batcher, and the job stays cancelled."""
    first = harness.run_blocked(harness.submit())
    job_id = harness.submit(LONG)
    thread = harness.run_waiting(job_id, windows=4)
    assert len(harness.runner.in_flight) == 2
    harness.runner.abort_cancelled()
    assert thread.is_alive(), "it is not cancelled yet"
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


def test_a_cancellation_during_submission_is_not_missed(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation while the windows are submitted to the batcher removes all of them again."""
    first = harness.run_blocked(harness.submit())
    job_id, submit = harness.submit(LONG), harness.batcher.submit

    def cancelled_meanwhile(*args: Any, **more: Any) -> Any:
        for job in harness.runner.in_flight:
            if job.id == job_id:
                job.cancel()
        return submit(*args, **more)

    monkeypatch.setattr(harness.batcher, "submit", cancelled_meanwhile)
    harness.runner.run([job_id])
    harness.free.set()
    first.join(20)
    harness.batcher.stop(timeout=20)
    assert harness.count("cancelled") == 1
    assert [len(batch) for batch in harness.batches] == [1]


def test_a_job_cancelled_on_the_device_stores_nothing(harness: WorkerHarness) -> None:
    """A running batch cannot be stopped; its output is discarded."""
    job_id = harness.submit()
    thread = harness.run_blocked(job_id)
    harness.stores.run(harness.stores.gateway.cancel(job_id))
    harness.runner.abort_cancelled()
    harness.free.set()
    thread.join(20)
    assert harness.job(job_id).status == "cancelled"
    assert harness.stores.run(harness.stores.gateway.result(job_id)) is None


def test_a_job_past_its_deadline_is_not_started(make_harness: Callable[..., WorkerHarness]) -> None:
    """It fails without being decoded."""
    harness = make_harness(job_deadline=0.01)
    job_id = harness.submit()
    time.sleep(0.02)
    harness.runner.run([job_id])
    assert type(harness.failure(job_id)) is DeadlineExceeded
    assert harness.job(job_id).timings.decode is None


@pytest.mark.slow
def test_a_job_whose_deadline_passes_in_the_batcher_is_not_run(
    make_harness: Callable[..., WorkerHarness],
) -> None:
    """Behind a slow batch it fails with DeadlineExceeded, and its windows do not run."""
    harness = make_harness(job_deadline=1.0)
    patient = make_harness()
    first = patient.run_blocked(patient.submit())
    harness.classifier._batcher = patient.batcher
    job_id = harness.submit()
    thread = threading.Thread(target=harness.runner.run, args=([job_id],))
    thread.start()
    thread.join(1.1)
    patient.free.set()
    thread.join(20)
    first.join(20)
    assert type(harness.failure(job_id)) is DeadlineExceeded
    assert len(patient.batches) == 1


def test_a_poison_job_is_failed_without_being_run(make_harness: Callable[..., WorkerHarness]) -> None:
    """After too many crashes of workers it fails with JobPoison."""
    harness = make_harness(max_attempts=1)
    job_id = harness.submit()
    harness.stores.claim(job_id)
    harness.runner.run([job_id])
    assert type(harness.failure(job_id)) is JobPoison
    assert harness.batches == []
    harness.runner.run([job_id])
    assert harness.count("failed") == 1


def test_a_job_delivered_twice_at_once_runs_once(harness: WorkerHarness) -> None:
    """The second delivery waits for the first and finds it finished; it does not count as a crash."""
    job_id = harness.submit()
    first = harness.run_blocked(job_id)
    second = threading.Thread(target=harness.runner.run, args=([job_id],))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert [job.id for job in harness.runner.in_flight] == [job_id]
    harness.free.set()
    first.join(20)
    second.join(20)
    assert harness.job(job_id).status == "succeeded"
    assert harness.stores.kinds(job_id) == ["queued", "running", "succeeded", "result"]
    assert harness.runner.in_flight == []


def test_quarantined_jobs_run_one_at_a_time(harness: WorkerHarness) -> None:
    """Jobs that were in flight when another worker died; other jobs do not wait for them."""
    quarantined, fresh = [harness.submit() for _ in range(3)], harness.submit()
    for job_id in quarantined:
        harness.stores.claim(job_id, "dead")
    harness.free.clear()
    threads = [threading.Thread(target=harness.runner.run, args=([job_id],)) for job_id in quarantined]
    for thread in threads:
        thread.start()
    assert harness.entered.acquire(timeout=20)
    other = harness.run_waiting(fresh)
    assert len(harness.runner.in_flight) == 2, "one quarantined job, and the other one"
    harness.free.set()
    for thread in (*threads, other):
        thread.join(20)
    assert {harness.job(job_id).status for job_id in (*quarantined, fresh)} == {"succeeded"}


def test_a_worker_that_stops_requeues_its_jobs(harness: WorkerHarness) -> None:
    """If the batcher stops before the job has run, nothing is stored: another worker will run it."""
    harness.batcher.stop(timeout=20)
    job_id = harness.submit()
    with pytest.raises(BatcherStopped):
        harness.runner.run([job_id])
    assert harness.job(job_id).status == "queued"
    assert harness.runner.in_flight == []
