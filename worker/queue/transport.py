"""A kombu transport that delivers the job ids which the gateway queued in Redis (`shared.contract.QUEUE`).

It is kombu's Redis transport, changed where that can lose messages or needs too many round trips:

- kombu pops a message with BRPOP and records it as unacknowledged in a second step. A worker that is killed in between,
  or stopped while it waits, loses the message (celery/kombu#305, celery/celery#4354, celery/celery#7950). Here a worker
  waits with BLMOVE from the end of the list to the same end, which changes nothing, and one script then takes up to
  DELIVERED_AT_ONCE jobs and records them.
- kombu records deliveries with the worker's clock. Where the clocks of two hosts differ by more than the visibility
  timeout, each would requeue the other's jobs. Here the times are those of Redis.
- kombu makes a new client for every command and acknowledges each message by itself, which was a third of the CPU time
  of a job in the worker outside the network. Here one client serves a channel, and acknowledgements are collected for
  some milliseconds. One that is lost with its worker causes a second delivery of a finished job, which is then skipped.

The callers of the gateway take turns: the caller whose turn it is gives its oldest job and moves to the end. A requeued
job comes before all others. A worker is given the jobs of the models that it serves, and as much sound as it has room
for; the others stay in the queue for another worker.

This uses private names of kombu, as worker/queue/lease.py does of Celery. So kombu is pinned, and tests kill workers.
"""

import logging
import time
from collections.abc import Callable, Iterable
from queue import Empty
from typing import Any

import msgpack
from kombu.asynchronous import get_event_loop
from kombu.transport import TRANSPORT_ALIASES, _transport_cache, redis, virtual
from redis.exceptions import ResponseError

from shared.config.redis_url import RedisURL
from shared.contract import INDEX_TTL, UNACKED, job_key, queue_key
from shared.outage_log import OutageLog
from shared.redis_client.connection import connection_class, connection_pool
from shared.redis_client.lua import load_script

log = logging.getLogger(__name__)

DELIVERED_AT_ONCE = 8
"""Jobs taken by one script: with more the cost of each hardly falls, and less is left for the other workers."""
GATHER_SECONDS = 0.004
"""Pause between two deliveries while every lane has work: jobs that come one by one are then delivered together."""
ACK_SECONDS = 0.05
"""How long acknowledgements are collected at most; the next delivery sends them, too."""
RETRY_SECONDS = 0.5
"""Pause after an answer that Redis cannot do something now, for instance because its disk is full."""

RUNNABLE_SECONDS = 0.1
"""Pause of a worker that can run none of the queued jobs."""


def install() -> None:
    """Use this transport for all connections that this process opens from now on.

    An alias of kombu's is replaced, since a transport class given to a Connection is ignored for URLs like
    `redis+socket://…`.
    """
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
        _transport_cache.pop(scheme, None)


class QoS(redis.QoS):
    """The deliveries that were not acknowledged yet. The delivery tag of a message is the ids of its jobs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._acked: list[str] = []
        self._held: dict[str, list[str]] = {}  # by delivery tag: ids of its jobs that were not acknowledged yet
        self.weights: dict[str, float] = {}  # by delivery tag: seconds of the long sounds
        self._renew = load_script("worker.queue", "renew")

    @property
    def held(self) -> list[str]:
        """The ids of all jobs that were not acknowledged yet."""
        return [job_id for ids in list(self._held.values()) for job_id in ids]

    @property
    def messages(self) -> int:
        """How many deliveries were not acknowledged yet."""
        return len(self._held)

    def can_consume(self) -> bool:
        room = self.can_consume_max_estimate()
        if room is None or room >= DELIVERED_AT_ONCE:
            return True
        # While groups run in all lanes, one of them will make room for a whole group; until then a smaller one would
        # only cut it.
        groups = sum(len(ids) > 1 for ids in self._held.values())
        return room > 0 and not groups >= self.channel.lanes > 0

    def can_consume_max_estimate(self) -> int | None:
        """How many further jobs there is room for; None: any number."""
        return max(self.prefetch_count - len(self.held), 0) if self.prefetch_count else None

    def append(self, message: Any, delivery_tag: str) -> None:
        virtual.QoS.append(self, message, delivery_tag)  # the delivering script has recorded it in Redis
        self._held[delivery_tag] = delivery_tag.split()

    def ack(self, delivery_tag: str) -> None:
        self._acknowledge(self._forget(delivery_tag))

    def acknowledge(self, job_id: str) -> None:
        """One job of a message whose other jobs still run. Nothing happens if there is no such job."""
        for tag, ids in self._held.items():
            if job_id in ids:
                self._held[tag] = [other for other in ids if other != job_id]
                self._acknowledge([job_id])

    def _acknowledge(self, job_ids: list[str]) -> None:
        first = not self._acked
        self._acked += job_ids
        loop = get_event_loop()
        if loop is None:
            self.flush_acks()
        elif first and job_ids:
            loop.call_later(ACK_SECONDS, self.flush_acks)

    def _forget(self, delivery_tag: str) -> list[str]:
        """The ids of its jobs that were not acknowledged yet."""
        virtual.QoS.ack(self, delivery_tag)
        self.weights.pop(delivery_tag, None)
        return self._held.pop(delivery_tag, [])

    def flush_acks(self) -> None:
        """Send the collected acknowledgements, now or as soon as Redis can write."""
        if not (acked := self.take_acks()):
            return
        try:
            with self.channel.conn_or_acquire() as client:
                client.zrem(self.unacked_index_key, *acked)
        except ResponseError as error:
            self.channel.note_refusal(error)
            self.keep_acks(acked)

    def take_acks(self) -> list[str]:
        """The collected acknowledgements, which the caller sends."""
        acked, self._acked = self._acked, []
        return acked

    def keep_acks(self, acked: list[str]) -> None:
        """They could not be sent."""
        self._acked = acked + self._acked
        if acked and (loop := get_event_loop()):
            loop.call_later(RETRY_SECONDS, self.flush_acks)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not requeue:
            self.ack(delivery_tag)
            return
        # Their places are free here: if requeueing fails now, their leases expire.
        if job_ids := self._forget(delivery_tag):
            self.channel.requeue(*job_ids)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        if job_ids := self._held.pop(tag, []):
            self.channel.requeue(*job_ids)

    def renew(self, client: Any) -> bool:
        """Renew the leases of the jobs in flight, through a client of the calling thread's own; whether there were
        any."""
        if held := self.held:
            client.register_script(self._renew)(keys=[self.unacked_index_key], args=held)
        return bool(held)

    def restore_visible(self, start: int = 0, num: int = 0, interval: int = 0) -> None:
        """Requeue the jobs whose lease has expired, of whichever worker."""
        if expired := self.channel.requeue():
            log.warning("%d jobs are delivered again: their worker died or lost its connection", expired)


class Channel(redis.Channel):
    QoS = QoS
    from_transport_options: Any = (
        *redis.Channel.from_transport_options,
        *("redis_url", "message_for", "served_models", "lanes", "max_sound_in_flight"),
    )
    unacked_index_key = UNACKED
    redis_url: RedisURL
    message_for: Callable[..., dict[str, Any]]
    """Makes the message of job ids; see TaskMessage.for_jobs."""
    served_models: Callable[[], Iterable[str]] | None = None
    """The models whose jobs are taken; None: of every model."""
    lanes: int = 0
    """Messages that should run at the same time, so that every core has work; 0: each job has a message of its own."""
    max_sound_in_flight: float
    """Seconds of long sounds that are taken at once at most."""
    _in_poll: Any
    _brpop_sent_at: Any
    _async_sentinel_manager: Any
    _sentinel_manager: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._kept_client: Any = None
        self._consumed = ""
        self._paused_until = 0.0  # on the clock of time.monotonic
        self._refused_at = 0.0  # on the same clock
        self._outage = OutageLog(log, "Redis cannot serve the queue now", "Redis serves the queue again")
        super().__init__(*args, **kwargs)

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous)
        if self._kept_client is None:
            self._kept_client = super()._create_client()
            self._deliver_script = self._kept_client.register_script(load_script("worker.queue", "deliver"))
            self._requeue_script = self._kept_client.register_script(load_script("worker.queue", "requeue"))
        return self._kept_client

    def _get_pool(self, asynchronous: bool = False) -> Any:
        """Connections of `shared.redis_client`, so that every kind of OTOSCOPE_REDIS_URL works, sentinels included."""
        kind = connection_class(self.redis_url)
        pool = connection_pool(
            self.redis_url,
            _reporting(kind, self) if asynchronous else kind,
            socket_timeout=self.socket_timeout,
            socket_connect_timeout=self.socket_connect_timeout,
            health_check_interval=self.health_check_interval,
        )
        manager = "_async_sentinel_manager" if asynchronous else "_sentinel_manager"  # kombu closes it with the pool
        setattr(self, manager, getattr(pool, "sentinel_manager", None))
        return pool

    def _queue(self) -> str:
        """The queue that is consumed, also just after its consumer was cancelled."""
        for queue in self.active_queues:
            self._consumed = str(queue)
        return self._consumed

    def _brpop_start(self, timeout: float | None = None) -> None:
        if (pause := self._paused_until - time.monotonic()) > 0:
            if get_event_loop():
                return  # until the timer of `_pause`
            time.sleep(pause)
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        queue, seconds = self._queue(), self.brpop_timeout if timeout is None else timeout
        self._in_poll.send_command("BLMOVE", queue, queue, "RIGHT", "RIGHT", seconds or 0)

    def _brpop_read(self, **options: Any) -> bool:
        connection = self.client.connection
        try:
            turn = self.client.parse_response(connection, "BLMOVE", **options)
        except ResponseError as error:
            self._refused(error)
            turn = b""  # at its memory limit Redis refuses BLMOVE, but not the delivering script
        except self.connection_errors:
            connection.disconnect()
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        delivered = turn is not None and self._deliver()
        if self._refused_at < self._brpop_sent_at:
            self._outage.succeeded()
        if turn is None:
            raise Empty
        if not delivered:
            # There are jobs, for other workers: BLMOVE would be answered at once, again and again.
            self._pause(RUNNABLE_SECONDS)
            raise Empty
        return True

    def _deliver(self) -> bool:
        """Take as many jobs as there is room for; False where there was none that this worker can run, or where another
        worker was faster."""
        room = self.qos.can_consume_max_estimate()
        limit = DELIVERED_AT_ONCE if room is None else min(DELIVERED_AT_ONCE, room)
        client, queue, acked = self._create_client(), self._queue(), self.qos.take_acks()
        try:
            delivered = self._deliver_script(
                keys=[queue, self.unacked_index_key], args=[self._deliver_args(limit, acked)], client=client
            )
        except ResponseError as error:
            self.qos.keep_acks(acked)
            self._refused(error)
            return False
        short: list[str] = []
        for raw_id, redelivered, weight in delivered:
            job_id = raw_id.decode()
            if self.lanes and not redelivered and not weight:
                short.append(job_id)
                continue
            if weight:
                self.qos.weights[job_id] = weight
            self.connection._deliver(self.message_for(job_id, redelivered=bool(redelivered)), queue)
        if short:
            # Lanes without work share them; while all have work, they stay together.
            groups = max(1, self.lanes - self.qos.messages)
            for lane in range(min(groups, len(short))):
                self.connection._deliver(self.message_for(*short[lane::groups]), queue)
        if self.lanes and self.qos.messages >= self.lanes:
            self._pause(GATHER_SECONDS)
        return bool(delivered)

    def _deliver_args(self, limit: int, acked: list[str]) -> bytes:
        arguments = {
            "limit": limit,
            "acked": acked,
            "queue_prefix": queue_key(""),
            "job_prefix": job_key(""),
            "ttl": INDEX_TTL,
            "weight": self.max_sound_in_flight - sum(list(self.qos.weights.values())),
        }
        if self.served_models is not None:
            arguments["models"] = list(self.served_models())
        return msgpack.packb(arguments)  # type: ignore[no-any-return]

    def requeue(self, *job_ids: str) -> int:
        """Requeue these unacknowledged jobs, or without any those whose lease has expired; returns how many."""
        if not (queue := self._queue()):
            return 0
        client, keys = self._create_client(), [queue, self.unacked_index_key]
        try:
            return int(
                self._requeue_script(keys=keys, args=[self.visibility_timeout, INDEX_TTL, *job_ids], client=client)
            )
        except ResponseError as error:
            self._refused(error)
            return 0

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        self.qos.restore_by_tag(message.delivery_tag)

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        """Jobs are queued by the gateway's `submit` script alone, together with their record."""
        raise NotImplementedError("this transport only delivers; shared.jobs.AsyncJobStore.submit queues jobs")

    def _pause(self, seconds: float) -> None:
        """Take no jobs for so long."""
        self._paused_until = time.monotonic() + seconds
        if loop := get_event_loop():
            loop.call_later(seconds, _wake_up)

    def note_refusal(self, error: ResponseError) -> None:
        """Redis cannot do something now."""
        self._refused_at = time.monotonic()
        self._outage.failed(error)

    def _refused(self, error: ResponseError) -> None:
        self.note_refusal(error)
        time.sleep(RETRY_SECONDS)

    def close(self) -> None:
        if self._kept_client is not None and not self.closed:
            self.qos.flush_acks()
        super().close()


def _wake_up() -> None:
    """A timer with nothing to do: it ends the event loop's wait, after which the queue is polled again."""


def _reporting(kind: type[Any], channel: Channel) -> type[Any]:
    """Connections that report their loss to the channel, so that it does not wait for a reply on a closed one."""

    class ReportingConnection(kind):  # type: ignore[misc]
        def disconnect(self, *args: Any, **kwargs: Any) -> None:
            super().disconnect(*args, **kwargs)
            if channel._registered:
                channel._on_connection_disconnect(self)

    return ReportingConnection


class Transport(redis.Transport):
    Channel = Channel
