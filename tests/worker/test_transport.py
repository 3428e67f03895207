"""kombu's Redis transport as the worker uses it, on a real Redis: what waits is taken along, booked, struck off."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Queue

from shared.config.redis_url import parse
from shared.contract import line_key
from worker.queue.transport import TAKEN, Transport

QUEUE = Queue("taken")


@pytest.fixture
def client(redis_socket: Path) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(redis_socket)) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def connection(redis_socket: Path) -> Iterator[Connection]:
    address = parse(f"unix://{redis_socket}")
    with Connection(address.told, transport=Transport, transport_options={"address": address}) as connection:
        connection.transport_cls = Transport
        yield connection


class Inbox:
    """A consumer that keeps what it gets."""

    def __init__(self, connection: Connection, prefetch: int = 0) -> None:
        self.connection, self.messages = connection, []
        self.channel = connection.channel()
        self.consumer = Consumer(
            self.channel, [QUEUE], callbacks=[lambda _body, message: self.messages.append(message)],
            prefetch_count=prefetch or None, accept=["json"],
        )  # fmt: skip
        self.consumer.consume()

    messages: list[Any]

    def drain(self) -> None:
        """Everything that can be had now."""
        while True:
            try:
                self.connection.drain_events(timeout=0.3)
            except TimeoutError:
                return

    def hang_up(self) -> None:
        """As its end would: it waits for the next message no more."""
        self.channel.client.connection.disconnect()
        self.connection.transport.cycle.discard(self.channel)


def send(connection: Connection, *bodies: object) -> None:
    with connection.Producer(connection.channel()) as producer:
        for body in bodies:
            producer.publish(body, routing_key="taken", declare=[QUEUE], serializer="json")


def test_all_are_delivered_in_order_and_booked(connection: Connection, client: redis.Redis) -> None:
    """Each once, as they were sent, empty lists and all; what is booked is what kombu would give back."""
    sent = [{"n": n, "empty": [], "none": None, "text": 'ä\u2028"'} for n in range(3 * TAKEN)]
    send(connection, *sent)
    inbox = Inbox(connection)
    inbox.drain()
    assert [message.payload for message in inbox.messages] == sent
    booked = client.hgetall("unacked")
    assert set(booked) == {message.delivery_tag.encode() for message in inbox.messages}
    assert client.zcard("unacked_index") == len(sent)
    for stored in booked.values():
        raw, exchange, key = json.loads(stored)
        assert (exchange, key) == ("", "taken")
        assert raw["properties"]["body_encoding"] == "base64"


def test_no_more_is_taken_than_there_is_room_for(connection: Connection, client: redis.Redis) -> None:
    """The rest stays in the queue for another worker."""
    send(connection, *range(12))
    inbox = Inbox(connection, prefetch=5)
    inbox.drain()
    assert len(inbox.messages) == 5
    assert (client.llen("taken"), client.hlen("unacked")) == (7, 5)
    for message in inbox.messages[:3]:
        message.ack()
    inbox.drain()
    assert [message.payload for message in inbox.messages] == list(range(8))


def test_what_is_acknowledged_is_struck_off(connection: Connection, client: redis.Redis) -> None:
    """And what is not goes back to the front of its queue when the worker closes its channel."""
    send(connection, *range(4))
    inbox = Inbox(connection)
    inbox.drain()
    inbox.messages[0].ack()
    inbox.messages[2].ack()
    assert client.hlen("unacked") == 2
    inbox.messages[1].reject(requeue=True)
    inbox.channel.close()
    assert (client.llen("taken"), client.hlen("unacked"), client.zcard("unacked_index")) == (2, 0, 0)
    again = Inbox(connection)
    again.drain()
    assert sorted(message.payload for message in again.messages) == [1, 3]


def test_what_a_killed_worker_had_taken_comes_back(connection: Connection, client: redis.Redis) -> None:
    """All of it, as it was, once its books are older than the visibility timeout, and before what came later."""
    sent = [{"n": n, "empty": []} for n in range(TAKEN)]
    send(connection, *sent)
    dead = Inbox(connection)
    dead.drain()
    send(connection, "later")
    assert client.llen("taken") == 1
    dead.hang_up()
    for message in dead.messages:
        client.zincrby("unacked_index", -2 * dead.channel.visibility_timeout, message.delivery_tag)
    heir = Inbox(connection)
    heir.channel.qos.restore_visible()
    assert (client.llen("taken"), client.hlen("unacked")) == (TAKEN + 1, 0)
    heir.drain()
    got = [message.payload for message in heir.messages]
    assert sorted(got[:-1], key=lambda body: int(body["n"])) == sent
    assert got[-1] == "later"


def test_who_waits_holds_nothing(connection: Connection, client: redis.Redis) -> None:
    """A worker that is killed or stopped while it waits for the queue takes no message with it."""
    waiting = Inbox(connection)
    waiting.drain()  # it has asked, and been told that there is nothing
    poller = connection.transport.cycle
    poller.on_poll_start()  # and asks again
    assert waiting.channel._in_poll
    send(connection, "one")
    assert (client.llen("taken"), client.hlen("unacked")) == (1, 0), "it has been told, and not taken it"
    waiting.hang_up()
    other = Inbox(connection)
    other.drain()
    assert [message.payload for message in other.messages] == ["one"]


def test_callers_take_turns(connection: Connection, client: redis.Redis) -> None:
    """Each gets its own in order; one that has much waiting holds up nobody else."""
    lines = {"net:many": [f"many {n}" for n in range(20)], "key:few": ["few 0", "few 1"], "net:one": ["one 0"]}
    for caller, bodies in lines.items():
        send(connection, *bodies)
        while (raw := client.rpop("taken")) is not None:
            client.lpush(line_key(caller), raw)
    client.lpush("taken", *lines)
    inbox = Inbox(connection)
    inbox.drain()
    got = [message.payload for message in inbox.messages]
    assert got[:6] == ["many 0", "few 0", "one 0", "many 1", "few 1", "many 2"]
    assert [body for body in got if body.startswith("many")] == lines["net:many"]
    left = {key: client.ttl(key) for key in client.scan_iter()}
    assert set(left) == {b"unacked", b"unacked_index"}
    assert min(left.values()) > 0


def test_nothing_stops_at_the_memory_limit(connection: Connection, client: redis.Redis) -> None:
    """What waits is taken, and what is taken is struck off: that is what makes room."""
    send(connection, *range(3))
    inbox = Inbox(connection)
    before = client.config_get("maxmemory")["maxmemory"]
    client.config_set("maxmemory", 1)
    try:
        inbox.drain()
        assert [message.payload for message in inbox.messages] == [0, 1, 2]
        for message in inbox.messages:
            message.ack()
        assert client.hlen("unacked") == 0
    finally:
        client.config_set("maxmemory", before)


def test_a_server_that_cannot_write_keeps_nothing_in_hand(connection: Connection, client: redis.Redis) -> None:
    """As with a full disk: what is done or given back meanwhile holds no place, and is settled when it can be."""
    send(connection, *range(4))
    inbox = Inbox(connection, prefetch=3)
    inbox.drain()
    done, back, kept = inbox.messages
    client.replicaof("127.0.0.1", "1")  # a replica takes no writes
    try:
        done.ack()
        back.reject(requeue=True)
        inbox.drain()
        assert inbox.channel.qos.can_consume_max_estimate() == 2
        assert client.hlen("unacked") == 3
    finally:
        client.replicaof("NO", "ONE")
    inbox.channel.qos.settle()
    inbox.channel.qos.renew(client)
    assert set(client.hkeys("unacked")) == {tag.encode() for tag in (back.delivery_tag, kept.delivery_tag)}
    client.zincrby("unacked_index", -2 * inbox.channel.visibility_timeout, back.delivery_tag)
    inbox.channel.qos.renew(client)
    inbox.channel.qos.restore_visible()
    inbox.drain()
    assert [message.payload for message in inbox.messages] == [0, 1, 2, 1, 3]
