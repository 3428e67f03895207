"""The store when Redis is away, slow to come back, silent or crowded."""

import asyncio
import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from otoscope.errors import JobNotFound, OtoscopeError, StoreUnavailable
from otoscope.types import JobOptions, ModelCard, Timings
from shared import contract
from shared.config.settings import Settings
from shared.contract import CHANGES
from shared.jobs import AsyncJobStore, JobStore
from shared.jobs.records import Announcement, Refused
from shared.redis_client.connection import connect, connect_async
from tests.conftest import start_server
from tests.shared.conftest import AUDIO, Stores
from tests.support.process_tree import until


class OwnServer:
    """A server that the test may kill and start again; it keeps what it was told."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.settings = Settings(redis_url=f"unix://{directory / 'redis.sock'}")
        self.start()

    def start(self) -> None:
        self._process, _ = start_server(self._directory, "--appendonly", "yes", "--appendfsync", "always")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server() -> Iterator[OwnServer]:
    with tempfile.TemporaryDirectory(prefix="oto") as name:
        own = OwnServer(Path(name))
        yield own
        own.kill()


def test_the_gateway_is_told_soon_that_redis_is_gone(server: OwnServer) -> None:
    """Every call ends in StoreUnavailable with a time to come back, and ping is just False."""

    async def use() -> None:
        async with connect_async(server.settings) as client:
            store = AsyncJobStore(client, server.settings)
            assert await store.ping()
            job_id = (await store.submit("tiny", JobOptions(), AUDIO, b"sound")).id
            await store.load()
            server.kill()
            calls: list[Callable[[], object]] = [
                lambda: store.submit("tiny", JobOptions(), AUDIO, b"sound"),
                lambda: store.get(job_id),
                lambda: store.result(job_id),
                lambda: store.cancel(job_id),
                lambda: store.follow(job_id, "0-0"),
                lambda: store.watch(lambda job, status: None),
                store.load,
                store.workers,
                store.cards,
                store.reap,
            ]
            for call in calls:
                began = time.monotonic()
                with pytest.raises(StoreUnavailable) as lost:
                    await call()  # type: ignore[misc]
                assert lost.value.retry_after == 2
                assert time.monotonic() - began < 5
            assert not await store.ping()

    asyncio.run(use())


def test_the_worker_is_told_that_redis_is_gone(server: OwnServer) -> None:
    """Every call of the worker's half ends in StoreUnavailable once its patience is over."""
    with redis.Redis.from_url(server.settings.redis_url) as impatient:
        store = JobStore(impatient, server.settings)
        server.kill()
        calls: list[Callable[[], object]] = [
            lambda: store.start("a", "w"),
            lambda: store.succeed("a", b"", Timings()),
            lambda: store.fail("a", JobNotFound("a")),
            lambda: store.cancelled(["a"]),
            lambda: store.announce(Announcement("w"), {}, 5),
            lambda: store.retract("w"),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailable):
                call()


def test_a_server_that_is_busy_is_one_that_cannot_now(server: OwnServer) -> None:
    """With a script of somebody's that does not end: an answer that asks to come back, and no bug."""

    def busy() -> bool:
        with redis.Redis.from_url(server.settings.redis_url) as asking:
            try:
                return not asking.ping()
            except redis.ResponseError as error:
                return str(error).startswith("BUSY")

    async def look() -> None:
        async with connect_async(server.settings) as client:
            await AsyncJobStore(client, server.settings).load()

    with redis.Redis.from_url(server.settings.redis_url) as other:
        other.config_set("busy-reply-threshold", 50)

        def hold_up() -> None:
            with contextlib.suppress(redis.ResponseError):  # it is killed in the end
                other.eval("while true do end", 0)

        endless = threading.Thread(target=hold_up)
        endless.start()
        try:
            until(busy)
            with pytest.raises(StoreUnavailable):
                asyncio.run(look())
        finally:
            with redis.Redis.from_url(server.settings.redis_url) as killer:
                killer.script_kill()
            endless.join()


def test_the_worker_outlasts_a_restart_of_redis(server: OwnServer) -> None:
    """A result that is stored while Redis restarts is stored when it is back."""

    async def submit() -> str:
        async with connect_async(server.settings) as client:
            return (await AsyncJobStore(client, server.settings).submit("tiny", JobOptions(), AUDIO, b"sound")).id

    job_id = asyncio.run(submit())
    with connect(server.settings) as client:
        store = JobStore(client, server.settings)
        store.start(job_id, "w1")
        server.kill()
        back = threading.Timer(0.3, server.start)
        back.start()
        assert store.succeed(job_id, b"result", Timings())
        back.join()
        assert store.start(job_id, "w1") == Refused("finished")


def test_a_watcher_survives_silence(settings: Settings) -> None:
    """Hours without a change are no lost connection; the next change is still heard."""
    heard: list[tuple[str | None, str]] = []

    async def use() -> None:
        async with connect_async(settings) as client:
            client.connection_pool.connection_kwargs["socket_timeout"] = 0.2
            store = AsyncJobStore(client, settings)
            watching = asyncio.create_task(store.watch(lambda *news: heard.append(news)))
            while not heard:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.6)
            await client.publish(CHANGES, "job running")
            while len(heard) < 2:
                assert not watching.done(), watching.exception()
                await asyncio.sleep(0.01)
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    asyncio.run(asyncio.wait_for(use(), 20))
    assert heard == [(None, ""), ("job", "running")]


def test_a_watcher_hears_every_change(stores: Stores) -> None:
    """First None, since some may have been missed, then the id of each job that changes and what it has become."""
    heard: list[tuple[str | None, str]] = []

    async def use() -> list[str]:
        watching = asyncio.create_task(stores.gateway.watch(lambda *news: heard.append(news)))
        while not heard:
            await asyncio.sleep(0.01)
        job_ids = [(await stores.gateway.submit("tiny", JobOptions(), AUDIO, b"sound")).id for _ in range(3)]
        for job_id in job_ids[:2]:
            await asyncio.to_thread(stores.start, job_id)
        await asyncio.to_thread(stores.succeed, job_ids[0])
        await asyncio.to_thread(stores.worker.fail, job_ids[1], JobNotFound("no"))
        for job_id in (job_ids[0], job_ids[2]):
            await stores.gateway.cancel(job_id)
        while len(heard) < 7:
            await asyncio.sleep(0.01)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        return job_ids

    first, second, third = stores.run(asyncio.wait_for(use(), 20))
    assert heard == [
        (None, ""), (first, "running"), (second, "running"), (first, "succeeded"), (second, "failed"),
        (first, "forgotten"), (third, "cancelled"),
    ]  # fmt: skip


def test_a_watcher_that_was_cut_off_is_told_to_look_again(stores: Stores) -> None:
    """Whether its connection is renewed by redis-py or by us: what was published meanwhile was heard by nobody."""
    heard: list[tuple[str | None, str]] = []

    async def use() -> None:
        watching = asyncio.create_task(stores.gateway.watch(lambda *news: heard.append(news)))
        for times in range(1, 4):
            while len(heard) < times:
                assert not watching.done(), watching.exception()
                await asyncio.sleep(0.01)
            assert stores.raw.client_kill_filter(_type="pubsub") == 1
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    stores.run(asyncio.wait_for(use(), 20))
    assert heard == [(None, "")] * 3


def test_more_callers_than_connections_wait_their_turn(settings: Settings) -> None:
    """A thousand readers at once are answered, not turned away."""

    async def use() -> list[OtoscopeError]:
        async with connect_async(settings) as client:
            store = AsyncJobStore(client, settings)
            answers = await asyncio.gather(*(store.get(f"{n:032x}") for n in range(1_000)), return_exceptions=True)
            return [answer for answer in answers if isinstance(answer, OtoscopeError)]

    answers = asyncio.run(use())
    assert {type(answer) for answer in answers} == {JobNotFound}
    assert len(answers) == 1_000


def _card(name: str) -> ModelCard:
    return ModelCard(
        name=name, description="", classes=["dog"], sample_rate=16_000, window_seconds=1, architecture={}, frontend={},
        parameters=1, layers=[], accuracy=[], licence="", version="1",
    )  # fmt: skip


def test_workers_count_as_long_as_they_vouch(stores: Stores) -> None:
    """One that retracts or falls silent is not listed; the cards stay for those who come back."""
    card = _card("tiny")
    stores.worker.announce(Announcement("silent", ["tiny"], 3), {"tiny": card}, 3)
    stores.worker.announce(Announcement("leaving", ["tiny"]), {"tiny": card}, 30)
    stores.worker.announce(Announcement("staying", ["tiny"], 2), {"tiny": card}, 30)
    assert {worker.id for worker in stores.run(stores.gateway.workers())} == {"silent", "leaving", "staying"}
    stores.worker.retract("leaving")
    until(lambda: stores.run(stores.gateway.workers()) == [Announcement("staying", ["tiny"], 2)])
    stores.worker.retract("staying")
    assert stores.run(stores.gateway.workers()) == []
    assert stores.run(stores.gateway.cards()) == {"tiny": card}


def test_a_model_that_is_not_served_any_more_is_not_listed(stores: Stores) -> None:
    """Its card goes, the others stay, and so does the worker."""
    stores.worker.announce(Announcement("w1", ["a", "b"]), {"a": _card("a"), "b": _card("b")}, 30)
    stores.worker.withdraw_models(["a"])
    assert set(stores.run(stores.gateway.cards())) == {"b"}
    assert [worker.id for worker in stores.run(stores.gateway.workers())] == ["w1"]


def test_a_card_lasts_a_day_after_its_last_word(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long other workers, of other models, go on announcing theirs."""
    monkeypatch.setattr(contract, "LISTS_TTL", 2)
    stores.worker.announce(Announcement("gone", ["a"]), {"a": _card("a")}, 1)
    for _ in range(4):
        stores.worker.announce(Announcement("here", ["b"]), {"b": _card("b")}, 1)
        time.sleep(1)
    assert set(stores.run(stores.gateway.cards())) == {"b"}


def test_a_card_that_cannot_be_read_hides_no_other(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    """A newer worker may say what is not known here; it is told once."""
    stores.worker.announce(Announcement("w1", ["a", "b"]), {"a": _card("a"), "b": _card("b")}, 30)
    stores.raw.hset(contract.MODELS, "a", json.dumps({**_card("a").model_dump(), "classes": "from A to Z"}))
    for _ in range(2):
        assert set(stores.run(stores.gateway.cards())) == {"b"}
    assert [record.message for record in caplog.records].count("the card of model a cannot be read here") == 1


def test_announcements_expire(stores: Stores, redis_keys: Callable[[], set[bytes]]) -> None:
    """Nothing that a worker says of itself stays for ever."""
    stores.worker.announce(Announcement("w1", ["a"]), {"a": _card("a")}, 30)
    assert all(stores.raw.ttl(key) > 0 for key in redis_keys())
