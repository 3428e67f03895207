"""Several Redis servers: which of them gets a job, where a job is found, and what is lost while one is down.

The servers of most tests are two databases of the one server of the run.
"""

import asyncio
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis

from otoscope.errors import (
    BatchNotFound,
    IdempotencyConflict,
    JobNotFound,
    QueueFull,
    StoreUnavailable,
)
from otoscope.types import JobOptions, ModelCard
from shared import contract
from shared.config.settings import Settings
from shared.jobs import AsyncJobStore, JobStore, ShardedJobStore
from shared.jobs.batches import BatchRecord, MemberRecord
from shared.jobs.records import NewJob, Submission, WorkerHeartbeat
from shared.jobs.servers import Server, Servers
from shared.jobs.sharded_store import ShardedBatchStore
from shared.redis_client.connection import connect, connect_async
from tests.conftest import start_server
from tests.shared.conftest import AUDIO
from tests.support.process_tree import stop

Answer = TypeVar("Answer")

JOB = NewJob("tiny", JobOptions(), AUDIO, b"sound")


class Shards:
    """A gateway's stores over some servers, and their workers, by the numbers of the servers."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self.settings = settings
        self._loop = stack.enter_context(asyncio.Runner())
        numbers = range(len(settings.redis_servers))
        self.clients, probes = ([connect_async(settings, number) for number in numbers] for _ in range(2))
        for client in (*self.clients, *probes):
            stack.callback(lambda client=client: self.run(client.aclose()))  # type: ignore[misc]
        self.servers = Servers(self.clients, settings, probes)
        self.jobs, self.batches = ShardedJobStore(self.servers, settings), ShardedBatchStore(self.servers)
        self.raw: list[redis.Redis] = []
        self.workers: list[JobStore] = []
        for url in settings.redis_url.split():
            own = settings.model_copy(update={"redis_url": url})
            self.raw.append(redis.Redis.from_url(url))
            self.workers.append(JobStore(stack.enter_context(connect(own)), own))
            stack.callback(self.raw[-1].close)

    def run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        return self._loop.run(coroutine)

    def announce(self, server: int, *models: str, workers: int = 1) -> None:
        """So many workers of a server serve these models."""
        for worker in range(workers):
            self.workers[server].heartbeat(WorkerHeartbeat(f"w{worker}", list(models)), _cards(*models), 60)

    def probe(self) -> None:
        for server in self.servers:
            self.run(self.servers.probe(server))

    def submit(
        self,
        model: str = "tiny",
        key: str | None = None,
        job_id: str | None = None,
        *,
        caller: str = "",
        exact: bool = False,
    ) -> Submission:
        job = replace(JOB, model=model, options=JobOptions(model=model), caller=caller, idempotency_key=key)
        return self.run(self.jobs.submit(job, job_id, exact=exact))

    def spread(self, count: int, model: str = "tiny") -> list[int]:
        """Over the servers, of so many jobs."""
        found = Counter(contract.server_of(self.submit(model).id) for _ in range(count))
        return [found[number] for number in range(len(self.servers))]

    def stored(self, server: int) -> list[str]:
        """The unfinished jobs of a server."""
        ids: Any = self.raw[server].zrange(contract.UNFINISHED, 0, -1)
        return [job_id.decode() for job_id in ids]


def _cards(*models: str) -> dict[str, ModelCard]:
    return {
        name: ModelCard(
            name=name, description="", classes=["dog"], sample_rate=16_000, window_seconds=1.0, architecture={},
            frontend={}, parameters=1, layers=[], accuracy=[], licence="CC0", version="0",
        )
        for name in models
    }  # fmt: skip


Open = Callable[..., Shards]


@pytest.fixture
def open_shards(settings: Settings) -> Iterator[Open]:
    """Stores over so many servers, or over those of that URL, with some settings changed."""
    with ExitStack() as stack:

        def start(count: int = 2, url: str = "", **changed: object) -> Shards:
            url = url or " ".join(f"{settings.redis_url}?db={number}" for number in range(count))
            return Shards(settings.model_copy(update={"redis_url": url, **changed}), stack)

        yield start


@pytest.fixture
def shards(open_shards: Open) -> Shards:
    """Two servers, each with a worker that serves `tiny`."""
    both = open_shards()
    both.announce(0, "tiny")
    both.announce(1, "tiny")
    both.probe()
    return both


def test_jobs_take_turns_and_are_found_by_their_ids(shards: Shards) -> None:
    """The last two digits of an id are the server that has the job, from its submission to its end."""
    ids = [shards.submit().id for _ in range(6)]
    assert [contract.server_of(job_id) for job_id in ids] == [0, 1, 0, 1, 0, 1]
    assert [shards.stored(number) for number in (0, 1)] == [ids[::2], ids[1::2]]
    assert shards.run(shards.jobs.positions()) == {job_id: 1 + at // 2 for at, job_id in enumerate(ids)}
    for job_id in ids[:2]:
        assert shards.run(shards.jobs.get(job_id)).status == "queued"
        entries, job = shards.run(shards.jobs.events_since(job_id, "0-0"))
        assert ([entry.kind for entry in entries], job.id) == (["queued"], job_id)
        assert shards.run(shards.jobs.cancel(job_id)) == "cancelled"
        assert shards.run(shards.jobs.get(job_id)).status == "cancelled"


def test_a_new_job_goes_where_a_worker_has_the_least_to_do(shards: Shards) -> None:
    """Jobs are compared for each worker, not for each server."""
    shards.announce(1, "tiny", workers=3)
    shards.probe()
    assert shards.spread(40) == [10, 30]
    for job_id in shards.stored(1):
        shards.run(shards.jobs.cancel(job_id))
    shards.probe()
    assert shards.spread(20) == [0, 20]


def test_a_new_job_goes_where_its_model_is_served(shards: Shards) -> None:
    """However much there is to do; anywhere if no worker serves it."""
    shards.announce(1, "other")
    shards.probe()
    assert shards.spread(10, "other") == [0, 10]
    assert shards.spread(10, "nobody's") == [10, 0], "which evens it out"


def test_a_job_waits_for_no_worker_that_its_server_will_not_have(shards: Shards) -> None:
    """While the only server whose workers serve its model is down it is refused: on another one it would wait until its
    deadline. It is accepted as soon as that server is back."""
    shards.announce(1, "other")
    shards.probe()
    only = list(shards.servers)[1]
    shards.run(_mark(shards, only, up=False))
    with pytest.raises(StoreUnavailable, match="Redis server 1"):
        shards.submit("other")
    with pytest.raises(StoreUnavailable, match="Redis server 1"):
        shards.run(shards.jobs.server_with_places("other", JobOptions(), 2))
    assert shards.spread(2) == [2, 0]
    shards.probe()
    assert shards.spread(2, "other") == [0, 2]


def test_a_server_that_is_back_gets_the_jobs_of_its_models_before_its_workers_are(shards: Shards) -> None:
    """After an outage their heartbeats have expired; so it is before the first probe that finds them."""
    shards.announce(1, "other")
    shards.run(shards.jobs.cards())
    shards.workers[1].deregister("w0")
    shards.probe()
    assert shards.spread(4, "other") == [0, 4]


async def _mark(shards: Shards, server: Server, *, up: bool) -> None:
    shards.servers._set_up(server, up=up)


def test_a_proposed_id_is_kept_where_its_server_takes_the_job(shards: Shards) -> None:
    """A request subscribes to its job before it submits it."""
    for _ in range(4):
        job_id = shards.jobs.new_job_id("tiny")
        assert shards.submit(job_id=job_id).id == job_id
    assert [len(shards.stored(number)) for number in (0, 1)] == [2, 2]


def test_a_full_server_is_passed_over(open_shards: Open) -> None:
    """Only if all are full, the submission is refused."""
    shards = open_shards(queue_limit=4, caller_share=1.0)
    full = [shards.submit(job_id=contract.new_job_id(0), exact=True).id for _ in range(4)]
    assert shards.stored(0) == full
    assert shards.spread(4) == [0, 4]
    with pytest.raises(QueueFull, match="4 jobs are unfinished"):
        shards.submit()
    shards.run(shards.jobs.cancel(full[0]))
    assert shards.spread(1) == [1, 0]


def test_a_job_of_a_batch_has_one_server(open_shards: Open) -> None:
    """Its id is in the record of the batch already."""
    shards = open_shards(queue_limit=1)
    job_id = contract.new_job_id(1)
    assert shards.submit(job_id=job_id, exact=True).id == job_id
    with pytest.raises(QueueFull):
        shards.submit(job_id=contract.new_job_id(1), exact=True)
    assert shards.stored(0) == []


def test_a_batch_goes_where_there_is_room_for_all_of_it(open_shards: Open) -> None:
    """Its record is found by its id, as a job is."""
    shards = open_shards(queue_limit=4)
    for _ in range(2):
        shards.submit(job_id=contract.new_job_id(0), exact=True)
    assert shards.run(shards.jobs.server_with_places("tiny", JobOptions(), 3)) == 1
    with pytest.raises(QueueFull, match="no place for 5 sounds"):
        shards.run(shards.jobs.server_with_places("tiny", JobOptions(), 5))
    job_id = shards.submit(job_id=contract.new_job_id(1), exact=True).id
    record = BatchRecord(contract.new_job_id(1), "", 0.0, (MemberRecord("a.wav", job_id),))
    assert shards.run(shards.batches.create(record, "digest", 1.0)) == record
    assert shards.run(shards.batches.get(record.id)) == record
    assert [state.status for state in shards.run(shards.batches.states(record))] == ["queued"]
    assert [store.exists(contract.batch_key(record.id)) for store in shards.raw] == [0, 1]
    shards.run(shards.batches.delete(record.id))
    with pytest.raises(BatchNotFound):
        shards.run(shards.batches.get(record.id))


def test_a_batch_goes_where_there_is_memory(open_shards: Open, settings: Settings) -> None:
    """As a job does. Its record is not stored on a server that will take none of its jobs."""
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        server, socket = start_server(Path(name), "--save", "")
        try:
            shards = open_shards(url=f"{settings.redis_url} unix://{socket}")
            used = shards.raw[1].info("memory")["used_memory"]  # type: ignore[index]
            shards.raw[1].config_set("maxmemory", int(used / 0.6))
            keep, plain = JobOptions(keep_sound=True), JobOptions()
            assert {shards.run(shards.jobs.server_with_places("tiny", plain, 2)) for _ in range(4)} == {0, 1}
            assert {shards.run(shards.jobs.server_with_places("tiny", keep, 2)) for _ in range(4)} == {0}
            shards = open_shards(url=f"unix://{socket}", redis_memory_share=0.5)
            with pytest.raises(QueueFull, match="memory is"):
                shards.run(shards.jobs.server_with_places("tiny", plain, 2))
        finally:
            server.kill()
            server.wait()


def test_an_idempotency_key_has_one_server(shards: Shards, open_shards: Open) -> None:
    """Whichever server has the least to do, and whichever gateway is asked, a repeated request finds its job."""
    first = {key: shards.submit(key=key).id for key in map(str, range(20))}
    assert {contract.server_of(job_id) for job_id in first.values()} == {0, 1}
    other = open_shards()
    for key, job_id in first.items():
        repeated = other.submit(key=key)
        assert (repeated.id, repeated.created) == (job_id, False)
    with pytest.raises(IdempotencyConflict):
        other.submit("another", key="0")
    assert other.submit(key="0", caller="someone else").created


def test_a_server_that_is_appended_takes_its_share_of_the_keys(open_shards: Open) -> None:
    """All other keys keep their server."""
    two, three = open_shards(2), open_shards(3)
    keys = list(map(str, range(300)))
    before, after = ([shards.jobs.server_of_key(key) for key in keys] for shards in (two, three))
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {new for _, new in moved} == {2}
    assert 60 < len(moved) < 140


def test_an_id_of_no_server_is_not_found(shards: Shards) -> None:
    """It is no error of the service: any text can be requested."""
    for job_id in (contract.new_job_id(2), contract.new_job_id(0), "", "x", "+1", "0" * 30 + "²¹"):
        with pytest.raises(JobNotFound, match="There is no job"):
            shards.run(shards.jobs.get(job_id))
        with pytest.raises(BatchNotFound):
            shards.run(shards.batches.get(job_id))


def test_a_single_server_has_every_job(open_shards: Open) -> None:
    """Gateways of earlier versions made ids whose last digits are random."""
    single = open_shards(1)
    old = "0123456789abcdef0123456789abcdef"
    assert single.submit(job_id=old, exact=True).id == f"{old[:-2]}00"
    single.raw[0].rename(contract.job_key(f"{old[:-2]}00"), contract.job_key(old))
    assert single.run(single.jobs.get(old)).status == "queued"
    assert single.submit().id.endswith("00")


def test_what_is_read_of_all_servers(shards: Shards) -> None:
    """Workers and models of both, the state of each."""
    shards.announce(1, "tiny", "other", workers=2)
    shards.spread(3)
    assert sorted(worker.id for worker in shards.run(shards.jobs.workers())) == ["w0", "w0", "w1"]
    assert set(shards.run(shards.jobs.cards())) == {"tiny", "other"}
    first, second = (state for state in shards.run(shards.jobs.states()).values() if state)
    assert (first.load.unfinished, first.workers, first.totals["accepted"]) == (2, 1, 2)
    assert (second.load.unfinished, second.workers, second.totals["accepted"]) == (1, 2, 1)
    assert shards.jobs.queue_limit == 2 * shards.settings.queue_limit


def test_overdue_jobs_of_every_server_are_ended(open_shards: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not a worker runs."""
    monkeypatch.setattr("shared.jobs.async_store._OVERDUE_GRACE", -1_000)
    shards = open_shards()
    ids = {shards.submit().id for _ in range(2)}
    assert {contract.server_of(job_id) for job_id in ids} == {0, 1}
    assert set(shards.run(shards.jobs.expire_overdue())) == ids


@pytest.fixture
def half(open_shards: Open, settings: Settings) -> Shards:
    """Server 0 is down and server 1 works. Nothing is known of either."""
    shards = open_shards(url=f"unix:///nowhere/redis.sock {settings.redis_url}")
    shards.announce(1, "tiny")
    return shards


def test_one_that_is_down_takes_only_its_own_share_with_it(half: Shards) -> None:
    """Its jobs are unavailable, at once from the second request on; new jobs and all others go on."""
    assert half.spread(4) == [0, 4]
    assert [server.up for server in half.servers] == [False, True]
    began = time.monotonic()
    for refused in (half.jobs.get(contract.new_job_id(0)), half.jobs.cancel(contract.new_job_id(0))):
        with pytest.raises(StoreUnavailable, match="Redis server 0") as error:
            half.run(refused)
        assert error.value.retry_after
    with pytest.raises(StoreUnavailable):
        half.run(half.batches.get(contract.new_job_id(0)))
    keys = [key for key in map(str, range(20)) if half.jobs.server_of_key(f"\0{key}") == 0]
    with pytest.raises(StoreUnavailable):
        half.submit(key=keys[0])
    assert time.monotonic() - began < 0.5
    assert len(half.run(half.jobs.positions())) == 4
    assert [worker.id for worker in half.run(half.jobs.workers())] == ["w0"]
    assert list(half.run(half.jobs.cards())) == ["tiny"]
    assert half.run(half.jobs.expire_overdue()) == []
    states = half.run(half.jobs.states())
    assert (states[0], states[1] is not None) == (None, True)
    assert half.run(half.jobs.server_with_places("tiny", JobOptions(), 1)) == 1


def test_all_are_down(open_shards: Open) -> None:
    """Then nothing is available, as with one server."""
    shards = open_shards(url="unix:///nowhere/a.sock unix:///nowhere/b.sock")
    calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
        lambda: shards.jobs.submit(JOB),
        shards.jobs.positions, shards.jobs.cards, shards.jobs.workers, shards.jobs.expire_overdue,
        lambda: shards.jobs.server_with_places("tiny", JobOptions(), 1),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StoreUnavailable):
            shards.run(call())
    assert shards.run(shards.jobs.health()) == {0: None, 1: None}


def test_the_models_of_a_server_that_is_down_stay_known(half: Shards, settings: Settings) -> None:
    """A request for one of them is not refused for good."""
    next(iter(half.servers)).cards = _cards("elsewhere")
    assert set(half.run(half.jobs.cards())) == {"elsewhere", "tiny"}


@pytest.mark.parametrize("reply", [True, False])
def test_a_job_that_a_server_may_have_is_not_submitted_twice(
    shards: Shards, monkeypatch: pytest.MonkeyPatch, reply: bool
) -> None:
    """A server that refuses it is passed over. Without a reply it may have stored the job: the error is reported."""
    right, tried = AsyncJobStore.submit, []

    async def submit(store: AsyncJobStore, job: NewJob, job_id: str) -> Submission:
        tried.append(job_id)
        if len(tried) > 1:
            return await right(store, job, job_id)
        cause = redis.exceptions.ReadOnlyError() if reply else redis.exceptions.ConnectionError()
        raise StoreUnavailable("") from cause

    monkeypatch.setattr(AsyncJobStore, "submit", submit)
    if not reply:
        with pytest.raises(StoreUnavailable):
            shards.submit()
        assert len(tried) == 1
        return
    submitted = shards.submit()
    assert [contract.server_of(job_id) for job_id in tried] == [0, 1]
    assert submitted.id == tried[1]
    assert shards.spread(3) == [0, 3], "it is not tried again for a second"
    assert next(iter(shards.servers)).up, "its jobs can be read"


def test_no_request_waits_for_a_server_that_hangs(open_shards: Open, settings: Settings) -> None:
    """Requests that have reached it end when a probe fails; those about all servers are answered by the others."""
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        server, socket = start_server(Path(name), "--save", "")
        try:
            shards = open_shards(url=f"{settings.redis_url} unix://{socket}")
            shards.probe()
            hanging = list(shards.servers)[1]

            async def hang() -> None:
                watch = asyncio.create_task(shards.servers.watch(hanging))
                stop(server.pid)
                began = time.monotonic()
                states, refused, submitted = await asyncio.gather(
                    shards.jobs.states(),
                    shards.jobs.get(contract.new_job_id(1)),
                    shards.jobs.submit(JOB, contract.new_job_id(1)),
                    return_exceptions=True,
                )
                assert isinstance(states, dict)
                assert (states[0] is not None, states[1]) == (True, None)
                assert isinstance(refused, StoreUnavailable)
                assert isinstance(submitted, Submission), "there was no connection yet: nothing had been sent"
                assert contract.server_of(submitted.id) == 0
                assert time.monotonic() - began < 6
                began = time.monotonic()
                assert (await shards.jobs.health())[1] is None
                made = await shards.jobs.submit(JOB, contract.new_job_id(1))
                assert contract.server_of(made.id) == 0
                assert time.monotonic() - began < 1, "now it is known"
                server.send_signal(signal.SIGCONT)
                await _eventually(lambda: hanging.up)
                assert None not in (await shards.jobs.health()).values()
                assert not hanging.requests
                watch.cancel()

            shards.run(hang())
        finally:
            server.kill()
            server.wait()


def test_a_request_is_ended_once_by_a_server_that_comes_and_goes(shards: Shards) -> None:
    """It may take a while to end: its connection is closed."""
    server = list(shards.servers)[1]

    async def request() -> None:
        async with shards.servers.using(server):
            try:
                await asyncio.sleep(10)
            finally:
                await asyncio.sleep(0.1)

    async def flap() -> None:
        requests = [asyncio.create_task(request()) for _ in range(2)]
        for up in (False, True, False):
            await asyncio.sleep(0.02)
            await _mark(shards, server, up=up)
        assert [type(end) for end in await asyncio.gather(*requests, return_exceptions=True)] == 2 * [StoreUnavailable]

    shards.run(flap())


def test_a_busy_gateway_does_not_take_its_servers_for_down(shards: Shards) -> None:
    """A probe does not wait for a free connection, for which hundreds of requests may be waiting."""

    async def probe_while_busy() -> None:
        pool = shards.clients[1].connection_pool
        taken = [await pool.get_connection() for _ in range(64)]
        await shards.servers.probe(list(shards.servers)[1])
        for connection in taken:
            await pool.release(connection)

    shards.run(probe_while_busy())
    assert [server.up for server in shards.servers] == [True, True]


@pytest.mark.slow
def test_a_server_comes_back_by_itself(open_shards: Open, settings: Settings) -> None:
    """Its jobs are found again, and it gets new ones."""
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        server, socket = start_server(Path(name), *durable)
        try:
            shards = open_shards(url=f"{settings.redis_url} unix://{socket}")
            shards.announce(0, "tiny")
            shards.announce(1, "tiny")
            shards.probe()
            assert shards.spread(4) == [2, 2]
            (job_id, _) = shards.stored(1)

            async def away() -> None:
                watches = [asyncio.create_task(shards.servers.watch(each)) for each in shards.servers]
                server.kill()
                server.wait()
                await _eventually(lambda: not list(shards.servers)[1].up)
                with pytest.raises(StoreUnavailable):
                    await shards.jobs.get(job_id)
                again, _ = start_server(Path(name), *durable)
                try:
                    await _eventually(lambda: list(shards.servers)[1].up)
                    assert (await shards.jobs.get(job_id)).status == "queued"
                    made = [await shards.jobs.submit(JOB) for _ in range(2)]
                    assert {contract.server_of(each.id) for each in made} == {0, 1}
                    for each in watches:
                        each.cancel()
                finally:
                    again.kill()
                    again.wait()

            shards.run(away())
        finally:
            server.kill()
            server.wait()


async def _eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.05)
