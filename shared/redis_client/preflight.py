"""The preflight check of Redis at the start of a process: a fault that waiting does not cure ends the process at once.

A Redis that cannot be reached is waited for. A wrong password, a certificate of an unknown CA or a cluster end the
process, with one sentence that names what to change.
"""

import logging
import math
import ssl
from collections.abc import Iterator

import redis

from shared.config.redis_url import RedisURL
from shared.config.settings import Settings
from shared.redis_client.connection import new_client, sentinel_manager

log = logging.getLogger(__name__)

MINIMUM_VERSION = 7
"""Major version of Redis; every Valkey reports a later one."""


_EMPTY_BYTES = 8 * 2**20
"""What Redis uses without jobs, and the largest usual result (`shared.results.largest_result`)."""


class PreflightError(Exception):
    """A permanent fault. The message names the setting and contains no password."""

    def __init__(self, why: str, setting: str = "OTOSCOPE_REDIS_URL") -> None:
        super().__init__(f"{setting}: {why}")


def check(settings: Settings) -> None:
    """Check each server. Raises PreflightError. Logs a warning for an unsafe configuration, or where a server cannot be
    reached within 10 s."""
    servers = settings.redis_servers
    for number, url in enumerate(servers):
        _check_server(settings, url, f"Redis server {number}" if servers[1:] else "Redis")


def _check_server(settings: Settings, url: RedisURL, server: str) -> None:
    """`server` is its name in messages."""
    try:
        if url.service:
            _check_sentinels(url)
        with new_client(url, socket_timeout=5, socket_connect_timeout=5) as client:
            found = client.info()
    except redis.exceptions.NoPermissionError as error:
        raise PreflightError(f"{server} denies a command that is needed: {error}") from error
    except (redis.exceptions.RedisError, OSError) as error:
        if why := _permanent_fault(error, server, url.tls is not None):
            raise PreflightError(why) from error
        log.warning("%s cannot be reached yet: %s", server, error)
        return
    if found.get("cluster_enabled"):
        raise PreflightError(f"{server} runs in cluster mode, which keeps related keys on different nodes; turn it off")
    if int(str(found["redis_version"]).partition(".")[0]) < MINIMUM_VERSION:
        raise PreflightError(f"{server} is too old ({found['redis_version']}); {MINIMUM_VERSION}.0 or newer is needed")
    _check_memory(settings, server, found.get("maxmemory") or 0)
    if (policy := found.get("maxmemory_policy")) != "noeviction" and found.get("maxmemory"):
        log.warning(
            "%s evicts jobs when its memory is full: its maxmemory-policy is %s, not noeviction", server, policy
        )


def _check_memory(settings: Settings, server: str, limit: int) -> None:
    """Raises PreflightError where the largest upload could never be accepted. `limit` is in bytes, 0 for none."""
    share, upload = settings.redis_memory_share, settings.max_upload_bytes
    if not limit or upload + _EMPTY_BYTES <= share * limit:
        return
    smallest, largest = math.ceil((upload + _EMPTY_BYTES) / share), math.floor(share * limit - _EMPTY_BYTES)
    remedy = f"set maxmemory of {server} to {smallest:,} or more"
    if largest >= 1024:
        remedy += f", or OTOSCOPE_MAX_UPLOAD_BYTES to {largest:,} or less"
    raise PreflightError(
        f"an upload of {upload:,} bytes does not fit into {share:.0%} of the memory limit of {server}, {limit:,}"
        f" bytes; {remedy}",
        setting="OTOSCOPE_MAX_UPLOAD_BYTES",
    )


def _check_sentinels(url: RedisURL) -> None:
    """Raises PreflightError where every reachable sentinel rejects us or does not monitor the server."""
    faults: list[str] = []
    for sentinel in sentinel_manager(url).sentinels:
        with sentinel:
            try:
                if url.service in sentinel.sentinel_masters():
                    return
                faults.append(f"the sentinels monitor no server called {url.service}")
            except (redis.exceptions.RedisError, OSError) as error:
                faults += filter(None, [_permanent_fault(error, "a sentinel", url.tls is not None)])
    if faults:
        raise PreflightError(faults[0])


def _permanent_fault(error: BaseException, server: str, encrypted: bool) -> str:
    """What is wrong, where waiting does not cure it; empty where it may."""
    for one in _chain(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"the certificate of {server} is not accepted: {one.verify_message}"
        if isinstance(one, ssl.SSLError) and "ALERT" in str(one):
            return f"{server} rejects our certificate, or requires one: {one.reason}"
        if isinstance(one, ssl.SSLEOFError | ConnectionResetError | BrokenPipeError) and encrypted:
            # With TLS 1.3 (RFC 8446) the client's handshake is over before the server has checked its certificate: the
            # connection may be closed before the alert is read.
            return f"{server} closes the connection: it may require a certificate, or a different one (ssl_certfile)"
        if isinstance(one, redis.exceptions.AuthenticationError):
            return f"{server} rejects the user or password, or requires one"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
