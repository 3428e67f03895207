"""The life of a job in Redis, as the gateway and as the worker see it."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from otoscope.errors import (
    AudioCorrupt,
    JobExpired,
    JobNotFound,
)
from otoscope.types import JobOptions, Part, Progress, Timings
from shared import contract
from shared.jobs.records import ClaimedJob, NewJob, SkippedJob
from tests.shared.conftest import AUDIO, Stores
from tests.support.process_tree import until

Open = Callable[..., Stores]
Keys = Callable[[], set[bytes]]


def test_a_job_goes_from_its_submission_to_its_result(stores: Stores) -> None:
    """The submitted job reaches the worker, and the result that the worker stores reaches the client."""
    options = JobOptions(top_k=3, include=(Part.MAPS, Part.CAM), window=2)
    job_id = stores.submit(b"\0\xff sound", options=options)
    queued = stores.run(stores.gateway.get(job_id))
    assert (queued.status, queued.model, queued.audio) == ("queued", "tiny", AUDIO)
    assert (queued.position, queued.started_at, queued.final) == (1, None, False)

    claimed = stores.claim(job_id)
    assert (claimed.id, claimed.model, claimed.options, claimed.audio) == (job_id, "tiny", options, b"\0\xff sound")
    assert 0 <= claimed.waited < 60
    assert stores.settings.job_deadline - 60 < claimed.seconds_left <= stores.settings.job_deadline
    running = stores.run(stores.gateway.get(job_id))
    assert (running.status, running.position) == ("running", None)
    assert running.started_at is not None

    assert stores.succeed(job_id, b"\x80packed\0")
    done = stores.run(stores.gateway.get(job_id))
    assert (done.status, done.final, done.error) == ("succeeded", True, None)
    assert done.finished_at is not None
    assert queued.created_at <= running.started_at <= done.finished_at
    assert done.timings.decode == 0.25
    assert done.timings.total is not None
    assert done.timings.queue is not None
    assert done.timings.total >= done.timings.queue >= 0
    assert done.packed is None, "it was not requested"
    assert stores.run(stores.gateway.result(job_id)) == b"\x80packed\0"
    assert stores.run(stores.gateway.get(job_id, with_result=True)) == replace(done, packed=b"\x80packed\0")


def test_an_upload_is_deleted_when_its_job_ends(stores: Stores) -> None:
    """Ten megabytes of sound are not kept until the result expires."""
    finished, cancelled = stores.submit(), stores.submit()
    stores.claim(finished)
    stores.succeed(finished)
    stores.run(stores.gateway.cancel(cancelled))
    assert not stores.raw.exists(contract.audio_key(finished), contract.audio_key(cancelled))


def test_a_failure_is_read_as_the_same_error(stores: Stores) -> None:
    """Class, code and text of an error survive Redis, and so do the timings."""
    job_id = stores.submit()
    stores.claim(job_id)
    assert stores.worker.fail(job_id, AudioCorrupt("Byte 7 is “wrong”."), Timings(decode=1.5))
    job = stores.run(stores.gateway.get(job_id))
    assert job.status == "failed"
    assert type(job.error) is AudioCorrupt
    assert job.error.detail == "Byte 7 is “wrong”."
    assert job.timings.decode == 1.5
    assert stores.run(stores.gateway.result(job_id)) is None


@pytest.mark.slow
def test_an_expired_job_differs_from_one_that_never_existed(open_stores: Open) -> None:
    """410 while the tombstone lasts; 404 afterwards, and for a job that never existed."""
    stores = open_stores(result_ttl=1, tombstone_ttl=60)
    job_id = stores.submit()
    stores.claim(job_id)
    stores.succeed(job_id)
    until(lambda: not stores.raw.exists(contract.job_key(job_id)))
    with pytest.raises(JobExpired, match=f"{job_id} has expired"):
        stores.run(stores.gateway.get(job_id))
    with pytest.raises(JobExpired):
        stores.run(stores.gateway.cancel(job_id))
    assert 0 < stores.raw.ttl(contract.tombstone_key(job_id)) <= 61
    stores.raw.delete(contract.tombstone_key(job_id))
    with pytest.raises(JobNotFound):
        stores.run(stores.gateway.get(job_id))
    with pytest.raises(JobNotFound):
        stores.run(stores.gateway.cancel("f" * 32))


def test_deleting_a_finished_job_leaves_nothing(stores: Stores, redis_keys: Keys) -> None:
    """Not even its tombstone."""
    job_id = stores.submit()
    stores.claim(job_id)
    stores.succeed(job_id)
    assert stores.run(stores.gateway.cancel(job_id)) == "forgotten"
    assert redis_keys() == set()
    with pytest.raises(JobNotFound):
        stores.run(stores.gateway.get(job_id))


def test_a_job_cancelled_in_the_queue_is_never_run(stores: Stores) -> None:
    """It is skipped when it is delivered."""
    job_id = stores.submit()
    assert stores.run(stores.gateway.cancel(job_id)) == "cancelled"
    assert stores.status(job_id) == "cancelled"
    assert stores.worker.claim(job_id, "w1") == SkippedJob("finished")
    assert stores.status(job_id) == "cancelled"


def test_a_job_cancelled_while_it_runs_stores_nothing(stores: Stores) -> None:
    """The worker can see that it was cancelled, and a result that it stores all the same is dropped."""
    job_id, other = stores.submit(), stores.submit()
    stores.claim(job_id)
    stores.claim(other)
    stores.run(stores.gateway.cancel(job_id))
    assert stores.worker.no_longer_running([job_id, other]) == {job_id}
    assert not stores.succeed(job_id)
    assert not stores.worker.fail(job_id, AudioCorrupt("late"))
    job = stores.run(stores.gateway.get(job_id))
    assert (job.status, job.error) == ("cancelled", None)
    assert stores.run(stores.gateway.result(job_id)) is None


def test_a_worker_without_jobs_sends_no_request(stores: Stores) -> None:
    """Without jobs there is no round trip."""
    assert stores.worker.no_longer_running([]) == set()


def test_events_are_in_order_and_end_with_the_result(stores: Stores) -> None:
    """Every change once, readable from any position without blocking."""
    job_id = stores.submit()
    stores.claim(job_id)
    stores.succeed(job_id)
    events, job = stores.run(stores.gateway.events_since(job_id, "0-0"))
    assert [event.kind for event in events] == ["queued", "running", "succeeded", "result"]
    assert (job.status, job.packed) == ("succeeded", None)
    for at, event in enumerate(events):
        later, job = stores.run(stores.gateway.events_since(job_id, event.id, with_result=True))
        assert (later, job.packed) == (events[at + 1 :], b"result")


def test_events_and_record_are_read_at_one_moment(stores: Stores) -> None:
    """Read while jobs end: with the final status in the record come all events, and the result."""
    jobs = [stores.submit() for _ in range(50)]

    def work() -> None:
        for job_id in jobs:
            stores.claim(job_id)
            stores.succeed(job_id)

    thread = threading.Thread(target=work)
    thread.start()
    for job_id in jobs:
        status = "queued"
        while status != "succeeded":
            events, job = stores.run(stores.gateway.events_since(job_id, "0-0", with_result=True))
            status, kinds = job.status, ["queued", "running", "succeeded", "result"]
            assert [event.kind for event in events] == (kinds if job.final else kinds[: kinds.index(status) + 1])
            assert (job.packed == b"result") == job.final
    thread.join()


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_every_end_is_in_the_stream(stores: Stores, how: str) -> None:
    """Failure and cancellation are events, and `result` comes last."""
    job_id = stores.submit()
    if how == "failed":
        stores.worker.fail(job_id, AudioCorrupt("no"))
    else:
        stores.run(stores.gateway.cancel(job_id))
    assert stores.kinds(job_id) == ["queued", how, "result"]


def test_the_stream_of_a_job_is_bounded(open_stores: Open) -> None:
    """However often a job is delivered, its stream keeps the newest entries alone."""
    stores = open_stores(max_attempts=1_000)
    job_id = stores.submit()
    for _ in range(100):
        stores.claim(job_id)
    stores.succeed(job_id)
    kinds = stores.kinds(job_id)
    assert len(kinds) <= 64
    assert kinds[-2:] == ["succeeded", "result"]


def test_positions_count_queued_jobs(stores: Stores) -> None:
    """1 is next; claiming or cancelling one moves the others up."""
    jobs = [stores.submit() for _ in range(4)]

    def positions() -> list[int | None]:
        return [stores.run(stores.gateway.get(job)).position for job in jobs]

    assert positions() == [1, 2, 3, 4]
    stores.claim(jobs[0])
    stores.run(stores.gateway.cancel(jobs[2]))
    assert positions() == [None, 1, None, 2]


def test_the_load_has_depth_and_age(stores: Stores) -> None:
    """Unfinished jobs, queued jobs, and how long the first of them has waited."""
    assert stores.run(stores.gateway.load()).oldest == 0
    jobs = [stores.submit() for _ in range(3)]
    stores.claim(jobs[0])
    time.sleep(0.05)
    load = stores.run(stores.gateway.load())
    assert (load.unfinished, load.queued, load.memory_share) == (3, 2, 0)
    assert 0.05 <= load.oldest < 60


def test_a_claimed_job_has_its_queue_time_and_the_time_left(open_stores: Open) -> None:
    """Both on the clock of Redis, not of the worker."""
    stores = open_stores(job_deadline=100)
    job_id = stores.submit()
    time.sleep(0.1)
    claimed = stores.worker.claim(job_id, "w1")
    assert isinstance(claimed, ClaimedJob)
    assert 0.1 <= claimed.waited < 50
    assert claimed.waited + claimed.seconds_left == pytest.approx(100, abs=0.001)


def test_progress_is_that_of_the_running_job(stores: Stores) -> None:
    """It is published, is not in the stream of events, and is gone after a new start and after the end."""
    job_id = stores.submit()
    half = Progress(done=20, of=40)
    stores.worker.report_progress(job_id, "w1", half)
    assert stores.run(stores.gateway.get(job_id)).progress is None, "it is queued"
    stores.claim(job_id)
    before = stores.kinds(job_id)
    with stores.raw.pubsub() as channel:
        channel.subscribe(contract.CHANGES)
        assert channel.get_message(timeout=5)
        stores.worker.report_progress(job_id, "w2", Progress(done=1))
        stores.worker.report_progress(job_id, "w1", half)
        message = channel.get_message(timeout=5)
    assert message is not None
    assert message["data"] == f"{job_id} running".encode()
    assert stores.run(stores.gateway.get(job_id)).progress == half
    assert stores.kinds(job_id) == before
    stores.worker.release(job_id, "w1")
    assert stores.run(stores.gateway.get(job_id)).progress is None
    stores.claim(job_id)
    assert stores.run(stores.gateway.get(job_id)).progress is None
    stores.worker.report_progress(job_id, "w1", half)
    assert stores.succeed(job_id)
    assert stores.run(stores.gateway.get(job_id)).progress is None


def test_a_long_sound_has_a_long_deadline(open_stores: Callable[..., Stores]) -> None:
    """As many seconds for every ten minutes of its header; the record outlives the deadline."""
    stores = open_stores(job_deadline=100)
    for seconds, deadline in ((None, 100), (599.0, 100), (7_200.0, 1_200)):
        audio = AUDIO.model_copy(update={"duration": seconds})
        job_id = stores.run(stores.gateway.submit(NewJob("tiny", JobOptions(), audio, b"sound"))).id
        claimed = stores.claim(job_id)
        assert claimed.duration == seconds
        assert deadline - 60 < claimed.seconds_left <= deadline
        assert int(stores.raw.ttl(contract.job_key(job_id))) > deadline
