"""The kombu transport on a real Redis: queued ids are delivered several at a time, recorded, and acknowledged."""

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Queue

from shared.config.settings import Settings
from shared.contract import QUEUE, UNACKED, job_key, queue_key
from worker.queue.celery_app import make_celery
from worker.queue.transport import DELIVERED_AT_ONCE, RUNNABLE_SECONDS

CALLER = "net:one"


@pytest.fixture
def client(redis_socket: Path) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(redis_socket)) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def connection(redis_socket: Path) -> Iterator[Connection]:
    settings = Settings(redis_url=f"unix://{redis_socket}")
    with contextlib.closing(make_celery(settings)) as app, app.connection_for_read() as connection:
        connection.transport.brpop_timeout = 0.1  # 1 s by default, which each close of a channel waits for
        yield connection


class Inbox:
    """A consumer that keeps the messages it gets."""

    def __init__(self, connection: Connection, prefetch: int = 0) -> None:
        self.connection, self.messages = connection, []
        self.channel = connection.channel()
        self.consumer = Consumer(
            self.channel, [Queue(QUEUE)], callbacks=[lambda _body, message: self.messages.append(message)],
            prefetch_count=prefetch or None, accept=["json"],
        )  # fmt: skip
        self.consumer.consume()

    messages: list[Any]

    @property
    def ids(self) -> list[str]:
        return [message.headers["id"] for message in self.messages]

    def drain(self) -> None:
        """Receive everything that can be delivered now."""
        while True:
            try:
                self.connection.drain_events(timeout=0.3)
            except TimeoutError:
                return

    def disconnect(self) -> None:
        """As at the death of its process: it waits for no further message."""
        self.channel.client.connection.disconnect()
        self.connection.transport.cycle.discard(self.channel)


def ids(count: int, first: int = 0) -> list[str]:
    return [f"{number:032x}" for number in range(first, first + count)]


def send(
    client: redis.Redis,
    *job_ids: str,
    caller: str = CALLER,
    model: str = "tiny",
    seconds: float = 1.0,
    size: int = 1_000,
) -> None:
    """Queue jobs as the `submit` script does; `size` of the upload, in bytes."""
    for job_id in job_ids:
        audio = json.dumps({"duration": seconds, "bytes": size})
        client.hset(job_key(job_id), mapping={"model": model, "audio": audio})
        client.expire(job_key(job_id), 100)
        if client.lpush(queue_key(caller), job_id) == 1:
            client.lpush(QUEUE, caller)


def test_all_are_delivered_in_order_and_recorded(connection: Connection, client: redis.Redis) -> None:
    """Each id once, in the order in which they were queued, as a Celery message; all are recorded as unacknowledged."""
    sent = ids(3 * DELIVERED_AT_ONCE)
    send(client, *sent)
    inbox = Inbox(connection)
    inbox.drain()
    assert inbox.ids == sent
    options = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    assert [message.payload for message in inbox.messages] == [[[job_id], {}, options] for job_id in sent]
    assert set(client.zrange(UNACKED, 0, -1)) == {message.delivery_tag.encode() for message in inbox.messages}
    assert client.zcard(UNACKED) == len(sent)
    for message in inbox.messages:
        assert (message.delivery_info["exchange"], message.delivery_info["routing_key"]) == ("", QUEUE)
        assert message.properties["body_encoding"] == "base64"


@pytest.fixture
def grouping(redis_socket: Path) -> Iterator[Connection]:
    """A connection of a worker with two lanes."""
    settings = Settings(redis_url=f"unix://{redis_socket}")
    with contextlib.closing(make_celery(settings, lanes=2)) as app, app.connection_for_read() as connection:
        connection.transport.brpop_timeout = 0.1
        yield connection


def tags(inbox: Inbox) -> list[str]:
    return [message.delivery_tag for message in inbox.messages]


def test_short_jobs_of_a_delivery_share_messages(grouping: Connection, client: redis.Redis) -> None:
    """As many as there are lanes without work; while all have work, the next ones are in one message."""
    sent = ids(2 * DELIVERED_AT_ONCE)
    send(client, *sent)
    inbox = Inbox(grouping)
    inbox.drain()
    first, second = sent[:DELIVERED_AT_ONCE], sent[DELIVERED_AT_ONCE:]
    assert tags(inbox) == [" ".join(first[::2]), " ".join(first[1::2]), " ".join(second)]
    assert [message.payload[0] for message in inbox.messages] == [[tag] for tag in tags(inbox)]
    assert sorted(client.zrange(UNACKED, 0, -1)) == sorted(job_id.encode() for job_id in sent)


def test_long_and_redelivered_jobs_have_messages_of_their_own(grouping: Connection, client: redis.Redis) -> None:
    """Whatever is delivered with them."""
    short, again, long = ids(6), ids(1, 6)[0], ids(1, 7)[0]
    send(client, long, seconds=300)
    send(client, *short, caller="net:two")
    send(client, again, caller="net:three")
    client.lrem(queue_key("net:three"), 0, again)
    client.lrem(QUEUE, 0, "net:three")
    client.rpush(QUEUE, f"job:{again}")
    inbox = Inbox(grouping)
    inbox.drain()
    assert {again, long} < set(tags(inbox))
    assert sorted(" ".join(tags(inbox)).split()) == sorted([*short, again, long])


def test_room_is_counted_in_jobs(grouping: Connection, client: redis.Redis) -> None:
    """While groups run in all lanes, no smaller one is taken than has room; an acknowledged group makes that room."""
    sent = ids(30)
    send(client, *sent)
    inbox = Inbox(grouping, prefetch=20)
    inbox.drain()
    assert [len(tag.split()) for tag in tags(inbox)] == [4, 4, 8]
    assert client.zcard(UNACKED) == 16
    inbox.messages[2].ack()
    inbox.drain()
    assert [len(tag.split()) for tag in tags(inbox)] == [4, 4, 8, 8]


def test_a_part_of_a_message_is_acknowledged_and_the_rest_requeued(grouping: Connection, client: redis.Redis) -> None:
    """The leases of the rest are renewed until then."""
    sent = ids(6)
    send(client, *sent)
    inbox = Inbox(grouping)
    inbox.drain()
    qos, (first, second) = inbox.channel.qos, inbox.messages
    done, *rest = first.delivery_tag.split()
    qos.acknowledge(done)
    assert sorted(qos.held) == sorted([*rest, *second.delivery_tag.split()])
    assert client.zscore(UNACKED, done) is None
    for job_id in qos.held:
        client.zincrby(UNACKED, -5, job_id)
    qos.renew(client)
    assert client.zcard(UNACKED) == 5
    assert client.zcount(UNACKED, time.time() - 3, "+inf") == 5
    first.reject(requeue=True)
    second.ack()
    qos.acknowledge(done)
    assert client.zcard(UNACKED) == 0
    assert sorted(client.lrange(QUEUE, 0, -1)) == sorted(f"job:{job_id}".encode() for job_id in rest)


def test_no_more_is_taken_than_there_is_room_for(connection: Connection, client: redis.Redis) -> None:
    """The rest stays in the queue for another worker."""
    sent = ids(12)
    send(client, *sent)
    inbox = Inbox(connection, prefetch=5)
    inbox.drain()
    assert len(inbox.messages) == 5
    assert (client.llen(queue_key(CALLER)), client.zcard(UNACKED)) == (7, 5)
    for message in inbox.messages[:3]:
        message.ack()
    inbox.drain()
    assert inbox.ids == sent[:8]


def test_acknowledged_jobs_are_removed(connection: Connection, client: redis.Redis) -> None:
    """The others go back to the front of the queue when the worker closes its channel."""
    sent = ids(4)
    send(client, *sent)
    inbox = Inbox(connection)
    inbox.drain()
    inbox.messages[0].ack()
    inbox.messages[2].ack()
    assert client.zcard(UNACKED) == 2
    inbox.messages[1].reject(requeue=True)
    inbox.channel.close()
    assert (client.llen(QUEUE), client.zcard(UNACKED)) == (2, 0)
    again = Inbox(connection)
    again.drain()
    assert sorted(again.ids) == [sent[1], sent[3]]


def test_jobs_of_a_killed_worker_are_requeued(connection: Connection, client: redis.Redis) -> None:
    """All of them, once their leases have expired, before the jobs that were queued later, and as redelivered."""
    *sent, later = ids(DELIVERED_AT_ONCE + 1)
    send(client, *sent)
    dead = Inbox(connection)
    dead.drain()
    send(client, later)
    assert client.llen(queue_key(CALLER)) == 1
    dead.disconnect()
    for message in dead.messages:
        client.zincrby(UNACKED, -2 * dead.channel.visibility_timeout, message.delivery_tag)
    heir = Inbox(connection)
    heir.channel.qos.restore_visible()
    assert (client.llen(QUEUE), client.zcard(UNACKED)) == (DELIVERED_AT_ONCE + 1, 0)
    heir.drain()
    assert sorted(heir.ids[:-1]) == sent
    assert heir.ids[-1] == later
    redelivered = [message.delivery_info.get("redelivered", False) for message in heir.messages]
    assert redelivered == [True] * DELIVERED_AT_ONCE + [False]


def test_leases_survive_a_clock_that_steps_back(connection: Connection, client: redis.Redis) -> None:
    """The last renewal of a dead worker is in the future then; its job is delivered again after the usual time."""
    dead = Inbox(connection)
    send(client, *ids(1))
    dead.drain()
    client.zincrby(UNACKED, 3_600, ids(1)[0])
    dead.disconnect()
    inbox = Inbox(connection)
    inbox.channel.requeue()
    lease = client.zscore(UNACKED, ids(1)[0])
    assert lease is not None
    assert abs(lease - client.time()[0]) < 5  # type: ignore[index]
    client.zincrby(UNACKED, -2 * inbox.channel.visibility_timeout, ids(1)[0])
    inbox.channel.requeue()
    inbox.drain()
    assert inbox.ids == ids(1)


def test_a_waiting_worker_holds_nothing(connection: Connection, client: redis.Redis) -> None:
    """A worker that is killed or stopped while it waits for the queue loses no job."""
    waiting = Inbox(connection)
    waiting.drain()  # its first BLMOVE has timed out
    poller = connection.transport.cycle
    poller.on_poll_start()  # sends the next one
    assert waiting.channel._in_poll
    (sent,) = ids(1)
    send(client, sent)
    assert (client.llen(queue_key(CALLER)), client.zcard(UNACKED)) == (1, 0), "BLMOVE has been answered, nothing taken"
    waiting.disconnect()
    other = Inbox(connection)
    other.drain()
    assert other.ids == [sent]


def test_callers_take_turns(connection: Connection, client: redis.Redis) -> None:
    """Each caller's jobs are delivered in order, and one with many queued jobs delays no other."""
    queues = {"net:many": ids(20), "key:few": ids(2, 100), "net:one": ids(1, 200)}
    for caller, job_ids in queues.items():
        send(client, *job_ids, caller=caller)
    inbox = Inbox(connection)
    inbox.drain()
    many, few, (one,) = queues.values()
    assert inbox.ids[:6] == [many[0], few[0], one, many[1], few[1], many[2]]
    assert [job_id for job_id in inbox.ids if job_id in many] == many
    left = {key: client.ttl(key) for key in client.scan_iter() if not key.startswith(b"otoscope:job:")}
    assert set(left) == {UNACKED.encode()}
    assert min(left.values()) > 0


def test_a_worker_gets_the_jobs_of_its_models(connection: Connection, client: redis.Redis) -> None:
    """The others keep their places for a worker that serves their model, requeued ones included."""
    ours, others, mixed = ids(4), ids(3, 100), ids(2, 200)
    send(client, *others, caller="key:others", model="other")
    send(client, mixed[0], caller="key:mixed", model="other")
    send(client, mixed[1], *ours, caller="key:mixed", model="tiny")
    client.rpush(QUEUE, f"job:{others[0]}")
    queues = {key: client.lrange(key, 0, -1) for key in (QUEUE, queue_key("key:others"))}
    served = ["tiny"]
    inbox = Inbox(connection)
    inbox.channel.served_models = lambda: served
    inbox.drain()
    assert inbox.ids == [mixed[1], *ours]
    assert {key: client.lrange(key, 0, -1) for key in queues} == queues
    served.append("other")
    inbox.drain()
    assert inbox.ids[5:] == [others[0], others[0], mixed[0], *others[1:]]


def test_a_cancelled_job_leaves_the_queue_whatever_its_model(connection: Connection, client: redis.Redis) -> None:
    """It is delivered to be skipped: its model may never be served again."""
    (cancelled,) = ids(1)
    send(client, cancelled, model="other", seconds=600)
    client.hset(job_key(cancelled), "status", "cancelled")
    inbox = Inbox(connection)
    inbox.channel.served_models = lambda: ["tiny"]
    inbox.drain()
    assert inbox.ids == [cancelled]
    assert client.exists(QUEUE, queue_key(CALLER)) == 0


def test_a_worker_has_a_limited_amount_of_sound(connection: Connection, client: redis.Redis) -> None:
    """Further long sounds wait for a worker with room, in their order; short ones do not wait for them."""
    long, later, short = ids(4), ids(1, 100), ids(3, 200)
    send(client, *long, caller="key:long", seconds=600)
    send(client, *later, caller="key:later", seconds=200)
    send(client, *short, caller="key:short", seconds=5)
    inbox = Inbox(connection)
    inbox.channel.max_sound_in_flight = 1_300
    inbox.drain()
    assert inbox.ids == [long[0], later[0], *short]
    for message in inbox.messages[:2]:
        message.ack()
    inbox.drain()
    assert inbox.ids[5:] == long[1:3]


@pytest.mark.parametrize(("seconds", "size"), [(7_200, 1_000), (None, 1_000), (1, 40 * 2**20)])
def test_sounds_that_take_much_memory(connection: Connection, client: redis.Redis, seconds: Any, size: int) -> None:
    """A longer sound, one of unknown length and a large upload count as ten minutes."""
    send(client, *ids(3), seconds=seconds, size=size)
    inbox = Inbox(connection)
    inbox.channel.max_sound_in_flight = 1_300
    inbox.drain()
    assert inbox.ids == ids(2)


def test_a_worker_that_can_run_no_queued_job_asks_rarely(connection: Connection, client: redis.Redis) -> None:
    """The queue is not empty, so that BLMOVE is answered at once."""
    send(client, *ids(3), model="other")
    inbox = Inbox(connection)
    inbox.channel.served_models = lambda: ["tiny"]
    before = client.info("commandstats")["cmdstat_blmove"]["calls"]
    began = time.monotonic()
    for _ in range(4):
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=0.02)
    calls = client.info("commandstats")["cmdstat_blmove"]["calls"] - before
    assert calls <= (time.monotonic() - began) / RUNNABLE_SECONDS + 2


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages without their reasons."""
    return [message.partition(":")[0] for message in caplog.messages]


@pytest.mark.slow
def test_delivery_goes_on_at_the_memory_limit(
    connection: Connection, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs are delivered and acknowledged: that is what frees memory. It is logged once, and once when it is over."""
    caplog.set_level(logging.INFO, "worker")
    sent = ids(3)
    send(client, *sent)
    inbox = Inbox(connection)
    before = client.config_get("maxmemory")["maxmemory"]
    client.config_set("maxmemory", 1)
    try:
        inbox.drain()
        assert inbox.ids == sent
        for message in inbox.messages:
            message.ack()
        assert client.zcard(UNACKED) == 0
        for _ in range(3):
            inbox.drain()
    finally:
        client.config_set("maxmemory", before)
    for _ in range(2):  # the first one may receive a refusal that was sent before
        inbox.drain()
    assert logged(caplog) == ["Redis cannot serve the queue now", "Redis serves the queue again"]


@pytest.mark.slow
def test_a_server_that_cannot_write_blocks_no_place(
    connection: Connection, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a full disk: jobs that are acknowledged or rejected meanwhile occupy no place in the worker, and the
    acknowledgements are sent later. It is logged once, and once when it is over."""
    caplog.set_level(logging.INFO, "worker")
    sent = ids(4)
    send(client, *sent)
    inbox = Inbox(connection, prefetch=3)
    inbox.drain()
    done, back, kept = inbox.messages
    client.replicaof("127.0.0.1", "1")  # a replica takes no writes
    try:
        done.ack()
        back.reject(requeue=True)
        for _ in range(3):
            inbox.drain()
        assert inbox.channel.qos.can_consume_max_estimate() == 2
        assert client.zcard(UNACKED) == 3
    finally:
        client.replicaof("NO", "ONE")
    inbox.channel.qos.flush_acks()
    inbox.channel.qos.renew(client)
    assert set(client.zrange(UNACKED, 0, -1)) == {tag.encode() for tag in (back.delivery_tag, kept.delivery_tag)}
    client.zincrby(UNACKED, -2 * inbox.channel.visibility_timeout, back.delivery_tag)
    inbox.channel.qos.renew(client)
    inbox.channel.qos.restore_visible()
    for _ in range(2):  # the first one may receive a refusal that the server sent as a replica
        inbox.drain()
    assert inbox.ids == [*sent[:3], sent[1], sent[3]]
    begin, again, end = logged(caplog)
    assert (begin, end) == ("Redis cannot serve the queue now", "Redis serves the queue again")
    assert again == "1 jobs are delivered again"
