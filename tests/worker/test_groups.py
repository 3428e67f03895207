"""Jobs that were delivered together and run together: what one of them does or suffers does not change the others."""

import os
import signal
import threading

import pytest

from otoscope.errors import ModelNotFound
from otoscope.results import unpack_result
from tests.support.process_tree import until
from tests.support.sounds import chirp, encode
from tests.support.worker_harness import LONG, SHORT, WorkerHarness
from worker.decode.pool import DecoderPool
from worker.inference.batcher import BatcherStopped
from worker.pipeline import classify

OGG = encode(chirp(1.0, 16_000), 16_000, "OGG", "VORBIS")


def statuses(harness: WorkerHarness, ids: list[str]) -> list[str]:
    return [harness.job(job_id).status for job_id in ids]


def test_they_share_a_batch_and_have_the_results_of_jobs_alone(harness: WorkerHarness) -> None:
    """All windows are submitted before the first is waited for; timings and metrics are those of any job."""
    alone = [harness.result(sound) for sound in (SHORT, OGG, LONG)]
    before = harness.count("succeeded")
    ids = [harness.submit(sound) for sound in (SHORT, OGG, LONG)]
    harness.runner.run(ids)
    for job_id, expected in zip(ids, alone, strict=True):
        packed = harness.stores.run(harness.stores.gateway.result(job_id))
        assert packed is not None
        result = unpack_result(packed)
        assert [name for name, _ in result.predictions] == [name for name, _ in expected.predictions]
        assert [p for _, p in result.predictions] == pytest.approx([p for _, p in expected.predictions], abs=2e-2)
        assert harness.job(job_id).timings.forward is not None
    assert harness.count("succeeded") == before + 3
    assert harness.runner.in_flight == []


def test_a_bad_file_fails_alone(harness: WorkerHarness) -> None:
    """Also one that kills its decode process would."""
    ids = [harness.submit(sound) for sound in (SHORT, OGG[:200] + bytes(2_000), SHORT)]
    harness.runner.run(ids)
    assert statuses(harness, ids) == ["succeeded", "failed", "succeeded"]


def test_a_cancelled_one_is_left_out(harness: WorkerHarness) -> None:
    """Before the others have ended."""
    harness.free.clear()
    ids = [harness.submit() for _ in range(3)]
    thread = threading.Thread(target=harness.runner.run, args=(ids,))
    thread.start()
    assert harness.entered.acquire(timeout=20)
    assert harness.stores.run(harness.stores.gateway.cancel(ids[1])) == "cancelled"
    harness.runner.abort_cancelled()
    harness.free.set()
    thread.join(30)
    assert statuses(harness, ids) == ["succeeded", "cancelled", "succeeded"]


def test_those_that_were_not_run_are_requeued(harness: WorkerHarness) -> None:
    """With no attempt counted; the queue is given back the whole delivery."""
    harness.batcher.stop(drain=False, timeout=20)
    ids = [harness.submit() for _ in range(3)]
    acknowledged: list[str] = []
    with pytest.raises(BatcherStopped):
        harness.runner.run(ids, acknowledged.append)
    assert acknowledged == []
    assert statuses(harness, ids) == ["queued"] * 3
    assert [harness.stores.raw.hget(f"otoscope:job:{job_id}", "attempts") for job_id in ids] == [b"0"] * 3


def test_one_that_has_to_be_requeued_is_requeued_alone(harness: WorkerHarness) -> None:
    """The others have ended, and are acknowledged before."""
    ids = [harness.submit(), harness.submit(model="removed"), harness.submit(b"no sound"), harness.submit()]
    acknowledged: list[str] = []
    with pytest.raises(ModelNotFound):
        harness.runner.run(ids, acknowledged.append)
    assert acknowledged == [ids[0], ids[2], ids[3]]
    assert statuses(harness, ids) == ["succeeded", "queued", "failed", "succeeded"]


def test_one_that_is_not_to_be_run_is_skipped(harness: WorkerHarness) -> None:
    """It was cancelled, or a quarantined job of a worker that died: the others are run first."""
    ids = [harness.submit() for _ in range(3)]
    harness.stores.worker.claim(ids[0], "a worker that died")
    assert harness.stores.run(harness.stores.gateway.cancel(ids[1])) == "cancelled"
    harness.runner.run(ids)
    assert statuses(harness, ids) == ["succeeded", "cancelled", "succeeded"]
    assert harness.stores.raw.hget(f"otoscope:job:{ids[0]}", "deaths") == b"1"


def test_the_others_do_not_wait_for_one_whose_decoding_takes_long(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run in threads of their own meanwhile, and each is acknowledged at its end; its decode process goes on."""
    decoder = DecoderPool(1, 30.0, 60.0)
    monkeypatch.setattr(harness.classifier, "_decoder", decoder)
    monkeypatch.setattr(classify, "_TOGETHER_SECONDS", 0.3)
    ids = [harness.submit(sound) for sound in (OGG, SHORT, SHORT)]
    pid = decoder.pids[0]
    acknowledged: list[str] = []
    thread = threading.Thread(target=harness.runner.run, args=(ids, acknowledged.append))
    try:
        os.kill(pid, signal.SIGSTOP)
        thread.start()
        until(lambda: len(acknowledged) == 2)
        assert sorted(acknowledged) == sorted(ids[1:])
        assert statuses(harness, ids) == ["running", "succeeded", "succeeded"]
        os.kill(pid, signal.SIGCONT)
        thread.join(30)
        assert decoder.pids == [pid]
    finally:
        os.kill(pid, signal.SIGCONT)
        decoder.close()
    assert statuses(harness, ids) == ["succeeded"] * 3
