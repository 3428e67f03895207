"""What Otoscope asks of Redis, looked at once when a process starts: what no waiting will mend is said at once.

A Redis that is not there yet is waited for as ever. A wrong password, a certificate that was signed by somebody else, a
cluster: those end the process, with one sentence that says what to change.
"""

import logging
import ssl
from collections.abc import Iterator

import redis

from shared.config.redis_url import Address
from shared.config.settings import Settings
from shared.redis_client.connection import client, sentinels_of

log = logging.getLogger(__name__)

OLDEST = 7
"""Major version of Redis; every Valkey answers with a later one than that."""


class RedisUnusable(Exception):
    """Not a matter of time. The message names the setting and holds no password."""

    def __init__(self, why: str) -> None:
        super().__init__(f"OTOSCOPE_REDIS_URL: {why}")


def look(settings: Settings) -> None:
    """Raises RedisUnusable; logs what is only unwise, and that Redis cannot be reached, within some ten seconds."""
    address = settings.address
    try:
        if address.service:
            _look_at_sentinels(address)
        with client(address, socket_timeout=5, socket_connect_timeout=5) as own:
            found = own.info()
    except redis.exceptions.NoPermissionError as error:
        raise RedisUnusable(f"Redis does not let us do what we must: {error}") from error
    except (redis.exceptions.RedisError, OSError) as error:
        if why := _for_good(error, "Redis", address.tls is not None):
            raise RedisUnusable(why) from error
        log.warning("Redis cannot be reached yet: %s", error)
        return
    if found.get("cluster_enabled"):
        raise RedisUnusable("Redis runs as a cluster, which spreads keys that belong together; use a single server")
    if int(str(found["redis_version"]).partition(".")[0]) < OLDEST:
        raise RedisUnusable(f"Redis {found['redis_version']} is too old; {OLDEST}.0 is the first that will do")
    if (policy := found.get("maxmemory_policy")) != "noeviction" and found.get("maxmemory"):
        log.warning(
            "Redis throws jobs away when its memory is full: its maxmemory-policy is %s, not noeviction", policy
        )


def _look_at_sentinels(address: Address) -> None:
    """Raises RedisUnusable where all that can be reached refuse us or do not know the server."""
    refused: list[str] = []
    for sentinel in sentinels_of(address).sentinels:
        with sentinel:
            try:
                if address.service in sentinel.sentinel_masters():
                    return
                refused.append(f"the sentinels know no server that is called {address.service}")
            except (redis.exceptions.RedisError, OSError) as error:
                refused += filter(None, [_for_good(error, "a sentinel", address.tls is not None)])
    if refused:
        raise RedisUnusable(refused[0])


def _for_good(error: BaseException, who: str, encrypted: bool) -> str:
    """What is wrong where it will not go away; nothing where it may."""
    for one in _chain(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"the certificate of {who} is not accepted: {one.verify_message}"
        if isinstance(one, ssl.SSLError) and "ALERT" in str(one):
            return f"{who} refuses our certificate, or asks for one: {one.reason}"
        if isinstance(one, ssl.SSLEOFError | ConnectionResetError | BrokenPipeError) and encrypted:
            # With TLS 1.3 a client is done before the server has seen its certificate: the alert may come too late.
            return f"{who} hangs up on us, as one does that asks for a certificate, or for another (ssl_certfile)"
        if isinstance(one, redis.exceptions.AuthenticationError):
            return f"{who} refuses the user or password that it is told, or asks for one"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
