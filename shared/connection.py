"""Connections to Redis, and its errors as ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis
import redis.asyncio
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from shared.errors import QueueFull, StoreUnavailable
from shared.settings import Settings

_LOST = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.BusyLoadingError, OSError)

_UNABLE = ("MISCONF", "READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN")
"""How a server begins that is there and cannot write: its disk is full, say, or it is a replica now."""


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
        if str(error).partition(" ")[0] not in _UNABLE:
            raise
        raise StoreUnavailable("The queue cannot store anything right now; try again.", retry_after=5) from error


def connect(settings: Settings) -> redis.Redis:
    """The worker's client: waits out a lost server for about half a minute before it gives up."""
    retry = Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=30)
    return redis.Redis.from_url(
        settings.redis_url, retry=retry, retry_on_error=list(_LOST), socket_timeout=30, health_check_interval=10
    )


def connect_async(settings: Settings) -> "redis.asyncio.Redis":
    """The gateway's client: gives up soon, since somebody is waiting for an answer.

    Callers past the number of connections wait for one: a burst of requests is no reason to tell any that the queue
    cannot be reached.
    """
    retry = redis.asyncio.retry.Retry(ExponentialBackoff(cap=0.2, base=0.05), retries=2)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.redis_url, retry=retry, socket_timeout=10, socket_connect_timeout=2, max_connections=64, timeout=30
    )
    return redis.asyncio.Redis.from_pool(pool)
