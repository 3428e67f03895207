"""Limits of the store, repeated requests, and how long keys live."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from otoscope.errors import AudioCorrupt, IdempotencyConflict, PayloadTooLarge, QueueFull
from otoscope.types import JobOptions
from shared import contract
from shared.jobs import AsyncJobStore
from shared.jobs.records import NewJob, SkippedJob, WorkerHeartbeat
from shared.redis_client.connection import connect_async
from tests.shared.conftest import AUDIO, Stores

Open = Callable[..., Stores]
Keys = Callable[[], set[bytes]]


def test_a_full_queue_refuses_a_submission(open_stores: Open) -> None:
    """Running jobs count, too; a finished one frees its place."""
    stores = open_stores(queue_limit=2, caller_share=1.0)
    first = stores.submit()
    stores.claim(first)
    stores.submit()
    with pytest.raises(QueueFull, match="2 jobs are unfinished, and 2 is the limit") as refused:
        stores.submit()
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 1
    stores.succeed(first)
    stores.submit(caller="net:other")


def test_one_caller_cannot_fill_the_queue(open_stores: Open) -> None:
    """Its queued jobs may take their share of the places; the rest is left to other callers."""
    stores = open_stores(queue_limit=4)
    first, _ = (stores.submit(caller="net:many") for _ in range(2))
    with pytest.raises(QueueFull, match="2 of your jobs are queued") as refused:
        stores.submit(caller="net:many")
    assert refused.value.retry_after is not None
    for _ in range(2):
        stores.submit(caller="net:few")
    with pytest.raises(QueueFull, match="4 jobs are unfinished"):
        stores.submit(caller="net:late")
    assert stores.queued_ids("net:many")[0] == first
    assert stores.run(stores.gateway.get(first)).caller == "net:many"


@pytest.mark.slow
def test_cancelled_and_expired_jobs_take_no_share(open_stores: Open) -> None:
    """Their ids stay in the caller's list until their turn or until the place is needed."""
    stores = open_stores(queue_limit=4, job_deadline=1)
    cancelled = [stores.submit(caller="net:many") for _ in range(2)]
    for job_id in cancelled:
        stores.run(stores.gateway.cancel(job_id))
    late = [stores.submit(caller="net:many") for _ in range(2)]
    with pytest.raises(QueueFull):
        stores.submit(caller="net:many")
    time.sleep(3.1)
    assert sorted(stores.run(stores.gateway.expire_overdue())) == sorted(late)
    kept = [stores.submit(caller="net:many") for _ in range(2)]
    assert stores.queued_ids("net:many") == kept


@pytest.mark.slow
def test_a_job_whose_model_no_worker_serves_waits_until_its_deadline(open_stores: Open) -> None:
    """Its error names the model; one whose model is served was simply too late."""
    stores = open_stores(job_deadline=1)
    stores.worker.heartbeat(WorkerHeartbeat("w1", ["tiny"]), {}, 10)
    late, unserved = stores.submit(), stores.submit(model="gone")
    time.sleep(3.1)
    assert set(stores.run(stores.gateway.expire_overdue())) == {late, unserved}
    details = [str(stores.run(stores.gateway.get(job_id)).error) for job_id in (late, unserved)]
    assert "not finished before" in details[0]
    assert "no worker served its model 'gone'" in details[1]


def test_a_caller_whose_list_was_emptied_has_one_turn(open_stores: Open) -> None:
    """A caller that may have one queued job, and cancels it, neither loses its turn nor gets a second one."""
    stores = open_stores(queue_limit=4, caller_share=0.25)
    for _ in range(3):
        stores.run(stores.gateway.cancel(stores.submit(caller="net:one")))
    kept = stores.submit(caller="net:one")
    assert stores.queued_ids("net:one") == [kept]
    assert stores.raw.lrange(contract.QUEUE, 0, -1) == [b"net:one"]


def test_a_refused_submission_leaves_nothing(open_stores: Open, redis_keys: Keys) -> None:
    """429 costs no memory, and no worker gets the job."""
    stores = open_stores(queue_limit=1)
    first = stores.submit()
    before = redis_keys()
    with pytest.raises(QueueFull):
        stores.submit(token="again")
    with pytest.raises(QueueFull):
        stores.submit(caller="net:other")
    assert stores.queued_ids("net:other") == []
    assert redis_keys() == before
    assert stores.queued_ids() == [first]


def test_uploads_are_refused_before_redis_is_full(stores: Stores) -> None:
    """Above the allowed share of the memory limit a submission gets 429 with Retry-After."""
    used = stores.raw.info("memory")["used_memory"]
    try:
        stores.raw.config_set("maxmemory", int(used / 0.9))
        with pytest.raises(QueueFull, match=r"memory is \d+% full") as refused:
            stores.submit()
        assert refused.value.retry_after == 5
    finally:
        stores.raw.config_set("maxmemory", 0)


def test_the_results_of_accepted_jobs_fit_into_the_memory(open_stores: Open) -> None:
    """Memory for the largest result of each job is reserved at its submission and released at its end, however it
    ends: results are stored whether or not there is memory left."""
    stores, size = open_stores(redis_memory_share=1.0), 2**20
    used = stores.raw.info("memory")["used_memory"]
    try:
        stores.raw.config_set("maxmemory", limit := used + 16 * size)
        jobs = []
        with suppress(QueueFull):
            while len(jobs) < 100:
                jobs.append(stores.submit(result_bytes=size, caller=str(len(jobs))))
        with pytest.raises(QueueFull, match="results of all accepted"):
            stores.submit(result_bytes=size)
        assert 12 <= len(jobs) <= 16
        cancelled, failed, *rest = jobs
        stores.run(stores.gateway.cancel(cancelled))
        stores.worker.fail(failed, AudioCorrupt("no"))
        assert all(stores.succeed(job_id, bytes(size // 5 * 4)) for job_id in rest)
        assert stores.raw.info("memory")["used_memory"] < limit
        assert stores.raw.hgetall(contract.RESERVED) == {b"total": b"0"}
    finally:
        stores.raw.config_set("maxmemory", 0)


def test_kept_sounds_leave_half_of_the_memory(open_stores: Open) -> None:
    """They stay for as long as their results, so they are refused from half of the share on, at once and by what is
    reserved; other jobs are not."""
    stores, size = open_stores(redis_memory_share=0.8), 2**20
    keep = JobOptions(keep_sound=True)
    used = stores.raw.info("memory")["used_memory"]
    try:
        stores.raw.config_set("maxmemory", (used + 8 * size) * 10 // 4)  # half of the share: eight sounds
        kept: list[str] = []
        with suppress(QueueFull):
            while len(kept) < 100:
                kept.append(stores.submit(bytes(size), options=keep, caller=str(len(kept))))
                stores.claim(kept[-1])
                stores.succeed(kept[-1])
        with pytest.raises(QueueFull, match="sounds that are kept"):
            stores.submit(bytes(size), options=keep)
        assert 5 <= len(kept) <= 8
        assert all(stores.run(stores.gateway.sound(job_id)) == bytes(size) for job_id in kept)
        plain = [stores.submit(bytes(size), caller=str(number)) for number in range(4)]
        assert len(set(plain)) == 4
        stores.raw.config_set("maxmemory", used * 2)
        with pytest.raises(QueueFull, match="sounds that are kept are accepted again below 40%"):
            open_stores(redis_memory_share=0.8).submit(options=keep)
        stores.run(stores.gateway.cancel(kept[0]))
        assert stores.run(stores.gateway.sound(kept[0])) is None
    finally:
        stores.raw.config_set("maxmemory", 0)


def test_a_result_larger_than_reserved_needs_free_memory(stores: Stores) -> None:
    """As of a file whose header declares less than it holds: it must not take what is reserved for others."""
    job_id, other = stores.submit(result_bytes=1_000), stores.submit(result_bytes=1_000)
    used = stores.raw.info("memory")["used_memory"]
    assert stores.succeed(other, bytes(5_000))
    try:
        stores.raw.config_set("maxmemory", used + 2**20)
        with pytest.raises(PayloadTooLarge, match="more than expected"):
            stores.succeed(job_id, bytes(2**20))
    finally:
        stores.raw.config_set("maxmemory", 0)
    assert stores.worker.fail(job_id, AudioCorrupt("no"))


def test_what_was_reserved_for_a_lost_job_is_found(open_stores: Open) -> None:
    """A job whose end released nothing, as in a worker of an earlier version, takes no memory from later ones."""
    stores, size = open_stores(redis_memory_share=1.0), 2**20
    lost, kept = stores.submit(result_bytes=8 * size), stores.submit(result_bytes=size)
    stores.raw.zrem(contract.UNFINISHED, lost)
    used = stores.raw.info("memory")["used_memory"]
    try:
        stores.raw.config_set("maxmemory", used + 8 * size)
        stores.submit(result_bytes=size)
    finally:
        stores.raw.config_set("maxmemory", 0)
    assert stores.raw.hget(contract.RESERVED, "total") == str(2 * size).encode()
    assert stores.raw.hexists(contract.RESERVED, kept)


def test_jobs_still_end_when_redis_is_full(open_stores: Open) -> None:
    """At the memory limit new uploads are refused, and everything that frees memory goes on."""
    stores = open_stores(redis_memory_share=1.0)
    started, queued, cancelled = (stores.submit(bytes(10_000)) for _ in range(3))
    stores.claim(started)
    stores.run(stores.gateway.load())  # the memory share is cached, so that Redis itself has to refuse
    try:
        stores.raw.config_set("maxmemory", 1)
        with pytest.raises(QueueFull, match="full"):
            stores.submit()
        assert stores.succeed(started)
        assert stores.run(stores.gateway.cancel(cancelled)) == "cancelled"
        stores.claim(queued)
        assert stores.worker.fail(queued, AudioCorrupt("no"))
    finally:
        stores.raw.config_set("maxmemory", 0)
    assert [stores.status(job) for job in (started, queued, cancelled)] == ["succeeded", "failed", "cancelled"]


@pytest.mark.parametrize("size", [1, 2**17, 2**17 + 1, 10**6])
def test_uploads_and_results_of_any_size_are_returned(stores: Stores, size: int) -> None:
    """Large ones are read with a second command, and are returned unchanged."""
    body, packed = b"\xff" * size, b"\xfe" * size
    job_id = stores.submit(body)
    assert stores.claim(job_id).audio == body
    stores.succeed(job_id, packed)
    job = stores.run(stores.gateway.get(job_id, with_result=True))
    assert job.packed == packed or job.packed_size == size > 2**17
    if job.packed is None:
        job = stores.run(stores.gateway.with_result(job))
    assert job.packed == packed


def test_a_large_upload_may_be_deleted_before_it_is_read(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job was cancelled in between, and is skipped."""
    job_id = stores.submit(bytes(10**6))
    monkeypatch.setattr(stores.worker._quick, "get", lambda key: None)
    assert stores.worker.claim(job_id, "w1") == SkippedJob("finished")


def test_a_repeated_request_gets_the_first_job(stores: Stores) -> None:
    """The same key with the same sound, model and options is the same job, finished or not."""
    first = stores.run(stores.gateway.submit(NewJob("tiny", JobOptions(), AUDIO, b"sound", idempotency_key="key")))
    again = stores.run(stores.gateway.submit(NewJob("tiny", JobOptions(), AUDIO, b"sound", idempotency_key="key")))
    assert (first.created, again.created) == (True, False)
    stores.claim(first.id)
    stores.succeed(first.id)
    assert first.id == again.id == stores.submit(token="key")
    assert stores.submit() != first.id, "without a key every request is its own"


def test_a_repeated_request_gets_the_first_job_with_another_default_model(stores: Stores) -> None:
    """Both requests leave the model out, as where the service is upgraded in between."""
    assert stores.submit(token="key") == stores.submit(token="key", model="tiny2")


@pytest.mark.parametrize(
    "other",
    [{"body": b"noise"}, {"options": JobOptions(model="tiny2")}, {"options": JobOptions(top_k=1)}],
    ids=["sound", "model", "options"],
)
def test_a_key_used_for_another_request_conflicts(stores: Stores, other: dict[str, object]) -> None:
    """A key belongs to one request."""
    stores.submit(token="key")
    with pytest.raises(IdempotencyConflict):
        stores.submit(token="key", **other)  # type: ignore[arg-type]


def test_a_key_is_free_again_when_its_job_is_deleted(stores: Stores) -> None:
    """A repeated request is never answered with a job that does not exist."""
    first = stores.submit(token="key")
    stores.claim(first)
    stores.succeed(first)
    stores.run(stores.gateway.cancel(first))
    again = stores.submit(b"another sound", token="key")
    assert again != first
    assert stores.status(again) == "queued"


def _end(stores: Stores, how: str, job_id: str) -> None:
    """Bring a job into one of its states."""
    if how in ("running", "succeeded", "failed", "cancelled running", "released"):
        stores.claim(job_id)
    if how == "succeeded":
        stores.succeed(job_id)
    elif how == "failed":
        stores.worker.fail(job_id, AudioCorrupt("no"))
    elif how == "released":
        stores.worker.release(job_id, "w1")
    elif how.startswith("cancelled"):
        stores.run(stores.gateway.cancel(job_id))


@pytest.mark.parametrize(
    "how", ["queued", "running", "succeeded", "failed", "cancelled queued", "cancelled running", "released"]
)
def test_no_key_is_without_a_ttl(stores: Stores, redis_keys: Keys, how: str) -> None:
    """In every state all keys of a job have a TTL; that of the tombstone is the longest."""
    job_id = stores.submit(token="key")
    _end(stores, how, job_id)
    lives = {key.decode(): stores.raw.ttl(key) for key in redis_keys() | {contract.QUEUE.encode()}}
    assert all(seconds > 0 for seconds in lives.values()), lives
    own = {name: seconds for name, seconds in lives.items() if job_id in name}
    assert max(own, key=lambda name: own[name]) == contract.tombstone_key(job_id)
    kept = stores.settings.result_ttl
    if how not in ("queued", "running", "released"):
        assert own.pop(contract.tombstone_key(job_id)) >= kept + stores.settings.tombstone_ttl - 1
        assert all(kept - 2 <= seconds <= kept for seconds in own.values()), own


def test_simultaneous_repeats_make_one_job(stores: Stores) -> None:
    """Gateways that get the same request at once agree on one job."""
    gate = threading.Barrier(4)

    async def submit() -> tuple[str, bool]:
        async with connect_async(stores.settings) as client:
            await client.ping()
            gate.wait()
            job = NewJob("tiny", JobOptions(), AUDIO, b"sound", idempotency_key="key")
            made = await AsyncJobStore(client, stores.settings).submit(job)
            return made.id, made.created

    with ThreadPoolExecutor(4) as pool:
        made = [future.result() for future in [pool.submit(asyncio.run, submit()) for _ in range(4)]]
    assert len({job_id for job_id, _ in made}) == 1
    assert sum(created for _, created in made) == 1
