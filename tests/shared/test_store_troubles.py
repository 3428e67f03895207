"""Jobs that are delivered more than once, kill their workers, are released, or are never finished."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from otoscope.errors import AudioCorrupt, DeadlineExceeded
from shared import contract
from shared.jobs.records import ClaimedJob, SkippedJob
from tests.shared.conftest import Stores

Open = Callable[..., Stores]


def test_a_job_delivered_twice_has_one_result(stores: Stores) -> None:
    """The first result is kept, the second one is not stored, and a third delivery is skipped."""
    job_id = stores.submit()
    stores.claim(job_id, "w1")
    stores.claim(job_id, "w2")
    assert stores.succeed(job_id, b"first")
    assert not stores.succeed(job_id, b"second")
    assert stores.run(stores.gateway.result(job_id)) == b"first"
    assert stores.worker.claim(job_id, "w3") == SkippedJob("finished")
    assert stores.kinds(job_id) == ["queued", "running", "running", "succeeded", "result"]


def test_workers_that_race_for_a_job_store_one_result(stores: Stores) -> None:
    """All may claim and finish it at once; one result is stored."""
    job_id = stores.submit()
    gate = threading.Barrier(3)

    def work(name: str) -> bool:
        gate.wait()
        stores.claim(job_id, name)
        gate.wait()
        return stores.succeed(job_id, name.encode())

    names = ["w1", "w2", "w3"]
    with ThreadPoolExecutor(3) as pool:
        stored = [name for name, kept in zip(names, pool.map(work, names), strict=True) if kept]
    assert len(stored) == 1
    assert stores.run(stores.gateway.result(job_id)) == stored[0].encode()
    assert stores.raw.hget(contract.job_key(job_id), "attempts") == b"3"


def test_a_job_that_keeps_killing_its_worker_is_not_started_again(open_stores: Open) -> None:
    """It is quarantined after the first death and skipped after `max_attempts`, and its failure can be stored."""
    stores = open_stores(max_attempts=3)
    job_id = stores.submit()
    stores.claim(job_id, "w1")
    for worker in ("w2", "w3"):
        assert stores.worker.claim(job_id, worker) == SkippedJob("quarantined")
        assert isinstance(stores.worker.claim(job_id, worker, isolated=True), ClaimedJob)
    assert stores.worker.claim(job_id, "w4") == SkippedJob("quarantined")
    assert stores.worker.claim(job_id, "w4", isolated=True) == SkippedJob("poison")
    assert stores.worker.fail(job_id, AudioCorrupt("poison"))


def test_a_bystander_of_a_death_is_not_blamed(open_stores: Open) -> None:
    """Deaths count against the isolated job, however often other jobs were in flight."""
    stores = open_stores(max_attempts=2)
    killer, bystander = stores.submit(), stores.submit()
    for job_id in (killer, bystander):
        stores.claim(job_id, "w1")
    for _ in range(5):
        assert stores.worker.claim(bystander, "w2") == SkippedJob("quarantined"), "it has to be isolated"
    assert isinstance(stores.worker.claim(killer, "w2", isolated=True), ClaimedJob)
    assert stores.worker.claim(killer, "w3", isolated=True) == SkippedJob("poison")
    stores.claim(bystander, "w3")
    assert stores.succeed(bystander)


@pytest.mark.parametrize("deaths", [0, 1])
def test_a_claim_whose_reply_was_lost_is_no_death(
    open_stores: Open, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    """redis-py sends a command again where the connection broke, also a script that has run: that is one attempt."""
    stores = open_stores(max_attempts=2)
    job_id = stores.submit()
    for _ in range(deaths):
        stores.claim(job_id, "w1")
    run = stores.worker._quick.run

    def broken(*call: Any) -> object:
        for _ in range(5):
            run(*call)
        return run(*call)

    monkeypatch.setattr(stores.worker._quick, "run", broken)
    claimed = stores.worker.claim(job_id, "w2", isolated=bool(deaths))
    assert isinstance(claimed, ClaimedJob), claimed
    assert claimed.attempt == deaths + 1
    assert stores.kinds(job_id) == ["queued", *["running"] * (deaths + 1)]
    assert stores.succeed(job_id)


def test_an_end_whose_reply_was_lost_is_stored(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repeated request reports success and counts once; a second end of the job does not."""
    job_id = stores.submit()
    stores.claim(job_id)
    run = stores.worker._quick.run
    monkeypatch.setattr(stores.worker._quick, "run", lambda *call: (run(*call), run(*call))[1])
    assert stores.succeed(job_id)
    assert not stores.succeed(job_id)
    assert stores.run(stores.gateway.totals())["succeeded"] == 1


def test_a_cancellation_whose_reply_was_lost_deletes_nothing(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent again, it is the same request; only a second request deletes the job."""
    job_id = stores.submit()
    script = stores.gateway._scripts["cancel"]

    async def broken(**request: Any) -> object:
        await script(**request)
        return await script(**request)

    monkeypatch.setitem(stores.gateway._scripts, "cancel", broken)
    assert stores.run(stores.gateway.cancel(job_id)) == "cancelled"
    assert stores.status(job_id) == "cancelled"
    monkeypatch.undo()
    assert stores.run(stores.gateway.cancel(job_id)) == "forgotten"


def test_a_released_job_counts_as_never_delivered(open_stores: Open) -> None:
    """It is queued in its old place, and no number of releases makes it poison."""
    stores = open_stores(max_attempts=1)
    job_id, later = stores.submit(), stores.submit()
    for worker in ("w1", "w2", "w3"):
        stores.claim(job_id, worker)
        stores.worker.release(job_id, "another")
        assert stores.status(job_id) == "running", "only the worker that runs it can release it"
        stores.worker.release(job_id, worker)
        job = stores.run(stores.gateway.get(job_id))
        assert (job.status, job.position, job.started_at) == ("queued", 1, None)
    assert stores.run(stores.gateway.get(later)).position == 2
    stores.claim(job_id, "w4")
    assert stores.succeed(job_id)
    stores.worker.release(job_id, "w4")
    assert stores.status(job_id) == "succeeded"


def test_every_job_is_counted_once(open_stores: Open) -> None:
    """The accepted jobs are those that ended in one of the four ways and the unfinished ones."""
    stores = open_stores(max_attempts=1)
    done, failed, cancelled, late, gone, _ = (stores.submit() for _ in range(6))
    stores.submit(token="a")
    stores.submit(token="a")
    for job_id in (done, failed):
        stores.claim(job_id)
    for _ in range(2):
        stores.succeed(done)
        stores.worker.fail(failed, AudioCorrupt("no sound"))
        stores.run(stores.gateway.cancel(cancelled))
        stores.worker.fail(late, DeadlineExceeded("too late"))
    stores.raw.delete(contract.job_key(gone))
    for _ in range(2):
        stores.worker.fail(gone, AudioCorrupt("too late to store"))
    totals = stores.run(stores.gateway.totals())
    assert totals == {"accepted": 7, "succeeded": 1, "failed": 1, "cancelled": 1, "expired": 2}
    assert stores.run(stores.gateway.load()).unfinished == 2


def test_a_job_without_upload_is_not_started(stores: Stores) -> None:
    """It stays queued until its deadline."""
    job_id = stores.submit()
    stores.raw.delete(contract.audio_key(job_id))
    assert stores.worker.claim(job_id, "w1") == SkippedJob("missing")
    assert stores.worker.claim("f" * 32, "w1") == SkippedJob("missing")
    assert stores.status(job_id) == "queued"


@pytest.mark.slow
def test_jobs_past_their_deadline_fail(open_stores: Open) -> None:
    """Queued or running, with or without workers; a job before its deadline is left alone."""
    stores, patient = open_stores(job_deadline=0.01), open_stores()
    waits, runs, young = stores.submit(), stores.submit(), patient.submit()
    stores.claim(runs)
    assert stores.run(stores.gateway.expire_overdue()) == [], "the worker may still report a better error"
    time.sleep(2.1)
    assert set(stores.run(stores.gateway.expire_overdue())) == {waits, runs}
    for job_id in (waits, runs):
        job = stores.run(stores.gateway.get(job_id))
        assert (job.status, type(job.error)) == ("failed", DeadlineExceeded)
    assert stores.kinds(waits) == ["queued", "failed", "result"]
    assert not stores.succeed(runs), "a later result is not stored"
    assert stores.status(young) == "queued"
    assert stores.run(stores.gateway.expire_overdue()) == []


@pytest.mark.slow
def test_a_job_that_expired_unfinished_does_not_block_the_queue(open_stores: Open) -> None:
    """Where its record expired first, its place is freed all the same."""
    stores = open_stores(job_deadline=0.01)
    stores.raw.delete(contract.job_key(stores.submit()))
    time.sleep(2.1)
    assert stores.run(stores.gateway.expire_overdue()) == []
    load = stores.run(stores.gateway.load())
    assert (load.unfinished, load.queued) == (0, 0)
