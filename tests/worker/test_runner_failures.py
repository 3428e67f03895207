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
from tests.support.worker_harness import ALL, LONG, RATE, SHORT, Bench
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
    bench: Bench, asked: dict[str, Any], kind: type[OtoscopeError], words: str
) -> None:
    """The job is failed, the reason is one of the tree, and the network never saw it."""
    job_id = bench.submit(**asked)
    bench.classifier.run(job_id)
    error = bench.failure(job_id)
    assert type(error) is kind
    assert words in error.detail
    assert bench.count("failed") == 1
    assert bench.batches == []


def test_numbers_that_are_not_finite_fail_one_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound that the network cannot bear does not take its neighbours in the batch with it."""
    run = bench.engine.run

    def trips_over_loud_sounds(served: LoadedModel, windows: list[Window]) -> list[WindowOutput | Exception]:
        return run(served, [Window(w.samples * (np.nan if w.samples.max() > 0.9 else 1), w.parts) for w in windows])

    monkeypatch.setattr(bench.engine, "run", trips_over_loud_sounds)
    loud = bench.submit(encode(chirp(1.0, RATE, level=1.0), RATE, "WAV", "FLOAT"), include=ALL)
    soft = [bench.submit(include=ALL) for _ in range(3)]
    first = bench.run_held(bench.submit())
    threads = [bench.run_waiting(job_id) for job_id in (soft[0], loud, *soft[1:])]
    bench.free.set()
    for thread in (first, *threads):
        thread.join(20)
    assert [len(batch) for batch in bench.batches] == [1, 4]
    assert type(bench.failure(loud)) is InferenceFailed
    assert [bench.job(job_id).status for job_id in soft] == ["succeeded"] * 3


def test_a_file_that_kills_its_decoder_fails_one_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With words that point at the file."""
    stuck = DecoderPool(1, 1.0, 60.0)
    try:
        monkeypatch.setattr(bench.classifier, "_decoder", stuck)
        stop(stuck.pids[0])
        job_id = bench.submit(encode(chirp(1.0, RATE), RATE, "FLAC"))
        bench.classifier.run(job_id)
        assert type(bench.failure(job_id)) is DecoderDied
        bench.result()
    finally:
        stuck.close()


def test_a_bug_fails_one_job_and_is_logged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller is told no internals, the log has the traceback."""

    def broken(served: LoadedModel, windows: list[Window]) -> list[WindowOutput | Exception]:
        raise ZeroDivisionError("secret")

    job_id = bench.submit()
    with monkeypatch.context() as patch:
        patch.setattr(bench.engine, "run", broken)
        bench.classifier.run(job_id)
    error = bench.failure(job_id)
    assert type(error) is InternalError
    assert "secret" not in error.detail
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    bench.result()


def test_a_job_cancelled_while_it_waits_for_the_network_is_not_run(bench: Bench) -> None:
    """The thread is free at once, its windows leave the queue, and the job stays cancelled."""
    first = bench.run_held(bench.submit())
    job_id = bench.submit(LONG)
    thread = bench.run_waiting(job_id, windows=4)
    assert len(bench.classifier.held) == 2
    bench.classifier.cancel_abandoned()
    assert thread.is_alive(), "nobody has cancelled it yet"
    bench.stores.run(bench.stores.gateway.cancel(job_id))
    bench.classifier.cancel_abandoned()
    thread.join(20)
    assert not thread.is_alive()
    bench.free.set()
    first.join(20)
    assert bench.job(job_id).status == "cancelled"
    assert [len(batch) for batch in bench.batches] == [1]
    assert (bench.count("cancelled"), bench.count("succeeded")) == (1, 1)
    assert bench.classifier.held == []


def test_a_cancellation_between_two_looks_is_not_missed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes while the windows are being submitted takes all of them out again."""
    first = bench.run_held(bench.submit())
    job_id, submit = bench.submit(LONG), bench.batcher.submit

    def cancelled_meanwhile(*args: Any, **more: Any) -> Any:
        for held in bench.classifier.held:
            if held.id == job_id:
                held.cancel()
        return submit(*args, **more)

    monkeypatch.setattr(bench.batcher, "submit", cancelled_meanwhile)
    bench.classifier.run(job_id)
    bench.free.set()
    first.join(20)
    bench.batcher.stop(timeout=20)
    assert bench.count("cancelled") == 1
    assert [len(batch) for batch in bench.batches] == [1]


def test_a_job_cancelled_on_the_device_stores_nothing(bench: Bench) -> None:
    """What cannot be stopped any more is dropped when it comes back."""
    job_id = bench.submit()
    thread = bench.run_held(job_id)
    bench.stores.run(bench.stores.gateway.cancel(job_id))
    bench.classifier.cancel_abandoned()
    bench.free.set()
    thread.join(20)
    assert bench.job(job_id).status == "cancelled"
    assert bench.stores.run(bench.stores.gateway.result(job_id)) is None


def test_a_job_whose_deadline_has_passed_is_not_begun(start_bench: Callable[..., Bench]) -> None:
    """Nobody waits for it any more: it fails without being decoded."""
    bench = start_bench(job_deadline=0.01)
    job_id = bench.submit()
    time.sleep(0.02)
    bench.classifier.run(job_id)
    assert type(bench.failure(job_id)) is DeadlineExceeded
    assert bench.job(job_id).timings.decode is None


def test_a_job_whose_deadline_passes_in_the_queue_for_the_network_is_not_run(
    start_bench: Callable[..., Bench],
) -> None:
    """Behind a slow batch it fails with its deadline, and the network is spared."""
    bench = start_bench(job_deadline=1.0)
    patient = start_bench()
    first = patient.run_held(patient.submit())
    bench.classifier._batcher = patient.batcher
    job_id = bench.submit()
    thread = threading.Thread(target=bench.classifier.run, args=(job_id,))
    thread.start()
    thread.join(1.1)
    patient.free.set()
    thread.join(20)
    first.join(20)
    assert type(bench.failure(job_id)) is DeadlineExceeded
    assert len(patient.batches) == 1


def test_a_poisonous_job_is_failed_without_being_touched(start_bench: Callable[..., Bench]) -> None:
    """After too many deaths it is ended, and says so."""
    bench = start_bench(max_attempts=1)
    job_id = bench.submit()
    bench.stores.start(job_id)
    bench.classifier.run(job_id)
    assert type(bench.failure(job_id)) is JobPoison
    assert bench.batches == []
    bench.classifier.run(job_id)
    assert bench.count("failed") == 1


def test_a_job_delivered_twice_at_once_runs_once(bench: Bench) -> None:
    """The second delivery waits for the first and finds it done: it is no death that would count."""
    job_id = bench.submit()
    first = bench.run_held(job_id)
    second = threading.Thread(target=bench.classifier.run, args=(job_id,))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert [held.id for held in bench.classifier.held] == [job_id]
    bench.free.set()
    first.join(20)
    second.join(20)
    assert bench.job(job_id).status == "succeeded"
    assert bench.stores.kinds(job_id) == ["queued", "running", "succeeded", "result"]
    assert bench.classifier.held == []


def test_suspects_run_one_at_a_time(bench: Bench) -> None:
    """What was in hand when another worker died; whatever was not is held up by none of them."""
    suspects, fresh = [bench.submit() for _ in range(3)], bench.submit()
    for job_id in suspects:
        bench.stores.start(job_id, "dead")
    bench.free.clear()
    threads = [threading.Thread(target=bench.classifier.run, args=(job_id,)) for job_id in suspects]
    for thread in threads:
        thread.start()
    assert bench.entered.acquire(timeout=20)
    held = bench.run_waiting(fresh)
    assert len(bench.classifier.held) == 2, "one suspect, and the other"
    bench.free.set()
    for thread in (*threads, held):
        thread.join(20)
    assert {bench.job(job_id).status for job_id in (*suspects, fresh)} == {"succeeded"}


def test_a_worker_that_stops_gives_its_jobs_back(bench: Bench) -> None:
    """Where the batcher ends before the job, nothing is stored: it is somebody else's now."""
    bench.batcher.stop(timeout=20)
    job_id = bench.submit()
    with pytest.raises(BatcherStopped):
        bench.classifier.run(job_id)
    assert bench.job(job_id).status == "queued"
    assert bench.classifier.held == []
