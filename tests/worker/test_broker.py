"""kombu's Redis transport as the worker uses it, on a real Redis: what waits is taken along, booked, struck off."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Queue

from worker.broker import TAKEN, Transport

QUEUE = Queue("taken")


@pytest.fixture
def client(redis_socket: Path) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(redis_socket)) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def connection(redis_socket: Path) -> Iterator[Connection]:
    with Connection(f"redis+socket://{redis_socket}", transport=Transport) as connection:
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
    """All of it, once its books are older than the visibility timeout."""
    send(connection, *range(TAKEN))
    dead = Inbox(connection)
    dead.drain()
    assert client.llen("taken") == 0
    dead.channel.client.connection.disconnect()  # as its end would; it waits for the next message no more
    client.zadd("unacked_index", dict.fromkeys([m.delivery_tag for m in dead.messages], 1.0))
    connection.channel().qos.restore_visible(num=100, interval=1)
    assert client.llen("taken") == TAKEN
    assert client.hlen("unacked") == 0
