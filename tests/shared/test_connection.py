"""The job stores while Redis is down, restarts, is silent or has more callers than connections."""

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
from shared.jobs.records import NewJob, SkippedJob, WorkerHeartbeat
from shared.redis_client.connection import connect, connect_async
from tests.conftest import start_server
from tests.shared.conftest import AUDIO, Stores
from tests.support.process_tree import until


class OwnServer:
    """A server with persistence that the test may kill and start again."""

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


def test_gateway_calls_fail_soon_when_redis_is_down(server: OwnServer) -> None:
    """Every call raises StoreUnavailable with `retry_after`, and `ping` returns False."""

    async def use() -> None:
        async with connect_async(server.settings) as client:
            store = AsyncJobStore(client, server.settings)
            assert await store.ping()
            job_id = (await store.submit(NewJob("tiny", JobOptions(), AUDIO, b"sound"))).id
            await store.load()
            server.kill()
            calls: list[Callable[[], object]] = [
                lambda: store.submit(NewJob("tiny", JobOptions(), AUDIO, b"sound")),
                lambda: store.get(job_id),
                lambda: store.result(job_id),
                lambda: store.cancel(job_id),
                lambda: store.events_since(job_id, "0-0"),
                lambda: store.subscribe(lambda job, status: None),
                store.load,
                store.workers,
                store.cards,
                store.expire_overdue,
            ]
            for call in calls:
                began = time.monotonic()
                with pytest.raises(StoreUnavailable) as lost:
                    await call()  # type: ignore[misc]
                assert lost.value.retry_after == 2
                assert time.monotonic() - began < 5
            assert not await store.ping()

    asyncio.run(use())


def test_worker_calls_fail_when_redis_is_down(server: OwnServer) -> None:
    """Every call of the worker's store raises StoreUnavailable once its retries are over."""
    with redis.Redis.from_url(server.settings.redis_url) as client:
        store = JobStore(client, server.settings)
        server.kill()
        calls: list[Callable[[], object]] = [
            lambda: store.claim("a", "w"),
            lambda: store.succeed("a", b"", Timings()),
            lambda: store.fail("a", JobNotFound("a")),
            lambda: store.no_longer_running(["a"]),
            lambda: store.heartbeat(WorkerHeartbeat("w"), {}, 5),
            lambda: store.deregister("w"),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailable):
                call()


def test_a_busy_server_is_a_temporary_error(server: OwnServer) -> None:
    """While another client's script does not end, callers get an error to retry, not an internal error."""

    def busy() -> bool:
        with redis.Redis.from_url(server.settings.redis_url) as asking:
            try:
                return not asking.ping()
            except redis.ResponseError as error:
                return str(error).startswith("BUSY")

    async def load() -> None:
        async with connect_async(server.settings) as client:
            await AsyncJobStore(client, server.settings).load()

    with redis.Redis.from_url(server.settings.redis_url) as other:
        other.config_set("busy-reply-threshold", 50)

        def run_endless_script() -> None:
            with contextlib.suppress(redis.ResponseError):  # SCRIPT KILL ends it
                other.eval("while true do end", 0)

        endless = threading.Thread(target=run_endless_script)
        endless.start()
        try:
            until(busy)
            with pytest.raises(StoreUnavailable):
                asyncio.run(load())
        finally:
            with redis.Redis.from_url(server.settings.redis_url) as killer:
                killer.script_kill()
            endless.join()


def test_the_worker_outlasts_a_restart_of_redis(server: OwnServer) -> None:
    """A result that is written during a restart of Redis is stored once Redis is back."""

    async def submit() -> str:
        async with connect_async(server.settings) as client:
            job = NewJob("tiny", JobOptions(), AUDIO, b"sound")
            return (await AsyncJobStore(client, server.settings).submit(job)).id

    job_id = asyncio.run(submit())
    with connect(server.settings) as client:
        store = JobStore(client, server.settings)
        store.claim(job_id, "w1")
        server.kill()
        back = threading.Timer(0.3, server.start)
        back.start()
        assert store.succeed(job_id, b"result", Timings())
        back.join()
        assert store.claim(job_id, "w1") == SkippedJob("finished")


def test_a_subscriber_survives_silence(settings: Settings) -> None:
    """Hours without a message do not count as a lost connection; the next message is received."""
    received: list[tuple[str | None, str]] = []

    async def use() -> None:
        async with connect_async(settings) as client:
            client.connection_pool.connection_kwargs["socket_timeout"] = 0.2
            store = AsyncJobStore(client, settings)
            subscription = asyncio.create_task(store.subscribe(lambda *change: received.append(change)))
            while not received:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.6)
            await client.publish(CHANGES, "job running")
            while len(received) < 2:
                assert not subscription.done(), subscription.exception()
                await asyncio.sleep(0.01)
            subscription.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await subscription

    asyncio.run(asyncio.wait_for(use(), 20))
    assert received == [(None, ""), ("job", "running")]


def test_a_subscriber_receives_every_change(stores: Stores) -> None:
    """First None, since changes before the subscription were missed, then id and new status of each job that
    changes."""
    received: list[tuple[str | None, str]] = []

    async def use() -> list[str]:
        subscription = asyncio.create_task(stores.gateway.subscribe(lambda *change: received.append(change)))
        while not received:
            await asyncio.sleep(0.01)
        job_ids = [(await stores.gateway.submit(NewJob("tiny", JobOptions(), AUDIO, b"sound"))).id for _ in range(3)]
        for job_id in job_ids[:2]:
            await asyncio.to_thread(stores.claim, job_id)
        await asyncio.to_thread(stores.succeed, job_ids[0])
        await asyncio.to_thread(stores.worker.fail, job_ids[1], JobNotFound("no"))
        for job_id in (job_ids[0], job_ids[2]):
            await stores.gateway.cancel(job_id)
        while len(received) < 7:
            await asyncio.sleep(0.01)
        subscription.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await subscription
        return job_ids

    first, second, third = stores.run(asyncio.wait_for(use(), 20))
    assert received == [
        (None, ""), (first, "running"), (second, "running"), (first, "succeeded"), (second, "failed"),
        (first, "forgotten"), (third, "cancelled"),
    ]  # fmt: skip


def test_a_subscriber_that_was_disconnected_gets_none_again(stores: Stores) -> None:
    """Whether redis-py or we reconnect: what was published meanwhile is lost, and None means that."""
    received: list[tuple[str | None, str]] = []

    async def use() -> None:
        subscription = asyncio.create_task(stores.gateway.subscribe(lambda *change: received.append(change)))
        for times in range(1, 4):
            while len(received) < times:
                assert not subscription.done(), subscription.exception()
                await asyncio.sleep(0.01)
            assert stores.raw.client_kill_filter(_type="pubsub") == 1
        subscription.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await subscription

    stores.run(asyncio.wait_for(use(), 20))
    assert received == [(None, "")] * 3


def test_more_callers_than_connections_wait_their_turn(settings: Settings) -> None:
    """A thousand concurrent callers are all served."""

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


@pytest.mark.slow
def test_workers_are_listed_while_they_send_heartbeats(stores: Stores) -> None:
    """One that deregisters or stops sending heartbeats is not listed; the model cards stay."""
    card = _card("tiny")
    stores.worker.heartbeat(WorkerHeartbeat("silent", ["tiny"], 3), {"tiny": card}, 3)
    stores.worker.heartbeat(WorkerHeartbeat("leaving", ["tiny"]), {"tiny": card}, 30)
    stores.worker.heartbeat(WorkerHeartbeat("staying", ["tiny"], 2), {"tiny": card}, 30)
    assert {worker.id for worker in stores.run(stores.gateway.workers())} == {"silent", "leaving", "staying"}
    stores.worker.deregister("leaving")
    until(lambda: stores.run(stores.gateway.workers()) == [WorkerHeartbeat("staying", ["tiny"], 2)])
    stores.worker.deregister("staying")
    assert stores.run(stores.gateway.workers()) == []
    assert stores.run(stores.gateway.cards()) == {"tiny": card}


def test_a_removed_model_is_not_listed(stores: Stores) -> None:
    """Its card is removed; other cards and the worker stay."""
    stores.worker.heartbeat(WorkerHeartbeat("w1", ["a", "b"]), {"a": _card("a"), "b": _card("b")}, 30)
    stores.worker.remove_models(["a"])
    assert set(stores.run(stores.gateway.cards())) == {"b"}
    assert [worker.id for worker in stores.run(stores.gateway.workers())] == ["w1"]


@pytest.mark.slow
def test_a_card_expires_after_its_last_heartbeat(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a worker of other models sends one: while there is no worker, models stay."""
    monkeypatch.setattr(contract, "MODEL_TTL", 2)
    stores.worker.heartbeat(WorkerHeartbeat("gone", ["a"]), {"a": _card("a")}, 1)
    time.sleep(3.1)
    assert set(stores.run(stores.gateway.cards())) == {"a"}
    for _ in range(2):
        stores.worker.heartbeat(WorkerHeartbeat("here", ["b"]), {"b": _card("b")}, 1)
        time.sleep(1)
    assert set(stores.run(stores.gateway.cards())) == {"b"}


def test_an_unreadable_card_does_not_hide_others(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    """A newer worker may write an unknown form of a card; that is logged once."""
    stores.worker.heartbeat(WorkerHeartbeat("w1", ["a", "b"]), {"a": _card("a"), "b": _card("b")}, 30)
    stores.raw.hset(contract.MODELS, "a", json.dumps({**_card("a").model_dump(), "classes": "from A to Z"}))
    for _ in range(2):
        assert set(stores.run(stores.gateway.cards())) == {"b"}
    messages = [record.message for record in caplog.records]
    assert messages.count("the card of model a cannot be read by this version") == 1


def test_heartbeats_expire(stores: Stores, redis_keys: Callable[[], set[bytes]]) -> None:
    """Every key that a heartbeat writes has a TTL."""
    stores.worker.heartbeat(WorkerHeartbeat("w1", ["a"]), {"a": _card("a")}, 30)
    assert all(stores.raw.ttl(key) > 0 for key in redis_keys())
