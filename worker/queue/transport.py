"""kombu's Redis transport, changed where it loses messages or takes too many round trips.

kombu pops a message and books it as delivered in a second step; what is killed in between, or stopped while it waits,
loses the message. Here a worker waits for the queue to have something without taking it (BLMOVE of its end to where it
is), and one script then takes and books up to TAKEN messages. The books' times are Redis' own, so that the clocks of
two workers need not agree. Acknowledgements are collected for some milliseconds: one that is lost with its worker makes
a finished job be delivered again, which START refuses. And one client serves all of that, where kombu makes a new one
for every command: of the CPU that a job cost the worker, the transport took a third.

In the queue are callers whose turn it is, and messages that were given back. A caller gives its oldest message and goes
to the end of the queue as long as it has more.

This leans on private names of kombu, as worker/queue/lease.py does: kombu is pinned, and tests kill workers.
"""

import logging
import time
from queue import Empty
from typing import Any

from kombu.asynchronous import get_event_loop
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.json import loads
from redis.exceptions import ResponseError

from shared.config.redis_url import Address
from shared.contract import LISTS_TTL, line_key
from shared.redis_client.connection import connection_class, connections

log = logging.getLogger(__name__)

TAKEN = 8
"""Messages at a time: more would cost no less, and leave less for the next worker."""
ACK_SECONDS = 0.02
UNABLE_SECONDS = 0.5
"""Pause where Redis answers that it cannot do it now: its disk is full, say."""

_ANYWAY = "#!lua flags=allow-oom"  # what is taken makes room in the end
_NOW = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
"""

_TAKE = f"""{_ANYWAY}
local unacked, index, queue = KEYS[1], KEYS[2], KEYS[3]
local most, lines, ttl = tonumber(ARGV[1]), ARGV[2], ARGV[3]
{_NOW}
local taken = {{}}
while #taken < most do
  local raw = redis.call('RPOP', queue)
  if not raw then break end
  if raw:sub(1, 1) ~= '{{' then  -- no message but a caller
    local line = lines .. raw
    local caller = raw
    raw = redis.call('RPOP', line)
    if redis.call('EXISTS', line) == 1 then redis.call('LPUSH', queue, caller) end
  end
  if raw then
    local properties = cjson.decode(raw).properties
    local info = properties.delivery_info
    -- Built from the text itself: encoding it anew would make objects of its empty lists.
    local booked = '[' .. raw .. ',' .. cjson.encode(info.exchange) .. ',' .. cjson.encode(info.routing_key) .. ']'
    redis.call('ZADD', index, now, properties.delivery_tag)
    redis.call('HSET', unacked, properties.delivery_tag, booked)
    taken[#taken + 1] = raw
  end
end
for _, key in ipairs({{unacked, index, queue}}) do redis.call('EXPIRE', key, ttl) end
return taken
"""

_RENEW = f"""{_ANYWAY}
{_NOW}
for _, tag in ipairs(ARGV) do redis.call('ZADD', KEYS[1], 'XX', now, tag) end
"""

# Gives back the messages that are named, or else those that nobody has stamped for so long; to the front, since each
# has waited for longer than whatever waits there.
_RESTORE = f"""{_ANYWAY}
local unacked, index, queue = KEYS[1], KEYS[2], KEYS[3]
{_NOW}
local tags = {{unpack(ARGV, 3)}}
if #tags == 0 then tags = redis.call('ZRANGE', index, '-inf', now - ARGV[1], 'BYSCORE', 'LIMIT', 0, 100) end
for _, tag in ipairs(tags) do
  local booked = redis.call('HGET', unacked, tag)
  redis.call('ZREM', index, tag)
  redis.call('HDEL', unacked, tag)
  if booked then
    local exchange, key = unpack(cjson.decode(booked), 2)
    local tail = ',' .. cjson.encode(exchange) .. ',' .. cjson.encode(key) .. ']'
    redis.call('RPUSH', queue, booked:sub(2, -1 - #tail))
    redis.call('EXPIRE', queue, ARGV[2])
  end
end
return #tags
"""


def install() -> None:
    """Use this transport in this process from now on; to be called before the first connection."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"


class QoS(redis.QoS):
    """The books of what was delivered and not acknowledged yet."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._done: list[str] = []

    def append(self, message: Any, delivery_tag: str) -> None:
        virtual.QoS.append(self, message, delivery_tag)  # TAKE has booked it

    def ack(self, delivery_tag: str) -> None:
        virtual.QoS.ack(self, delivery_tag)
        self._done.append(delivery_tag)
        loop = get_event_loop()
        if loop is None:
            self.settle()
        elif len(self._done) == 1:
            loop.call_later(ACK_SECONDS, self.settle)

    def settle(self) -> None:
        """Strike what was acknowledged from the books, now or as soon as Redis can."""
        done, self._done = self._done, []
        if not done:
            return
        try:
            with self.channel.conn_or_acquire() as client:
                pipe = client.pipeline(transaction=False)
                pipe.zrem(self.unacked_index_key, *done)
                pipe.hdel(self.unacked_key, *done)
                pipe.execute()
        except ResponseError as error:
            log.warning("Redis cannot strike off what was done: %s", error)
            self._done = done + self._done
            if loop := get_event_loop():
                loop.call_later(UNABLE_SECONDS, self.settle)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not requeue:
            self.ack(delivery_tag)
            return
        virtual.QoS.ack(self, delivery_tag)  # not held any more: where Redis cannot take it back now, its time runs out
        self.restore_by_tag(delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        self.channel.restore(tag)

    def renew(self, client: Any) -> None:
        """Stamp anew what is held, through a client of the caller's own."""
        held = [tag for tag in list(self._delivered) if tag not in self._dirty]
        if held:
            client.register_script(_RENEW)(keys=[self.unacked_index_key], args=held)

    def restore_visible(self, start: int = 0, num: int = 0, interval: int = 0) -> None:
        """Give back what nobody has stamped for the visibility timeout."""
        if late := self.channel.restore():
            log.warning("%d jobs of a worker that is gone, or was out of reach, are delivered again", late)


class Channel(redis.Channel):
    QoS = QoS
    from_transport_options: Any = (*redis.Channel.from_transport_options, "address")
    address: Address
    _in_poll: Any
    _brpop_sent_at: Any
    _async_sentinel_manager: Any
    _sentinel_manager: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._kept: Any = None
        self._consumed = ""
        super().__init__(*args, **kwargs)

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous)
        if self._kept is None:
            self._kept = super()._create_client()
            self._take = self._kept.register_script(_TAKE)
            self._restoring = self._kept.register_script(_RESTORE)
        return self._kept

    def _get_pool(self, asynchronous: bool = False) -> Any:
        """Connections of `shared.redis_client`, so that one spelling of a URL is enough, sentinels included."""
        kind = connection_class(self.address)
        pool = connections(
            self.address,
            _watched(kind, self) if asynchronous else kind,
            socket_timeout=self.socket_timeout,
            socket_connect_timeout=self.socket_connect_timeout,
            health_check_interval=self.health_check_interval,
        )
        manager = "_async_sentinel_manager" if asynchronous else "_sentinel_manager"  # which kombu closes with the pool
        setattr(self, manager, getattr(pool, "sentinel_manager", None))
        return pool

    def _queue(self) -> str:
        """The one that is consumed, or was until a moment ago."""
        for queue in self.active_queues:
            self._consumed = str(queue)
        return self._consumed

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        queue, patience = self._queue(), self.brpop_timeout if timeout is None else timeout
        self._in_poll.send_command("BLMOVE", queue, queue, "RIGHT", "RIGHT", patience or 0)

    def _brpop_read(self, **options: Any) -> bool:
        connection = self.client.connection
        try:
            something = self.client.parse_response(connection, "BLMOVE", **options)
        except ResponseError as error:
            self._unable(error)
            something = b""  # a full memory refuses to wait, but not to take
        except self.connection_errors:
            connection.disconnect()
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        if something is None or not self._deliver():
            raise Empty
        return True

    def _deliver(self) -> bool:
        """Take what there is room for; whether there was anything: another worker may have been quicker."""
        room = self.qos.can_consume_max_estimate()
        most = TAKEN if room is None else min(TAKEN, room)
        client, queue = self._create_client(), self._queue()
        try:
            taken = self._take(
                keys=[self.qos.unacked_key, self.qos.unacked_index_key, queue],
                args=[most, line_key(""), LISTS_TTL],
                client=client,
            )
        except ResponseError as error:
            self._unable(error)
            return False
        for raw in taken:
            self.connection._deliver(loads(raw.decode()), queue)
        return bool(taken)

    def restore(self, *tags: str) -> int:
        """Give back messages; without naming any, those that nobody has stamped for the visibility timeout."""
        if not (queue := self._queue()):
            return 0
        client, keys = self._create_client(), [self.unacked_key, self.unacked_index_key, queue]
        try:
            return int(self._restoring(keys=keys, args=[self.visibility_timeout, LISTS_TTL, *tags], client=client))
        except ResponseError as error:
            self._unable(error)
            return 0

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        self.restore(message.delivery_tag)

    @staticmethod
    def _unable(error: ResponseError) -> None:
        log.warning("Redis cannot do what the queue needs: %s", error)
        time.sleep(UNABLE_SECONDS)

    def close(self) -> None:
        if self._kept is not None and not self.closed:
            self.qos.settle()
        super().close()


def _watched(kind: type[Any], channel: Channel) -> type[Any]:
    """Connections that tell their channel when they are lost, so that it does not wait for what they would bring."""

    class Watched(kind):  # type: ignore[misc]
        def disconnect(self, *args: Any, **kwargs: Any) -> None:
            super().disconnect(*args, **kwargs)
            if channel._registered:
                channel._on_connection_disconnect(self)

    return Watched


class Transport(redis.Transport):
    Channel = Channel
