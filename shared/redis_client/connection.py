"""Connections to Redis for gateway and worker, and redis-py's exceptions mapped to ours."""

import asyncio
import copy
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from otoscope.errors import QueueFull, StoreUnavailable
from shared.config.redis_url import RedisURL
from shared.config.settings import Settings

_LOST = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.BusyLoadingError, OSError)

_TEMPORARY_CODES = ("MISCONF", "NOREPLICAS", "UNBLOCKED", "BUSY")
"""Error codes of a server that is reachable and cannot serve for the moment: its disk is full, it has lost its
replicas, or another client's script does not end."""
_TEMPORARY_ERRORS = (
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.NoScriptError,
)
"""The same, where redis-py has an exception class and strips the code: the server has become a replica, its ACL permits
us less than before, or a failover came between SCRIPT LOAD and EVALSHA."""

_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}  # s, s, probes, ms
"""A server whose host lost power, or whose network drops packets, sends nothing, not even a reset. With these a blocked
reader gets an error after about ten seconds. Options that this system lacks are left out."""

_CONNECT_SECONDS = 2
"""In which a server accepts a connection of the gateway, and in which it answers what redis-py asks it first."""

_NO_MASTER = "no reachable sentinel reports a running server called {}"
_SENTINEL_TIMEOUTS = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
"""Seconds for each sentinel: the next one may answer."""


@contextmanager
def map_redis_errors() -> Iterator[None]:
    """Raises StoreUnavailable or QueueFull in place of redis-py's exceptions for a server that cannot serve."""
    try:
        yield
    except _LOST as error:
        raise StoreUnavailable("The queue cannot be reached right now; try again.", retry_after=2) from error
    except redis.exceptions.OutOfMemoryError as error:
        raise QueueFull("The queue's memory is full; try again later.", retry_after=5) from error
    except redis.exceptions.ResponseError as error:
        # For a pipeline redis-py prefixes the server's message with the command.
        message = str(error).rpartition("caused error: ")[2].lstrip("('\"")
        if not isinstance(error, _TEMPORARY_ERRORS) and message.partition(" ")[0] not in _TEMPORARY_CODES:
            raise
        raise StoreUnavailable("The queue cannot store anything right now; try again.", retry_after=5) from error


def was_refused(error: StoreUnavailable) -> bool:
    """Whether the server has replied that it cannot serve: it has done nothing then. Without a reply it may have."""
    return isinstance(error.__cause__, redis.exceptions.ResponseError | redis.exceptions.BusyLoadingError)


def connect(settings: Settings) -> redis.Redis:
    """The worker's client: retries for about half a minute while the server is away."""
    retry = Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=30)
    options = {"retry": retry, "retry_on_error": list(_LOST), "socket_timeout": 30, "socket_connect_timeout": 5}
    return new_client(settings.redis, **options, health_check_interval=10)


def new_client(url: RedisURL, **options: Any) -> redis.Redis:
    """A client whose callers never wait for a free connection; `options` are those of redis-py's connections."""
    return redis.Redis.from_pool(connection_pool(url, **options))


def connection_pool(
    url: RedisURL, of: type[redis.connection.AbstractConnection] | None = None, **options: Any
) -> redis.ConnectionPool:
    """A pool of connections to the server; `of` is a subclass of `connection_class(url)`."""
    if url.path:
        options.pop("socket_connect_timeout", None)  # redis-py's Unix socket connections do not accept it
    options = {"connection_class": of or connection_class(url), **_server_options(url), **options}
    if not url.service:
        return redis.ConnectionPool(**options)
    return redis.sentinel.SentinelConnectionPool(url.service, sentinel_manager(url), **options)


def sentinel_manager(url: RedisURL) -> redis.sentinel.Sentinel:
    """The sentinels, which know the current server; each is tried once, with a short timeout."""
    return _Sentinels(url.hosts, sentinel_kwargs=_sentinel_options(url, Retry(NoBackoff(), 0)))


def connection_class(url: RedisURL) -> type[redis.connection.AbstractConnection]:
    """redis-py's class of connections for that URL."""
    if url.path:
        return redis.UnixDomainSocketConnection
    if url.service:
        managed = redis.sentinel.SentinelManagedConnection
        return managed if url.tls is None else redis.sentinel.SentinelManagedSSLConnection
    return redis.Connection if url.tls is None else redis.SSLConnection


def connect_async(settings: Settings, server: int = 0) -> "redis.asyncio.Redis":
    """The gateway's client of the server with that number: gives up within seconds, since an HTTP caller is waiting.
    A lost connection is tried again; a server that does not answer in time is not, since that could take a minute.

    When all 64 connections are in use a caller waits for one: a burst of requests must not end in "the queue cannot be
    reached".
    """
    url = settings.redis_servers[server]
    options = _server_options(url) | {
        "retry": redis.asyncio.retry.Retry(
            ExponentialBackoff(cap=0.2, base=0.05), 2, supported_errors=(redis.exceptions.ConnectionError,)
        ),
        "socket_timeout": 10,
        "socket_connect_timeout": _CONNECT_SECONDS,
        "max_connections": 64,
        "timeout": 30,
    }
    if url.service:
        once = redis.asyncio.retry.Retry(NoBackoff(), 0)
        sentinels = _AsyncSentinels(url.hosts, sentinel_kwargs=_sentinel_options(url, once))
        options["ssl"] = url.tls is not None
        return redis.asyncio.Redis.from_pool(_detecting_resets(_SentinelPool(url.service, sentinels, **options)))
    tcp = redis.asyncio.Connection if url.tls is None else redis.asyncio.SSLConnection
    kind = redis.asyncio.UnixDomainSocketConnection if url.path else tcp
    pool = redis.asyncio.BlockingConnectionPool(connection_class=kind, **options)
    return redis.asyncio.Redis.from_pool(_detecting_resets(pool))


AsyncPool = TypeVar("AsyncPool", bound="redis.asyncio.ConnectionPool")


def _detecting_resets(pool: AsyncPool) -> AsyncPool:
    """The same pool with connections that report a reset as redis-py's ConnectionError."""
    pool.connection_class = type("ResetDetecting", (_ResetDetecting, pool.connection_class), {})
    return pool


def certificate_expiry(client: "redis.asyncio.Redis") -> float | None:
    """When the certificate that the server showed last expires, in seconds since 1970; None without TLS."""
    expiry: float | None = getattr(client.connection_pool.connection_class, "certificate_expiry", None)
    return expiry


class _ResetDetecting(redis.asyncio.connection.AbstractConnection):
    """Writing to a connection that was reset raises RuntimeError under uvloop, where asyncio raises an OSError
    (https://github.com/MagicStack/uvloop/issues/506). redis-py replaces a connection after an OSError only."""

    certificate_expiry: float | None = None
    """Of all connections of a pool, each of which has a class of its own."""

    async def on_connect(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):  # redis-py allows each of its commands a whole reply's time
                await self._greet()
        except TimeoutError:
            raise redis.exceptions.TimeoutError("The server accepts connections, and does not answer.") from None

    async def _greet(self) -> None:
        certificate = self._writer.get_extra_info("peercert") if self._writer else None
        if certificate:
            type(self).certificate_expiry = ssl.cert_time_to_seconds(certificate["notAfter"])
        await super().on_connect()

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            if "handler is closed" not in str(error):
                raise
            raise redis.exceptions.ConnectionError("The connection was reset.") from error


class _SentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """Looks the server up at the sentinels for each new connection, and makes callers wait for a free one."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


class _Sentinels(redis.sentinel.Sentinel):
    """A Sentinel whose `discover_master` is safe to call from several threads, with a short error message.

    redis-py swaps the sentinel that answered with the first one of the shared list while it iterates over that list:
    of two threads that do so at once, one can lose a sentinel and store another one twice, for good
    (https://github.com/redis/redis-py/pull/4331 discusses the same of a later version). Here each call works on a copy
    of the list and replaces the list at its end.
    """

    def discover_master(self, service_name: str) -> tuple[str, int]:
        own = copy.copy(self)
        own.sentinels = list(self.sentinels)
        try:
            found: tuple[str, int] = redis.sentinel.Sentinel.discover_master(own, service_name)
        except redis.sentinel.MasterNotFoundError:  # its message quotes every sentinel with all its options
            raise redis.sentinel.MasterNotFoundError(_NO_MASTER.format(service_name)) from None
        self.sentinels = own.sentinels
        return found


class _AsyncSentinels(redis.asyncio.sentinel.Sentinel):
    """The same for tasks, of which several look the server up at once, too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for sentinel in self.sentinels:
            _detecting_resets(sentinel.connection_pool)

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        own = copy.copy(self)
        own.sentinels = list(self.sentinels)
        try:
            found: tuple[str, int] = await redis.asyncio.sentinel.Sentinel.discover_master(own, service_name)
        except redis.asyncio.sentinel.MasterNotFoundError:
            raise redis.asyncio.sentinel.MasterNotFoundError(_NO_MASTER.format(service_name)) from None
        self.sentinels = own.sentinels
        return found


def _server_options(url: RedisURL) -> dict[str, Any]:
    """redis-py's options of a connection to the server."""
    if url.path:
        return {"path": url.path, "db": url.db, **url.credentials}
    host = {} if url.service else {"host": url.hosts[0][0], "port": url.hosts[0][1]}
    return {**host, "db": url.db, **url.credentials, **_keepalive(), **(url.tls or {})}


def _sentinel_options(url: RedisURL, retry: Any) -> dict[str, Any]:
    """redis-py's options of a client of one sentinel."""
    tls = {} if url.tls is None else {"ssl": True, **url.tls}
    return {**url.sentinel_credentials, **tls, **_SENTINEL_TIMEOUTS, **_keepalive(), "retry": retry}


def _keepalive() -> dict[str, Any]:
    options = {getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)}
    return {"socket_keepalive": True, "socket_keepalive_options": options}
