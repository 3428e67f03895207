"""Connections to Redis, and its errors as ours."""

import copy
import socket
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
from shared.config.redis_url import Address
from shared.config.settings import Settings

_LOST = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.BusyLoadingError, OSError)

_UNABLE = ("MISCONF", "NOREPLICAS", "UNBLOCKED", "BUSY")
"""How a server begins that is there and cannot now: its disk is full, say, it has lost its replicas, or a script of
somebody's does not end."""
_UNABLE_TOO = (
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.NoScriptError,
)
"""The same, where redis-py has a class for it and cuts off the beginning: it is a replica now, say, its list of what we
may do has grown shorter, or it was replaced by another between loading a script and running it."""

_ALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
"""A server whose host lost power, or whose network drops what it is sent, says nothing: who waits for news of it finds
out after about ten seconds. Only what this system knows of these is set."""

_NOWHERE = "no sentinel can be reached that knows a living server called {}"
_SENTINEL_PATIENCE = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
"""Seconds for each sentinel: there are others."""


@contextmanager
def translated() -> Iterator[None]:
    """Redis' own errors as ours."""
    try:
        yield
    except _LOST as error:
        raise StoreUnavailable("The queue cannot be reached right now; try again.", retry_after=2) from error
    except redis.exceptions.OutOfMemoryError as error:
        raise QueueFull("The queue's memory is full; try again later.", retry_after=5) from error
    except redis.exceptions.ResponseError as error:
        # In a pipeline redis-py puts the command in front of what the server said.
        said = str(error).rpartition("caused error: ")[2].lstrip("('\"")
        if not isinstance(error, _UNABLE_TOO) and said.partition(" ")[0] not in _UNABLE:
            raise
        raise StoreUnavailable("The queue cannot store anything right now; try again.", retry_after=5) from error


def connect(settings: Settings) -> redis.Redis:
    """The worker's client: waits out a lost server for about half a minute before it gives up."""
    retry = Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=30)
    patience = {"retry": retry, "retry_on_error": list(_LOST), "socket_timeout": 30, "socket_connect_timeout": 5}
    return client(settings.address, **patience, health_check_interval=10)


def client(address: Address, **options: Any) -> redis.Redis:
    """A client that does not wait for others, with those options of redis-py's connections."""
    return redis.Redis.from_pool(connections(address, **options))


def connections(
    address: Address, of: type[redis.connection.AbstractConnection] | None = None, **options: Any
) -> redis.ConnectionPool:
    """A pool of connections to the server; `of` is a subclass of `connection_class(address)`."""
    if address.path:
        options.pop("socket_connect_timeout", None)  # redis-py's connections through a socket know no such thing
    options = {"connection_class": of or connection_class(address), **_own(address), **options}
    if not address.service:
        return redis.ConnectionPool(**options)
    return redis.sentinel.SentinelConnectionPool(address.service, sentinels_of(address), **options)


def sentinels_of(address: Address) -> redis.sentinel.Sentinel:
    """Those who know which server it is at present; each is asked once, and briefly."""
    return _Sentinels(address.hosts, sentinel_kwargs=_of_sentinels(address, Retry(NoBackoff(), 0)))


def connection_class(address: Address) -> type[redis.connection.AbstractConnection]:
    """What reaches that address."""
    if address.path:
        return redis.UnixDomainSocketConnection
    if address.service:
        managed = redis.sentinel.SentinelManagedConnection
        return managed if address.tls is None else redis.sentinel.SentinelManagedSSLConnection
    return redis.Connection if address.tls is None else redis.SSLConnection


def connect_async(settings: Settings) -> "redis.asyncio.Redis":
    """The gateway's client: gives up soon, since somebody is waiting for an answer.

    Callers past the number of connections wait for one: a burst of requests is no reason to tell any that the queue
    cannot be reached.
    """
    address = settings.address
    options = _own(address) | {
        "retry": redis.asyncio.retry.Retry(ExponentialBackoff(cap=0.2, base=0.05), retries=2),
        "socket_timeout": 10,
        "socket_connect_timeout": 2,
        "max_connections": 64,
        "timeout": 30,
    }
    if address.service:
        once = redis.asyncio.retry.Retry(NoBackoff(), 0)
        sentinels = _AsyncSentinels(address.hosts, sentinel_kwargs=_of_sentinels(address, once))
        options["ssl"] = address.tls is not None
        return redis.asyncio.Redis.from_pool(_noticing(_SentinelPool(address.service, sentinels, **options)))
    tcp = redis.asyncio.Connection if address.tls is None else redis.asyncio.SSLConnection
    kind = redis.asyncio.UnixDomainSocketConnection if address.path else tcp
    pool = redis.asyncio.BlockingConnectionPool(connection_class=kind, **options)
    return redis.asyncio.Redis.from_pool(_noticing(pool))


AsyncPool = TypeVar("AsyncPool", bound="redis.asyncio.ConnectionPool")


def _noticing(pool: AsyncPool) -> AsyncPool:
    """With connections that notice when they have been reset."""
    pool.connection_class = type("Noticing", (_Noticing, pool.connection_class), {})
    return pool


class _Noticing(redis.asyncio.connection.AbstractConnection):
    """uvloop has a RuntimeError for who writes to a connection that was reset, where asyncio has an OSError; redis-py
    takes only the latter for a lost connection, which it replaces."""

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            if "handler is closed" not in str(error):
                raise
            raise redis.exceptions.ConnectionError("The connection was reset.") from error


class _SentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """Both: asks the sentinels for each new connection, and has callers wait for one."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


class _Sentinels(redis.sentinel.Sentinel):
    """redis-py moves the sentinel that answered to the front of its list, in which threads that do so at once lose one
    for another that is then there twice. Here each orders a copy. And its error is a page long."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        own = copy.copy(self)
        own.sentinels = list(self.sentinels)
        try:
            found: tuple[str, int] = redis.sentinel.Sentinel.discover_master(own, service_name)
        except redis.sentinel.MasterNotFoundError:
            raise redis.sentinel.MasterNotFoundError(_NOWHERE.format(service_name)) from None
        self.sentinels = own.sentinels
        return found


class _AsyncSentinels(redis.asyncio.sentinel.Sentinel):
    """The same for tasks."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for sentinel in self.sentinels:
            _noticing(sentinel.connection_pool)

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        own = copy.copy(self)
        own.sentinels = list(self.sentinels)
        try:
            found: tuple[str, int] = await redis.asyncio.sentinel.Sentinel.discover_master(own, service_name)
        except redis.asyncio.sentinel.MasterNotFoundError:
            raise redis.asyncio.sentinel.MasterNotFoundError(_NOWHERE.format(service_name)) from None
        self.sentinels = own.sentinels
        return found


def _own(address: Address) -> dict[str, Any]:
    """Options of a connection to the server."""
    if address.path:
        return {"path": address.path, "db": address.db, **address.entry}
    place = {} if address.service else {"host": address.hosts[0][0], "port": address.hosts[0][1]}
    return {**place, "db": address.db, **address.entry, **_lasting(), **(address.tls or {})}


def _of_sentinels(address: Address, once: Any) -> dict[str, Any]:
    """Options of a client of one sentinel."""
    encrypted = {} if address.tls is None else {"ssl": True, **address.tls}
    return {**address.sentinel_entry, **encrypted, **_SENTINEL_PATIENCE, **_lasting(), "retry": once}


def _lasting() -> dict[str, Any]:
    options = {getattr(socket, name): value for name, value in _ALIVE.items() if hasattr(socket, name)}
    return {"socket_keepalive": True, "socket_keepalive_options": options}
